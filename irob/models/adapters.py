"""Networks of one's own as models: flax linen modules and plain functions."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from irob import convolutions, rewriting
from irob.maps.features import READOUTS, cam
from irob.types import Array, Explain, Explanation, Head, Image, Params, Readout, checked_image


class OwnModel:
    """What models of one's own share: everything but `init` and `read`.

    What depends on the parameters alone is computed once, convolutions run in fast forms, the head is folded (`rewriting.prepared`).
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    softplus: bool

    def initial_params(self, seed: int = 99) -> Params:
        """Initial variables, a tree of NumPy arrays."""
        return jax.tree.map(np.asarray, self.init(seed))

    def explain(self, params: Params, x: Image, readout: Readout = READOUTS["cam"]) -> Explanation:
        """Maps `[h, w, C]` (None where the network has none) and logits `[C]` of one image `[H, W, c]` in [0, 1], differentiable in everything.

        Raises:
          ValueError: if the image does not have the network's input shape, or is not of floats.
        """
        return self._prepared(params, readout, x.dtype)(checked_image(x, self.input_shape))

    def frozen(self, params: Params, readout: Readout = READOUTS["cam"], dtype: DTypeLike = jnp.float32) -> Explain:
        """The frozen form: parameters constant. It raises a ValueError when it is differentiated with respect to them."""
        explain = self._prepared(convolutions.constant(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)), readout, dtype)

        def of_image(x: Image) -> Explanation:
            return jax.tree.map(lambda part: part.astype(jnp.float32), explain(checked_image(x, self.input_shape).astype(dtype)))

        return of_image

    def _prepared(self, params: Params, readout: Readout, dtype: DTypeLike) -> Explain:
        read = lambda params, x: self.read(params, x, readout)  # noqa: E731
        rules = rewriting.SOFTPLUS if self.softplus else {}
        return rewriting.prepared(read, params, jax.ShapeDtypeStruct(self.input_shape, dtype), rules)

    def smooth(self) -> "OwnModel":
        """The same network with softplus for every `jax.nn.relu`. It takes the same variables."""
        return dataclasses.replace(self, softplus=True)  # type: ignore[type-var]

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


@dataclasses.dataclass(frozen=True)
class LinenModel(OwnModel):
    """A linen module; see `from_linen`. batched: whether it takes `[1, H, W, c]`, otherwise `[H, W, c]`."""

    module: nn.Module
    input_shape: tuple[int, int, int]
    num_classes: int
    features_name: str | None
    head_name: str
    batched: bool = True
    softplus: bool = False

    def keeps_statistics(self) -> bool:
        """Whether BatchNorm keeps running statistics among the variables."""
        return "batch_stats" in jax.eval_shape(lambda: self.init(0))

    def training(self, params: Params, x: Image, readout: Readout, axes: tuple[str, ...]) -> Explanation:
        """`explain` with `train=True`: BatchNorm normalizes by the statistics of all images along mapped axes.

        Under `jax.vmap(..., axis_name=...)` it equals flax's BatchNorm of the whole batch. The passes of x and of x' have statistics of their own, as
        two calls on batches have.

        Args:
          params, x, readout: as in `explain`.
          axes: names of the axes of the batch, of `jax.vmap(..., axis_name=...)` and `jax.pmap`.
        """
        read = lambda params, x: self._read(params, x, readout, axes)[0]  # noqa: E731
        rules = rewriting.SOFTPLUS if self.softplus else {}
        return rewriting.prepared(read, params, jax.ShapeDtypeStruct(self.input_shape, x.dtype), rules)(checked_image(x, self.input_shape))

    def updated_statistics(self, params: Params, x: Image, axes: tuple[str, ...]) -> Params:
        """The running statistics of BatchNorm after one pass of all images along the axes; the same for every image."""
        return self._read(params, checked_image(x, self.input_shape), READOUTS["cam"], axes)[1]["batch_stats"]

    def init(self, seed: int) -> Params:
        """The variables of the module, drawn with the key of the seed."""
        return self.module.init(jax.random.key(seed), self._input(jnp.zeros(self.input_shape)), **self._options())

    def read(self, params: Params, x: Image, readout: Readout) -> Explanation:
        """Maps read off the output of the submodule `features` by the kernel and bias of the submodule `head`."""
        return self._read(params, x, readout)[0]

    def _read(self, params: Params, x: Image, readout: Readout, axes: tuple[str, ...] = ()) -> tuple[Explanation, Any]:
        """The explanation and, where the module trains on images along these axes, its mutable state."""
        wanted = lambda module, method: self.features_name is not None and module.name == self.features_name and method == "__call__"  # noqa: E731
        with nn.intercept_methods(_synchronized(axes)):
            out, state = self.module.apply(
                params,
                self._input(x),
                **self._options(train=bool(axes)),
                capture_intermediates=wanted,
                mutable=["intermediates", "batch_stats"] if axes else ["intermediates"],
            )
        captured = jax.tree.leaves(_named(state.get("intermediates", {}), self.features_name))
        head = _named(params["params"], self.head_name)
        logits = jnp.squeeze(out, 0) if self.batched else out
        if self.features_name is None:
            return Explanation(None, logits), state  # type: ignore[arg-type]
        name = type(self.module).__name__
        if len(captured) != 1 or not isinstance(head, Mapping) or "kernel" not in head:
            raise ValueError(
                f"{name} must have one submodule or sown value {self.features_name!r}, its last feature map, and a Dense {self.head_name!r}, which"
                " reads the spatial mean: give their names, or features=None for a model with maps on the pixels alone"
            )
        features = jnp.squeeze(captured[0], 0) if self.batched else captured[0]
        if features.shape[-1] != len(head["kernel"]):
            raise ValueError(
                f"the head {self.head_name!r} of {name} does not read its features {self.features_name!r}: it takes"
                f" {len(head['kernel'])} channels, they have {features.shape[-1]}"
            )
        reading = readout(self.head_kernel(params))  # the row behind those of the features is what the constant feature adds
        maps = cam(features, reading[: features.shape[-1]])
        return Explanation(maps if head.get("bias") is None else maps + reading[-1], logits), state

    def head_kernel(self, params: Params) -> Head:
        """The matrix that reads the maps, `[W; b]`."""
        head = _named(params["params"], self.head_name)
        return bias_as_feature(head["kernel"], head.get("bias"))

    def output_shape(self) -> tuple[int, ...]:
        """The shape that the module returns of its input."""
        x = self._input(jnp.zeros(self.input_shape))
        return jax.eval_shape(lambda: self.module.apply(self.init(0), x, **self._options())).shape

    def _input(self, x: Array) -> Array:
        return x[None] if self.batched else x

    def _options(self, train: bool = False) -> dict[str, Any]:
        return {"train": train} if "train" in inspect.signature(type(self.module).__call__).parameters else {}


def _synchronized(axes: tuple[str, ...]) -> Callable[..., Any]:
    """Interceptor of linen calls: BatchNorm takes its statistics over these axes, too."""

    def call(method: Callable[..., Any], arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if axes and isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            object.__setattr__(context.module, "axis_name", axes)  # modules are frozen
        return method(*arguments, **options)

    return call


def bias_as_feature(kernel: Head, bias: Array | None) -> Float[Array, "features C"]:
    """`[W; b]`: the bias of a head is the weight of one more feature, which is 1 everywhere.

    So the mean of `[A, 1] [W; b]` over positions is `mean(A) W + b`, the logits: maps stay complete.
    """
    return kernel if bias is None else jnp.concatenate([kernel, bias[None]])


def _named(tree: Any, name: str | None) -> Any:
    """The part of nested dictionaries under a key, wherever it is; None if there is none."""
    if not isinstance(tree, Mapping):
        return None
    found = [tree[name]] if name in tree else [_named(part, name) for part in tree.values()]
    return next((part for part in found if part is not None), None)


def from_linen(
    module: nn.Module, input_shape: tuple[int, int, int], num_classes: int, features: str | None = "features", head: str = "head"
) -> LinenModel:
    """A flax linen module as a model, with the class activation maps of its last feature map.

        A = output of `features` [h, w, K],    f = mean(A) W + b,    maps M = A W + b,    (W, b) of the Dense `head`

    Args:
      module: `__call__(x)` or `__call__(x, train=False)` of a batch `[n, H, W, c]` or of one image returns logits.
      input_shape: (H, W, c).
      num_classes: C.
      features: name of the submodule whose output is the last feature map, or of a value sown there (`self.sow("intermediates", name, A)`).
        None: the model has logits and maps on the pixels alone.
      head: name of the Dense that reads its spatial mean.

    Returns:
      A model; its parameters are the variables of the module.

    Raises:
      ValueError: if the module does not return C logits, has no features or head of these names, or the logits are not those of the head.

    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.relu(nn.Conv(8, (3, 3))(x))
    ...         x = nn.Conv(16, (3, 3), name="features")(x)
    ...         return nn.Dense(3, name="head")(x.mean(axis=(-3, -2)))
    >>> model = from_linen(Net(), (8, 8, 1), 3)
    >>> maps, logits = model.explain(model.initial_params(), jnp.ones((8, 8, 1)))
    >>> maps.shape, bool(jnp.allclose(maps.mean(axis=(0, 1)), logits, atol=1e-5))
    ((8, 8, 3), True)
    """
    name = type(module).__name__
    shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
    of_batch, of_image = (LinenModel(module, shape, num_classes, features, head, batched) for batched in (True, False))
    if (found := of_batch.output_shape()) == (1, num_classes):
        model = of_batch
    elif of_image.output_shape() == (num_classes,):
        model = of_image
    else:
        raise ValueError(f"{name} must return {num_classes} logits of an image {shape}, got shape {found} of a batch of one")
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    maps, logits = model.read(model.init(0), x, READOUTS["cam"])
    if maps is not None and not np.allclose(jnp.mean(maps, axis=(0, 1)), logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max()):
        raise ValueError(
            f"the logits of {name} are not mean(A) W + b of its features {features!r} and its head {head!r}: name the submodule whose output is"
            " averaged over positions and the Dense that reads the average, or pass features=None for a model without class activation maps"
        )
    return model


@dataclasses.dataclass(frozen=True)
class FunctionModel(OwnModel):
    """A plain function; see `from_function`."""

    function: Callable[[Params, Image], Any]
    draw: Callable[[int], Params]
    input_shape: tuple[int, int, int]
    num_classes: int
    softplus: bool = False

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
