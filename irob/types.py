"""Types that the functions of `irob` share.

Shapes are written in jaxtyping's notation: `H W` is the size of an image, `c` its channels, `h w` the size of a map, `C` the number of
classes, `K` the number of features. Everything is ONE example; `jax.vmap` lifts it to a batch.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
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


@runtime_checkable
class Model(Protocol):
    """A network as `irob.maps` sees it: a function `x -> (maps, logits)` in two forms with the same values."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, c) of the images."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""

    def explain(self, params: Params, x: Image, readout: Readout = ...) -> Explanation:
        """The differentiable form: gradients with respect to everything."""

    def frozen(self, params: Params, readout: Readout = ..., dtype: DTypeLike = ...) -> Explain:
        """The frozen form: parameters constant, fast repeated gradients with respect to the input."""

    def smooth(self) -> "Model":
        """The same network with softplus for relu, which takes the same parameters and has second derivatives."""
