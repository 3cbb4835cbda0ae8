"""Every map by name, as `x -> (maps [h, w, classes], logits [C])`: what discrepancies, attacks and training methods take.

    cam, grad_cam_plus_plus, representation    read off the last feature map (`features.READOUTS`)
    grad_cam                                   class activation maps on the scale of the logits
    saliency, gradient_x_input, integrated_gradients, smooth_grad    on the pixels, `[H, W c, classes]`, the channels of a pixel side by side

An attack on a gradient needs second derivatives, which a rectified network does not have. Maps on the pixels are therefore those of the network
with softplus for relu and the same parameters (as in the code of Boopathy et al. 2020, https://arxiv.org/abs/2006.14748); the logits are always
the network's own. They take 10 points of the path, or 10 draws of noise, the same for every image (`of_many_gradients`: more). Expected gradients,
which need reference images, and LayerCAM, which is Grad-CAM++ for these networks, have no row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from irob.losses import pick
from irob.maps.features import READOUTS, scale_to_logits
from irob.maps.pixels import Attribution, Score, gradient_x_input, integrated_gradients, saliency, smooth_grad
from irob.types import Array, Explain, Explanation, Image, Label, Model, Params, PRNGKey, Readout

Classes = Int[Array, " m"]
ForwardFn = Callable[[Model, Readout], Explain]


class Explainer(NamedTuple):
    """A row of `EXPLAINERS`.

    make: `(model, forward, classes) -> Explain`.
    gradients: input gradients of the network that a map of one class takes; 0 if it takes none.
    by_class: whether there is a map for each class, so that classes can be chosen.
    """

    make: Callable[[Model, ForwardFn, Classes | None], Explain]
    gradients: int = 0
    by_class: bool = True


def differentiable(params: Params) -> ForwardFn:
    """The form of a network with gradients with respect to everything: `Model.explain`."""
    return lambda model, readout: lambda x: model.explain(params, x, readout)


def training(params: Params, axes: tuple[str, ...], key: PRNGKey) -> ForwardFn:
    """The form of a network of one's own that is trained: batch statistics over mapped axes, dropout by the key (`OwnModel.training`)."""
    return lambda model, readout: lambda x: model.training(params, x, readout, axes, key)  # type: ignore[attr-defined]


def frozen(params: Params, dtype: DTypeLike = jnp.float32) -> ForwardFn:
    """The form of a network for repeated gradients with respect to x alone: `Model.frozen`. Make it outside of the loop."""
    return lambda model, readout: model.frozen(params, readout, dtype)


def read_off(readout: Readout, by_class: bool = True) -> Explainer:
    """Maps that are linear in the last feature map.

    Args:
      readout: head `[K, C]` -> the matrix `[K, maps]` that reads them off.
      by_class: whether there is a map for each class.
    """

    def make(model: Model, forward: ForwardFn, classes: Classes | None) -> Explain:
        explain = forward(model, readout)
        if classes is None:
            return explain

        def chosen(x: Image) -> Explanation:
            maps, logits = explain(x)
            return Explanation(jax.vmap(lambda c: pick(maps, c), out_axes=-1)(classes), logits)

        return chosen

    return Explainer(make, by_class=by_class)


def on_logit_scale(raw: Explainer) -> Explainer:
    """The same maps, scaled by `scale_to_logits`."""

    def make(model: Model, forward: ForwardFn, classes: Classes | None) -> Explain:
        explain = raw.make(model, forward, classes)

        def scaled(x: Image) -> Explanation:
            maps, logits = explain(x)
            return Explanation(scale_to_logits(maps), logits)

        return scaled

    return raw._replace(make=make)


def on_pixels(attribution: Callable[[Score, Image], Attribution], gradients: int = 1) -> Explainer:
    """Maps on the pixels, of a function `(score, x) -> [H, W, c]`. The score is a logit of the softplus network; time and memory
    grow with the number of classes.

    Args:
      attribution: the map of one score.
      gradients: how many gradients of the score it takes.
    """

    def make(model: Model, forward: ForwardFn, classes: Classes | None) -> Explain:
        logits = forward(model, READOUTS["cam"])
        smooth = forward(model.smooth(), READOUTS["cam"])
        count = model.num_classes
        height, width, channels = model.input_shape

        def explain(x: Image) -> Explanation:
            def of_class(c: Label) -> Array:
                return attribution(lambda z: pick(smooth(z).logits, c), x)

            by_class = jax.vmap(of_class, out_axes=-1)(jnp.arange(count) if classes is None else classes)
            return Explanation(by_class.reshape(height, width * channels, -1), logits(x).logits)

        return explain

    return Explainer(make, gradients)


BETAS = (1.0, 5.0, 20.0)  # of the softplus networks that attacks on gradients ascend, one after the other
NUM_GRADIENTS = 10  # of a path or of noise, for each map


def of_many_gradients(count: int) -> dict[str, Explainer]:
    """The maps that are means over a path or over noise, with so many gradients each; those of `EXPLAINERS` take `NUM_GRADIENTS`."""
    return {
        "integrated_gradients": on_pixels(lambda score, x: integrated_gradients(score, x, points=count).attributions, count),
        "smooth_grad": on_pixels(lambda score, x: smooth_grad(score, x, jax.random.key(0), samples=count), count),
    }


EXPLAINERS: dict[str, Explainer] = {
    "cam": read_off(READOUTS["cam"]),
    "grad_cam": on_logit_scale(read_off(READOUTS["cam"])),
    "grad_cam_plus_plus": read_off(READOUTS["grad_cam_plus_plus"]),
    "representation": read_off(READOUTS["representation"], by_class=False),
    "saliency": on_pixels(saliency),
    "gradient_x_input": on_pixels(gradient_x_input),
    **of_many_gradients(NUM_GRADIENTS),
}


def explainer(name: str | Explainer, model: Model, forward: ForwardFn, classes: Classes | None = None) -> Explain:
    """`x -> (maps, logits)` of a network, by the name of a map.

    Args:
      name: a key of `EXPLAINERS`, or a row of one's own.
      model: the network.
      forward: `differentiable(params)` or `frozen(params)`.
      classes: `[m]`, whose maps are wanted, in this order, so that `maps` is `[h, w, m]`; None for all of them.

    Returns:
      A function of one image `[H, W, c]`.

    Raises:
      ValueError: for an unknown name, and for classes of a representation, which has units instead.

    >>> from irob.models import create
    >>> network = create("small", (8, 8, 1), 3)
    >>> explain = explainer("saliency", network, differentiable(network.initial_params()))
    >>> [part.shape for part in explain(jnp.ones((8, 8, 1)))]
    [(8, 8, 3), (3,)]
    """
    if isinstance(name, str) and name not in EXPLAINERS:
        raise ValueError(f"unknown map {name!r}: choose one of {', '.join(EXPLAINERS)}")
    row = EXPLAINERS[name] if isinstance(name, str) else name
    if classes is not None and not row.by_class:
        raise ValueError("a representation has units for classes: there is no map of a class to choose")
    return row.make(model, forward, classes)


class OwnGradients:
    """A model whose `smooth()` is itself, so that maps on the pixels are of its own gradients, not of those of the softplus network: what is
    shown and measured, where no attack needs a second derivative.
    """

    def __init__(self, model: Model):
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def smooth(self, beta: float = 1.0) -> OwnGradients:
        """Itself: it has no softplus twin."""
        return self


class Smoother:
    """A model whose `smooth()` has another beta, so that maps on the pixels are of that softplus network. A large beta is nearer to relu; what
    ascends a small one sees further.
    """

    def __init__(self, model: Model, beta: float):
        self.model, self.beta = model, beta

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def smooth(self) -> Model:
        """The softplus network of this beta. Of a model whose `smooth` takes none there is that of beta 1."""
        return self.model.smooth() if self.beta == 1.0 else self.model.smooth(self.beta)


def map_of_class(name: str | Explainer, model: Any, forward: ForwardFn, label: Label) -> Callable[[Image], Float[Array, "h w channels"]]:
    """`x -> [h, w, c]`, the map of one class: of a feature map `[h, w, 1]`, on the pixels `[H, W, c]`, where channels have their own axis.

    Args:
      name, forward: as in `explainer`, which says what is raised.
      model: the network; for a map of its own gradients `OwnGradients(model)`.
      label: the class.
    """
    row = EXPLAINERS[name] if isinstance(name, str) and name in EXPLAINERS else name
    explain = explainer(row, model, forward, jnp.asarray(label)[None])
    height, width, channels = model.input_shape

    def of_image(x: Image) -> Array:
        found = explain(x).maps
        on_the_pixels = found.shape[:2] == (height, width * channels)
        return found.reshape(height, width, channels) if on_the_pixels else found

    return of_image


def shape_of_maps(name: str | Explainer, model: Model, params: Params) -> tuple[int, int, int]:
    """(h, w, maps) of an explainer: its positions, and C, or the K units of a representation.

    Raises:
      ValueError: if the network has no such maps.
    """
    maps = jax.eval_shape(explainer(name, model, differentiable(params)), jnp.zeros(model.input_shape)).maps
    if maps is None:
        raise ValueError(
            "the network has no such maps: it does not end in the spatial mean of a feature map and a linear layer that are named (see"
            " irob.models.from_linen); maps on the pixels, such as saliency, need neither"
        )
    height, width, count = maps.shape
    return height, width, count
