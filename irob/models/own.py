"""What models of one's own share, and plain functions as models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from irob import convolutions, rewriting
from irob.maps.features import READOUTS, cam
from irob.types import Array, Explain, Explanation, Features, Head, Image, Params, PRNGKey, Readout, checked_image, in_type_of

Trained = tuple[tuple[str, ...], PRNGKey]  # axes of the batch, key of dropout
M = TypeVar("M", bound=Any)


class OwnModel:
    """What models of one's own share: everything but `init` and `read`.

    What depends on the parameters alone is computed once, convolutions run in fast forms, the head is folded (`rewriting.prepared`).
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    softplus: float | None

    def initial_params(self, seed: int = 99) -> Params:
        """Initial variables, a tree of NumPy arrays."""
        return jax.tree.map(np.asarray, self.init(seed))

    def explain(self, params: Params, x: Image, readout: Readout = READOUTS["cam"]) -> Explanation:
        """Maps `[h, w, C]` (None where the network has none) and logits `[C]` of one image `[H, W, c]` in [0, 1], differentiable in everything.

        Raises:
          ValueError: if the image does not have the network's input shape, or is not of floats.
        """
        return self._prepared(in_type_of(x, params), readout, x.dtype)(checked_image(x, self.input_shape))

    def frozen(self, params: Params, readout: Readout = READOUTS["cam"], dtype: DTypeLike = jnp.float32) -> Explain:
        """The frozen form: parameters constant. It raises a ValueError when it is differentiated with respect to them."""
        explain = self._prepared(convolutions.constant(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)), readout, dtype)

        def of_image(x: Image) -> Explanation:
            return jax.tree.map(lambda part: part.astype(x.dtype), explain(checked_image(x, self.input_shape).astype(dtype)))

        return of_image

    def keeps_statistics(self) -> bool:
        """Whether BatchNorm keeps running statistics among the variables."""
        shapes = jax.eval_shape(lambda: self.init(0))
        return isinstance(shapes, Mapping) and "batch_stats" in shapes

    def training(self, params: Params, x: Image, readout: Readout, axes: tuple[str, ...], key: PRNGKey) -> Explanation:
        """`explain` in training: BatchNorm normalizes by the statistics of all images along mapped axes, dropout draws by the key.

        Under `jax.vmap(..., axis_name=...)` it equals flax's BatchNorm of the whole batch. The passes of x and of x' have statistics of their own, as
        two calls on batches have, and the same units dropped, so that what differs between them is the image.

        Args:
          params, x, readout: as in `explain`.
          axes: names of the axes of the batch, of `jax.vmap(..., axis_name=...)` and `jax.pmap`.
          key: of this image.
        """
        read = lambda params, x: self.read_training(params, x, readout, axes, key)  # noqa: E731
        return self._fast(read, in_type_of(x, params), x.dtype)(checked_image(x, self.input_shape))

    def updated_statistics(self, params: Params, x: Image, axes: tuple[str, ...], key: PRNGKey) -> Params:
        """The running statistics of BatchNorm after one pass of all images along the axes; the same for every image."""
        raise NotImplementedError

    def _prepared(self, params: Params, readout: Readout, dtype: DTypeLike) -> Explain:
        return self._fast(lambda params, x: self.read(params, x, readout), params, dtype)

    def _fast(self, read: Callable[[Params, Image], Explanation], params: Params, dtype: DTypeLike) -> Explain:
        rules = {} if self.softplus is None else {"relu": rewriting.softplus(self.softplus)}
        return rewriting.prepared(read, params, jax.ShapeDtypeStruct(self.input_shape, dtype), rules)

    def smooth(self, beta: float = 1.0) -> OwnModel:
        """The same network with softplus for every `jax.nn.relu`. It takes the same variables."""
        return dataclasses.replace(self, softplus=beta)  # type: ignore[type-var]

    def layer_shapes(self) -> list[tuple[int, ...]]:
        """The shape of an image and of the output of each convolution: what decides memory."""
        closed = jax.make_jaxpr(lambda x: self.read(self.init(0), x, READOUTS["cam"]))(jnp.zeros(self.input_shape))
        return [self.input_shape, *rewriting.output_shapes(closed, "conv_general_dilated")]

    def head_kernel(self, params: Params) -> Head:
        """The linear layer `[K, C]` that reads the maps off the last feature map.

        Raises:
          ValueError: without one.
        """
        raise ValueError("the network has no linear layer that reads maps off a last feature map")

    def init(self, seed: int) -> Params:
        """The variables before training, of a seed."""
        raise NotImplementedError

    def read(self, params: Params, x: Image, readout: Readout) -> Explanation:
        """`explain`, as the network is written."""
        raise NotImplementedError

    def read_training(self, params: Params, x: Image, readout: Readout, axes: tuple[str, ...], key: PRNGKey) -> Explanation:
        """`training`, as the network is written; by default the same as `read`."""
        return self.read(params, x, readout)


class ModuleModel(OwnModel):
    """What models of flax modules share, whose `_read` gives the explanation and the state afterwards."""

    def read(self, params: Params, x: Image, readout: Readout) -> Explanation:
        """Maps read off the output of the submodule `features` by the kernel and bias of the submodule `head`."""
        return self._read(params, x, readout)[0]

    def read_training(self, params: Params, x: Image, readout: Readout, axes: tuple[str, ...], key: PRNGKey) -> Explanation:
        """The same in training mode."""
        return self._read(params, x, readout, (axes, key))[0]

    def updated_statistics(self, params: Params, x: Image, axes: tuple[str, ...], key: PRNGKey) -> Params:
        """The running statistics of BatchNorm after one pass of all images along the axes; the same for every image."""
        return self._read(params, checked_image(x, self.input_shape), READOUTS["cam"], (axes, key))[1]["batch_stats"]

    def _read(self, params: Params, x: Image, readout: Readout, trained: Trained | None = None) -> tuple[Explanation, Any]:
        """The explanation and, where the module trains, its state afterwards."""
        raise NotImplementedError


def bias_as_feature(kernel: Head, bias: Array | None) -> Float[Array, "features C"]:
    """`[W; b]`: the bias of a head is the weight of one more feature, which is 1 everywhere.

    So the mean of `[A, 1] [W; b]` over positions is `mean(A) W + b`, the logits: maps stay complete.
    """
    return kernel if bias is None else jnp.concatenate([kernel, bias[None]])


def maps_of(features: Features, kernel: Array, bias: Array | None, readout: Readout, name: str) -> Array:
    """The maps that a readout reads off the last feature map, for a head `W`, with bias or without.

    Raises:
      ValueError: if the head takes another number of features. name: of the network, for the message.
    """
    if features.shape[-1] != len(kernel):
        raise ValueError(f"the head of {name} does not read its features: it takes {len(kernel)} channels, they have {features.shape[-1]}")
    reading = readout(bias_as_feature(kernel, bias))  # the row behind those of the features is what the constant feature adds
    maps = cam(features, reading[: features.shape[-1]])
    return maps if bias is None else maps + reading[-1]


def taking_images(candidates: Sequence[M], name: str) -> M:
    """Of two models of a module, that take a batch of one or an image, the one that the module is.

    Raises:
      ValueError: if neither returns C logits.
    """
    of_batch, of_image = candidates
    if (found := of_batch.output_shape()) == (1, of_batch.num_classes):
        return of_batch
    if of_image.output_shape() == (of_image.num_classes,):
        return of_image
    raise ValueError(
        f"{name} must return {of_batch.num_classes} logits of an image {of_batch.input_shape}, got shape {found} of a batch of one"
    )


def checked_maps(model: M, name: str) -> M:
    """A model whose class activation maps have the logits for means, or that has none.

    Raises:
      ValueError: if the means are not the logits.
    """
    random = np.random.default_rng(0)
    x = random.uniform(size=model.input_shape).astype(np.float32)

    def drawn(leaf: Any) -> np.ndarray:
        values = np.asarray(random.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)
        return values if leaf.ndim > 1 else np.abs(values) + leaf.dtype.type(0.1)  # variances are positive

    variables = jax.tree.map(drawn, jax.eval_shape(lambda: model.init(0)))
    maps, logits = model.read(variables, x, READOUTS["cam"])
    if maps is not None and not np.allclose(jnp.mean(maps, axis=(0, 1)), logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max()):
        raise ValueError(
            f"the logits of {name} are not mean(A) W + b of its features {model.features_name!r} and its head {model.head_name!r}: name the submodule"
            " whose output is averaged over positions and the layer that reads the average, or pass features=None for a model without class"
            " activation maps"
        )
    return model


@dataclasses.dataclass(frozen=True)
class FunctionModel(OwnModel):
    """A plain function; see `from_function`."""

    function: Callable[[Params, Image], Any]
    draw: Callable[[int], Params]
    input_shape: tuple[int, int, int]
    num_classes: int
    softplus: float | None = None

    def init(self, seed: int) -> Params:
        """The parameters of a seed."""
        return self.draw(seed)

    def read(self, params: Params, x: Image, readout: Readout) -> Explanation:
        """Its maps, where it returns some, and logits."""
        out = self.function(params, x)
        maps, logits = out if isinstance(out, tuple) else (None, out)
        if maps is not None and readout is not READOUTS["cam"]:
            raise ValueError("a plain function has one kind of maps: cam, those that it returns")
        return Explanation(maps, logits)


def from_function(
    function: Callable[[Params, Image], Any], init: Callable[[int], Params], input_shape: tuple[int, int, int], num_classes: int
) -> FunctionModel:
    """A function of parameters and one image as a model.

    Args:
      function: `(params, x [H, W, c]) -> logits [C]`, or `-> (maps [h, w, C], logits [C])`.
      init: seed -> parameters, a tree of float32 arrays.
      input_shape: (H, W, c).
      num_classes: C.

    Returns:
      A model.

    Raises:
      ValueError: if the function does not return C logits.

    >>> linear = lambda params, x: x.reshape(-1) @ params
    >>> model = from_function(linear, lambda seed: np.ones((4, 3), np.float32), (2, 2, 1), 3)
    >>> model.explain(model.initial_params(), jnp.ones((2, 2, 1))).logits.tolist()
    [4.0, 4.0, 4.0]
    """
    model = FunctionModel(function, init, (int(input_shape[0]), int(input_shape[1]), int(input_shape[2])), num_classes)
    logits = jax.eval_shape(lambda x: model.read(init(0), x, READOUTS["cam"]).logits, jnp.zeros(model.input_shape))
    if logits.shape != (num_classes,):
        raise ValueError(f"the function must return {num_classes} logits of an image {model.input_shape}, got shape {logits.shape}")
    return model
