"""Flax linen modules as models."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from irob.models.own import ModuleModel, Trained, bias_as_feature, checked_maps, maps_of, taking_images
from irob.types import Array, Explanation, Head, Image, Params, Readout


@dataclasses.dataclass(frozen=True)
class LinenModel(ModuleModel):
    """A linen module; see `from_linen`. batched: whether it takes `[1, H, W, c]`, otherwise `[H, W, c]`."""

    module: nn.Module
    input_shape: tuple[int, int, int]
    num_classes: int
    features_name: str | None
    head_name: str
    batched: bool = True
    softplus: float | None = None

    def init(self, seed: int) -> Params:
        """The variables of the module, drawn with the key of the seed."""
        # Compiled, it leaves out the pass that `init` makes to learn the shapes.
        draw = jax.jit(lambda key: self.module.init(key, self._input(jnp.zeros(self.input_shape)), **self._options()))
        return draw(jax.random.key(seed))

    def _read(self, params: Params, x: Image, readout: Readout, trained: Trained | None = None) -> tuple[Explanation, Any]:
        """The explanation and, where the module trains, its mutable state."""
        axes, key = trained or ((), None)
        wanted = lambda module, method: self.features_name is not None and module.name == self.features_name and method == "__call__"  # noqa: E731
        with nn.intercept_methods(_synchronized(axes)):
            out, state = self.module.apply(
                params,
                self._input(x),
                **self._options(train=trained is not None),
                rngs=None if key is None else {"dropout": key},  # type: ignore[dict-item]
                capture_intermediates=wanted,
                mutable=["intermediates", "batch_stats"] if trained else ["intermediates"],
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
                " (in a config: return irob.models.from_linen(...))"
            )
        features = jnp.squeeze(captured[0], 0) if self.batched else captured[0]
        return Explanation(maps_of(features, head["kernel"], head.get("bias"), readout, name), logits), state

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
    candidates = [LinenModel(module, shape, num_classes, features, head, batched) for batched in (True, False)]
    return checked_maps(taking_images(candidates, name), name)
