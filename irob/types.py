"""Types that the functions of `irob` share.

Shapes are written in jaxtyping's notation: `H W` is the size of an image, `c` its channels, `h w` the size of a map, `C` the number of
classes, `K` the number of features. Everything is ONE example; `jax.vmap` lifts it to a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Key, PyTree

Array = jax.Array | np.ndarray

Image = Float[Array, "H W c"]  # pixels in [0, 1]
Point = Float[Array, "*point"]  # an image, or any other variable that an attack moves
Maps = Float[Array, "h w C"]  # one interpretation map per class
Features = Float[Array, "h w K"]  # the last feature map of a network
Logits = Float[Array, " C"]
ClassWeights = Float[Array, " C"]
PixelSet = Bool[Array, "h w C"]  # True where a position counts
Head = Float[Array, "K C"]  # the linear layer that reads the spatial mean of the features
Label = Int[Array, ""] | np.integer | int  # class index in 0 .. C - 1
Scalar = Float[Array, ""] | np.floating | float
PRNGKey = Key[Array, ""]
Params: TypeAlias = PyTree


class Explanation(NamedTuple):
    """Interpretation maps and logits of one image.

    maps: `[h, w, C]`, one map per class. The mean of a class activation map over positions is the logit.
    logits: `[C]`.
    """

    maps: Maps
    logits: Logits


Explain = Callable[[Image], Explanation]
Objective = Callable[[Point], Scalar]  # of a perturbed image (or other variable); larger = more adversarial
Readout = Callable[[Head], Float[Array, "K maps"]]  # head -> the matrix that reads maps off the last feature map


def checked_image(x: Array, input_shape: tuple[int, ...]) -> Array:
    """The image itself, if a network for images of this shape takes it.

    Raises:
      ValueError: if it has another shape, or is not of floats.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images are floats in [0, 1], got {x.dtype}: divide uint8 pixels by 255")
    if x.shape != input_shape:
        raise ValueError(f"this network takes one image of shape {input_shape}, got {x.shape}: lift it to batches with jax.vmap")
    return x


def in_type_of(x: Array, params: Params) -> Params:
    """Parameters whose floats have the type of an image: what is computed of it keeps its type."""
    if all(leaf.dtype == x.dtype or not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params)):
        return params
    return jax.tree.map(lambda leaf: leaf.astype(x.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, params)


def checked_label(label: Label, num_classes: int) -> Label:
    """The label itself, if it is a class, or a traced integer scalar.

    Raises:
      ValueError: if it is not an integer scalar, or its value is known and not in 0 .. C - 1.
    """
    shape, kind = jnp.shape(label), jnp.result_type(label)
    if shape != () or not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(
            f"a label is one integer, the number of a class, got {kind} of shape {shape}: lift functions to batches with jax.vmap"
        )
    if not isinstance(label, jax.core.Tracer) and not 0 <= int(label) < num_classes:
        raise ValueError(f"a label of {num_classes} classes is in 0 .. {num_classes - 1}, got {int(label)}")
    return label


def checked_logits(logits: Logits) -> Logits:
    """The logits themselves, if they are floats `[C]`.

    Raises:
      ValueError: if they are not.
    """
    kind, shape = jnp.result_type(logits), jnp.shape(logits)
    if len(shape) != 1 or not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"logits of one example are floats [C], got {kind} of shape {shape}: lift functions to batches with jax.vmap")
    return logits


@runtime_checkable
class Model(Protocol):
    """A network as maps, training and evaluation see it: a function `x -> (maps, logits)` in two forms with the same values."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, c) of the images."""

    def __hash__(self) -> int:
        """Models are values: what is compiled for one serves its equals."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""

    def initial_params(self, seed: int = ...) -> Params:
        """Initial parameters, a tree of NumPy arrays."""

    def layer_shapes(self) -> Sequence[tuple[int, ...]]:
        """The shapes of the outputs of the layers, which decide memory."""

    def explain(self, params: Params, x: Image, readout: Readout = ...) -> Explanation:
        """The differentiable form: gradients with respect to everything."""

    def frozen(self, params: Params, readout: Readout = ..., dtype: DTypeLike = ...) -> Explain:
        """The frozen form: parameters constant, fast repeated gradients with respect to the input."""

    def head_kernel(self, params: Params) -> Head:
        """The linear layer `[K, C]` that reads the maps off the last feature map."""

    def smooth(self, beta: float = 1.0) -> Model:
        """The same network with a softplus, log(1 + exp(beta x)) / beta, for relu. It takes the same parameters and has second derivatives."""


def checked_count(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is a whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def checked_images(function: Any, params: Params, images: Array) -> tuple[np.ndarray, int]:
    """Images as float32 on the host, and the number of classes of the classifier.

    Raises:
      ValueError: for images that are none, and for a classifier that does not take them.
    """
    x = np.asarray(images)
    if x.ndim != 4 or not len(x):
        raise ValueError(f"images must be [n, H, W, c], got shape {x.shape}")
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"images must be floats in [0, 1], got {x.dtype}: divide uint8 pixels by 255")
    if not (np.isfinite(x).all() and x.min() >= 0.0 and x.max() <= 1.0):
        raise ValueError(
            f"images must be in [0, 1], got {x.min():g} .. {x.max():g}: what the network needs otherwise belongs into the classifier"
        )

    def logits(z: Array) -> Any:
        out = function.explain(params, z) if hasattr(function, "explain") else function(z)
        return out.logits if isinstance(out, Explanation) else out

    shape = jax.eval_shape(logits, jax.ShapeDtypeStruct(x.shape[1:], jnp.float32)).shape
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"a classifier takes one image {x.shape[1:]} and returns logits [C], this one returns shape {shape}")
    return x.astype(np.float32), shape[0]


def checked_labels(labels: Array, n: int, num_classes: int, name: str) -> np.ndarray:
    """Labels as int32 on the host.

    Raises:
      ValueError: unless they are n classes.
    """
    found = np.asarray(labels)
    if found.shape != (n,) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{name} must be {n} whole numbers, one for each image, got {found.dtype} of shape {found.shape}")
    if found.min() < 0 or found.max() >= num_classes:
        raise ValueError(f"{name} must be in 0 .. {num_classes - 1}, got {found.min()} .. {found.max()}")
    return found.astype(np.int32)
