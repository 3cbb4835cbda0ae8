"""How few positions a map is made of. Lower entropy, fewer effective pixels and a higher Gini index mean a simpler map, not a truer one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.types import Array, Image, Scalar


def entropy(attribution: Array) -> Scalar:
    """The entropy of a map's sizes as a distribution, in nats:

        H = -sum_i p_i log p_i,    p_i = |A_i| / sum_j |A_j|

    Args:
      attribution: A, of any shape.

    Returns:
      A scalar in [0, log n]; NaN for a map of zeros.

    References:
      Bhatt et al. 2020, https://arxiv.org/abs/2005.00631, complexity.

    >>> round(float(entropy(jnp.array([1.0, -1.0, 0.0]))), 4)
    0.6931
    """
    sizes = jnp.abs(attribution)
    p = sizes / jnp.sum(sizes)
    return -jnp.sum(jnp.where(p > 0.0, p * jnp.log(jnp.where(p > 0.0, p, 1.0)), jnp.where(jnp.isnan(p), jnp.nan, 0.0)))


def effective_pixels(attribution: Array) -> Scalar:
    """`exp(entropy)`: of a map that is equally large at k positions and 0 elsewhere, k.

    >>> round(float(effective_pixels(jnp.array([1.0, -1.0, 0.0]))), 4)
    2.0
    """
    return jnp.exp(entropy(attribution))


def gini(attribution: Array) -> Scalar:
    """The Gini index of a map's sizes, a_(1) <= ... <= a_(n) the sorted |A_i|:

        G = sum_i (2 i - n - 1) a_(i) / (n sum_i a_(i))

    Args:
      attribution: A, of any shape.

    Returns:
      A scalar from 0, all sizes equal, to 1 - 1/n, all in one position; NaN for a map of zeros.

    References:
      Chalasani et al. 2020, https://arxiv.org/abs/1810.06583.

    >>> float(gini(jnp.array([0.0, 0.0, 0.0, -2.0])))
    0.75
    """
    sizes = jnp.sort(jnp.abs(jnp.ravel(attribution)))
    n = sizes.size
    return jnp.sum((2.0 * np.arange(1, n + 1, dtype=np.float32) - n - 1.0) * sizes) / (n * jnp.sum(sizes))


def histogram_entropy(attribution: Array, *, bins: int = 100) -> Scalar:
    """The entropy, in nats, of the histogram of a map's values between its smallest and its largest.

    Args:
      attribution: of any shape.
      bins: of the histogram.

    Returns:
      A scalar in [0, log bins].

    References:
      Hedström et al. 2023, https://arxiv.org/abs/2401.06465 (eMPRT).
    """
    flat = jnp.ravel(attribution)
    counts, _ = jnp.histogram(flat, bins=bins)
    return entropy(counts.astype(flat.dtype))


def alignment(gradient: Float[Array, "H W c"], x: Image) -> Scalar:
    """`|<x, g>| / ||g||_2`: how far the image lies along the gradient of the score; robust networks have more of it.

    Args:
      gradient: g, of the largest logit, for instance.
      x: the image.

    Returns:
      A scalar from 0 to ||x||_2; 0 where the gradient is 0.

    References:
      Etmann et al. 2019, https://arxiv.org/abs/1905.04172, definition 2.

    >>> round(float(alignment(jnp.array([[[3.0, 4.0]]]), jnp.array([[[1.0, 0.5]]]))), 4)
    1.0
    """
    largest = jnp.max(jnp.abs(gradient))
    direction = gradient / jnp.where(largest > 0.0, largest, 1.0)  # the squares of small numbers would underflow
    return jnp.abs(jnp.sum(x * direction)) / jnp.sqrt(jnp.where(largest > 0.0, jnp.sum(direction**2), 1.0))
