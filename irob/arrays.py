"""The types that every function of `irob` speaks.

Shapes are written in jaxtyping's notation: `H W` is the size of an image, `c` its colours, `h w` the size of a map, `C` the number of
classes, `K` the number of features. Everything is ONE example; `jax.vmap` lifts it to a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, PyTree

Array = jax.Array | np.ndarray

Image = Float[Array, "H W c"]  # pixels in [0, 1]
Point = Float[Array, "*point"]  # an image, or any other variable that an attack moves
Maps = Float[Array, "h w C"]  # one interpretation map per class
Features = Float[Array, "h w K"]  # the last feature map of a network
Logits = Float[Array, " C"]
ClassWeights = Float[Array, " C"]
PixelSet = Bool[Array, "h w C"]  # True where a position counts
Label = Int[Array, ""] | np.integer | int  # class index in 0 .. C - 1
Scalar = Float[Array, ""] | np.floating | float
PRNGKey = Key[Array, ""]
Params = PyTree


class Explanation(NamedTuple):
    """What an explainer says of one image.

    maps: `[h, w, C]`, one interpretation map per class (for class activation maps: their mean over positions is the logit).
    logits: `[C]`.
    """

    maps: Maps
    logits: Logits


Explain = Callable[[Image], Explanation]
Objective = Callable[[Point], Scalar]  # of a perturbed image (or other variable); larger = more adversarial
