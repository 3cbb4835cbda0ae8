"""Flax nnx modules as models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from irob.models.own import ModuleModel, Trained, bias_as_feature, checked_maps, maps_of, taking_images
from irob.types import Array, Explanation, Head, Image, Params, PRNGKey, Readout


@dataclasses.dataclass(frozen=True)
class NnxModel(ModuleModel):
    """An nnx module; see `from_nnx`. definition: the module without its arrays. other: its state of random draws."""

    definition: nnx.GraphDef
    draw: Callable[[int], nnx.Module] = dataclasses.field(compare=False)
    other: Any = dataclasses.field(compare=False)
    input_shape: tuple[int, int, int]
    num_classes: int
    features_name: str | None
    head_name: str
    batched: bool = True
    softplus: float | None = None

    def init(self, seed: int) -> Params:
        """The parameters of the module, and its statistics, if it has some."""
        return _variables(self.draw(seed))

    def head_kernel(self, params: Params) -> Head:
        """The matrix that reads the maps, `[W; b]`."""
        head = _at(params["params"], self.head_name)
        return bias_as_feature(head["kernel"], head.get("bias"))

    def output_shape(self) -> tuple[int, ...]:
        """The shape that the module returns of its input."""
        x = jnp.zeros(self.input_shape)
        return jax.eval_shape(lambda: self._called(self._module(self.init(0)), x, None)[0]).shape

    def _module(self, params: Params, trained: Trained | None = None) -> nnx.Module:
        """The module with these variables, in training or evaluation mode."""
        states = [nnx.State(_with_whole_keys(params.get(name, {}))) for name in COLLECTIONS]
        random = self.other if trained is None else _with_key(self.other, trained[1])
        module = nnx.merge(self.definition, *states, nnx.State(random))
        module.eval() if trained is None else module.train()
        for _, part in nnx.iter_modules(module):
            if trained is not None and isinstance(part, nnx.BatchNorm):
                part.axis_name = trained[0]  # type: ignore[assignment]
        return module

    def _called(self, module: nnx.Module, x: Image, trained: Trained | None) -> tuple[Array, Array | None]:
        """What the module returns, and what its submodule `features` returned."""
        call: Any = module
        takes_train = "train" in inspect.signature(type(module).__call__).parameters
        options = {"train": trained is not None} if takes_train else {}
        features = None if self.features_name is None else _at(module, self.features_name)
        with _recorded(features) as seen:
            out = call(x[None] if self.batched else x, **options)
        return out, seen[0] if len(seen) == 1 else None

    def _read(self, params: Params, x: Image, readout: Readout, trained: Trained | None = None) -> tuple[Explanation, Any]:
        """The explanation, and the variables afterwards."""
        module = self._module(params, trained)
        out, features = self._called(module, x, trained)
        logits, after = out[0] if self.batched else out, _variables(module)
        if self.features_name is None:
            return Explanation(None, logits), after  # type: ignore[arg-type]
        head = _at(params["params"], self.head_name)
        name = type(module).__name__
        if features is None or not isinstance(head, Mapping) or "kernel" not in head:
            raise ValueError(
                f"{name} must call one submodule {self.features_name!r}, its last feature map, once, and have a Linear {self.head_name!r}, which"
                " reads the spatial mean: give their names, or features=None for a model with maps on the pixels alone"
            )
        maps = maps_of(features[0] if self.batched else features, head["kernel"], head.get("bias"), readout, name)
        return Explanation(maps, logits), after


@contextlib.contextmanager
def _recorded(module: nnx.Module | None) -> Iterator[list[Array]]:
    """What a module returns meanwhile, call by call."""
    seen: list[Array] = []
    if not isinstance(module, nnx.Module):
        yield seen
        return
    kind = type(module)
    vars(module)[RECORD] = seen
    module.__class__ = _recording(kind)
    try:
        yield seen
    finally:
        module.__class__ = kind
        vars(module).pop(RECORD)


RECORD = "_recorded_outputs"


@functools.lru_cache
def _recording(kind: type) -> type:
    """A kind of module that adds what it returns to the list that it has."""

    def __call__(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N807
        vars(self)[RECORD].append(kind.__call__(self, *arguments, **options))
        return vars(self)[RECORD][-1]

    return type(kind)(kind.__name__, (kind,), {"__call__": __call__})


COLLECTIONS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


def _variables(module: nnx.Module) -> dict[str, Any]:
    """The arrays of a module by kind, as nested dictionaries with keys of text."""
    states = {name: nnx.to_pure_dict(nnx.state(module, kind)) for name, kind in COLLECTIONS.items()}
    return {name: _with_text_keys(state) for name, state in states.items() if jax.tree.leaves(state)}


def _with_text_keys(tree: Any) -> Any:
    return {str(key): _with_text_keys(part) for key, part in tree.items()} if isinstance(tree, Mapping) else tree


def _with_whole_keys(tree: Any) -> Any:
    """Elements of lists have numbers for keys."""
    if not isinstance(tree, Mapping):
        return jnp.asarray(tree)
    return {int(key) if key.isdigit() else key: _with_whole_keys(part) for key, part in tree.items()}


def _with_key(state: Any, key: PRNGKey) -> Any:
    """A state of random draws with other keys: the i-th is `fold_in(key, i)`, since every layer draws from one of its own."""
    leaves, tree = jax.tree.flatten(state)
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return jax.tree.unflatten(tree, [jax.random.fold_in(key, i) if is_key[i] else jnp.asarray(leaf) for i, leaf in enumerate(leaves)])


def _at(parent: Any, path: str) -> Any:
    """A part of a module or of a dictionary by its path, `blocks.2.conv`; None if there is none."""
    for name in path.split("."):
        if isinstance(parent, Mapping):
            parent = parent.get(name)
        else:
            parent = parent[int(name)] if name.isdigit() and parent is not None else getattr(parent, name, None)
    return parent


def from_nnx(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    input_shape: tuple[int, int, int],
    num_classes: int,
    features: str | None = "features",
    head: str = "head",
) -> NnxModel:
    """A flax nnx module as a model, with the class activation maps of its last feature map, as `from_linen`.

    Args:
      module: that takes a batch `[n, H, W, c]` or one image and returns logits, or a function `nnx.Rngs -> module`. A module keeps its own initial
        parameters; a function draws those of a seed. In training its mode is `module.train()`, and `train=True` is passed if it takes that.
      input_shape: (H, W, c).
      num_classes: C.
      features: path of the submodule whose output is the last feature map, such as "blocks.2". None: maps on the pixels alone.
      head: path of the Linear that reads its spatial mean.

    Returns:
      A model; its parameters are `{"params": ..., "batch_stats": ...}`.

    Raises:
      ValueError: if the module does not return C logits, has no features or head of these names, the logits are not those of the head, or it has
        state beside parameters, statistics of BatchNorm and random draws.

    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.features = nnx.Conv(1, 16, (3, 3), rngs=rngs)
    ...         self.head = nnx.Linear(16, 3, rngs=rngs)
    ...     def __call__(self, x):
    ...         return self.head(self.features(x).mean(axis=(-3, -2)))
    >>> model = from_nnx(lambda rngs: Net(rngs), (8, 8, 1), 3)
    >>> maps, logits = model.explain(model.initial_params(), jnp.ones((8, 8, 1)))
    >>> maps.shape, bool(jnp.allclose(maps.mean(axis=(0, 1)), logits, atol=1e-5))
    ((8, 8, 3), True)
    """
    shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
    draw = (lambda seed: module) if isinstance(module, nnx.Module) else (lambda seed: module(nnx.Rngs(seed)))
    first = draw(0)
    definition, *(_, _, random, rest) = nnx.split(first, nnx.Param, nnx.BatchStat, nnx.RngState, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"{type(first).__name__} has state beside parameters, statistics of BatchNorm and random draws: {list(rest)}")
    other = nnx.to_pure_dict(random)
    candidates = [NnxModel(definition, draw, other, shape, num_classes, features, head, batched) for batched in (True, False)]
    return checked_maps(taking_images(candidates, type(first).__name__), type(first).__name__)
