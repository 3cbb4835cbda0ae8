"""ROAD: positions are taken out and filled in from their neighbors, so that what is missing cannot be seen, and no baseline is needed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from irob.metrics.explanations.faithfulness import Positions, order_of
from irob.types import Array, Image, PRNGKey, Scalar

# Of the neighbors of a pixel: beside it 1/6, at its corners 1/12.
NEIGHBORS = np.array([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]], np.float32) / 12.0


def linear_imputation(x: Image, missing: Bool[Array, "H W"], key: PRNGKey, *, noise: Scalar = 0.01) -> Image:
    """Each missing pixel as the weighted mean of its neighbors, all missing ones at once, plus noise:

        x_i sum_j w_ij = sum_j w_ij x_j    over the neighbors j in the image,    w = 1/6 beside i, 1/12 at its corners

    Args:
      x: the image.
      missing: True where a position is to be filled in; False somewhere.
      key: of the noise.
      noise: its standard deviation.

    Returns:
      `[H, W, c]`; it may leave [0, 1] by the noise.

    References:
      Rong et al. 2022, https://arxiv.org/abs/2202.00449.
    """
    hole = missing[..., None].astype(x.dtype)
    total = _around(jnp.ones(x.shape, x.dtype))

    def matrix(v: Array) -> Array:
        return hole * (total * v - _around(hole * v)) + (1.0 - hole) * v

    known, start = hole * _around((1.0 - hole) * x), jnp.broadcast_to(0.5 * hole, x.shape)
    # Where what is known is black, a tolerance relative to it is 0.
    filled, _ = jax.scipy.sparse.linalg.cg(matrix, known, x0=start, tol=1e-5, atol=1e-5, maxiter=4 * sum(x.shape[:2]))
    return jnp.where(missing[..., None], filled + noise * jax.random.normal(key, x.shape, x.dtype), x)


def _around(v: Array) -> Array:
    """The weighted sum over the neighbors of each pixel."""
    height, width, _ = v.shape
    padded = jnp.pad(v, ((1, 1), (1, 1), (0, 0)))
    shifted = (float(NEIGHBORS[i, j]) * padded[i : i + height, j : j + width] for i in range(3) for j in range(3) if NEIGHBORS[i, j])
    return jnp.sum(jnp.stack(list(shifted)), axis=0)


def road_curve(
    score: Callable[[Image], Scalar],
    x: Image,
    attribution: Positions,
    key: PRNGKey,
    *,
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> Float[Array, " fractions"]:
    """The score when the positions with the largest attributions are imputed.

    Args:
      score: `x -> scalar`, such as 1 where the prediction is right: the mean over images is the accuracy.
      x: the image.
      attribution: `[H, W]`.
      key: of the noise.
      fractions: of the positions that are taken out, below 1.

    Returns:
      `[fractions]`, NaN if an attribution is; lower = more faithful. (With the map negated, least important first, higher is better.)

    Raises:
      ValueError: for a fraction that is not in 0 .. 1, or takes out every position.

    References:
      Rong et al. 2022, https://arxiv.org/abs/2202.00449.
    """
    if not all(fraction >= 0.0 and round(fraction * attribution.size) < attribution.size for fraction in fractions):
        raise ValueError(f"fractions must be at least 0 and leave one of the {attribution.size} positions, got {fractions}")
    order = order_of(attribution)
    counts = jnp.asarray([round(fraction * attribution.size) for fraction in fractions])
    curve = jax.lax.map(lambda count: score(linear_imputation(x, order < count, jax.random.fold_in(key, count))), counts)
    return jnp.where(jnp.any(jnp.isnan(attribution)), jnp.nan, curve)
