"""Every map by name, as `x -> (maps [h, w, classes], logits [C])`: what discrepancies, attacks and training methods take, knowing of no map.

    cam, grad_cam_plus_plus, representation    read off the last feature map (`maps.READOUTS`)
    grad_cam                                   `complete` class activation maps
    saliency, gradient_x_input, integrated_gradients, smooth_grad    on the pixels, `[H, W c, classes]`, the colours of a pixel side by side

An attack on a gradient needs second derivatives, which a rectified network has not. Maps on the pixels are therefore those of the network with
softplus for relu and the same parameters (as in the code of Boopathy et al. 2020, https://arxiv.org/abs/2006.14748); the logits are always the
network's own. They are of moderate cost for that: 10 points of the path, or 10 draws of noise, the same for every image. Expected gradients,
which need reference images, and LayerCAM, which is Grad-CAM++ for these networks, have no entry.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Int

from irob.arrays import Array, Explain, Explanation, Image, Label, Params
from irob.losses import is_class, pick
from irob.maps import (
    READOUTS,
    Attribution,
    Readout,
    Score,
    complete,
    gradient_x_input,
    integrated_gradients,
    saliency,
    smooth_grad,
)
from irob.networks import CAMNetwork

Classes = Int[Array, " m"]
Form = Callable[[CAMNetwork, Readout], Explain]
Explainer = Callable[[CAMNetwork, Form, Classes | None], Explain]


def plain(params: Params) -> Form:
    """The form of a network with gradients in everything: `CAMNetwork.explain`."""
    return lambda network, readout: lambda x: network.explain(params, x, readout)


def for_attacks(params: Params, dtype: DTypeLike = jnp.float32) -> Form:
    """The form for the inside of a loop, with gradients in x only: `CAMNetwork.attack_form`."""
    return lambda network, readout: network.attack_form(params, readout, dtype)


def read_off(readout: Readout, by_class: bool = True) -> Explainer:
    """Maps that are linear in the last feature map. by_class: whether there is one for each class; else classes cannot be chosen (a `ValueError`)."""

    def construct(network: CAMNetwork, form: Form, classes: Classes | None) -> Explain:
        explain = form(network, readout)
        if classes is None:
            return explain
        if not by_class:
            raise ValueError("a representation has units for classes: there is no map of a class to choose")

        def chosen(x: Image) -> Explanation:
            maps, logits = explain(x)
            return Explanation(jax.vmap(lambda c: pick(maps, c), out_axes=-1)(classes), logits)

        return chosen

    return construct


def scaled_by_positions(unscaled: Explainer) -> Explainer:
    """The same maps on the scale of `maps.complete`."""

    def construct(network: CAMNetwork, form: Form, classes: Classes | None) -> Explain:
        explain = unscaled(network, form, classes)

        def scaled(x: Image) -> Explanation:
            maps, logits = explain(x)
            return Explanation(complete(maps), logits)

        return scaled

    return construct


def on_pixels(attribution: Callable[[Score, Image], Attribution]) -> Explainer:
    """Maps of a function `(score, x) -> [H, W, c]`, the score being a logit of the softplus network. The cost grows with the number of classes."""

    def construct(network: CAMNetwork, form: Form, classes: Classes | None) -> Explain:
        logits = form(network, READOUTS["cam"])
        smooth = form(network.clone(activation="softplus"), READOUTS["cam"])
        count = network.num_classes
        height, width, colours = network.input_shape

        def explain(x: Image) -> Explanation:
            def of_class(c: Label) -> Array:
                return attribution(lambda z: jnp.sum(jnp.where(is_class(c, count), smooth(z).logits, 0.0)), x)

            by_class = jax.vmap(of_class, out_axes=-1)(jnp.arange(count) if classes is None else classes)
            return Explanation(by_class.reshape(height, width * colours, -1), logits(x).logits)

        return explain

    return construct


# Gradients of the score that a map on the pixels takes for each class.
GRADIENTS = {"saliency": 1, "gradient_x_input": 1, "integrated_gradients": 10, "smooth_grad": 10}

EXPLAINERS: dict[str, Explainer] = {
    "cam": read_off(READOUTS["cam"]),
    "grad_cam": scaled_by_positions(read_off(READOUTS["cam"])),
    "grad_cam_plus_plus": read_off(READOUTS["grad_cam_plus_plus"]),
    "representation": read_off(READOUTS["representation"], by_class=False),
    "saliency": on_pixels(saliency),
    "gradient_x_input": on_pixels(gradient_x_input),
    "integrated_gradients": on_pixels(
        lambda score, x: integrated_gradients(score, x, points=GRADIENTS["integrated_gradients"]).attributions
    ),
    "smooth_grad": on_pixels(lambda score, x: smooth_grad(score, x, jax.random.key(0), samples=GRADIENTS["smooth_grad"])),
}


def explainer(name: str, network: CAMNetwork, form: Form, classes: Classes | None = None) -> Explain:
    """`x -> (maps, logits)` of a network under the name of a map.

    Args:
      name: a key of `EXPLAINERS`.
      form: `plain(params)` or `for_attacks(params)`.
      classes: `[m]`, those whose maps are wanted, in this order, so that `maps` is `[h, w, m]`; None for all of them.

    Raises:
      ValueError: for an unknown name, and for classes of a representation, which has units instead.

    >>> network = __import__("irob").create("small", (8, 8, 1), 3)
    >>> explain = explainer("saliency", network, plain(network.initial_params()))
    >>> [part.shape for part in explain(jnp.ones((8, 8, 1)))]
    [(8, 8, 3), (3,)]
    """
    if name not in EXPLAINERS:
        raise ValueError(f"unknown map {name!r}: choose one of {', '.join(EXPLAINERS)}")
    return EXPLAINERS[name](network, form, classes)


def shape_of_maps(name: str, network: CAMNetwork, params: Params) -> tuple[int, int, int]:
    """(h, w, maps) of an explainer: its positions, and C, or the K units of a representation."""
    height, width, count = jax.eval_shape(explainer(name, network, plain(params)), jnp.zeros(network.input_shape)).maps.shape
    return height, width, count
