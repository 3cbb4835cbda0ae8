"""Similarities: how alike two maps are, as numbers that do not depend on their scale.

    top_k_overlap    share of the k largest positions in common          cosine     angle
    kendall_tau      rank correlation by pairs                           pearson    linear correlation
    spearman         linear correlation of the ranks                     ssim       means, spreads and correlation in local windows

All are at most 1; 1 = the same map, up to what each ignores.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.discrepancies import top_k_pixels
from irob.types import Array, Maps, Scalar


def top_k_overlap(a: Maps, b: Maps, k: int) -> Float[Array, " C"]:
    """`|top_k(a_c) & top_k(b_c)| / k` for each class, in [0, 1]: the share of their k largest positions that two maps have in common.

    Args:
      a, b: `[h, w, C]`, e.g. the maps of two networks on one image.
      k: as in `top_k_pixels`, which says what is raised.
    """
    return jnp.sum(top_k_pixels(a, k) & top_k_pixels(b, k), axis=(0, 1)) / k


def pearson(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Scalar:
    """Pearson's correlation of two maps:

        r = <a - mean a, b - mean b> / ( ||a - mean a||_2 ||b - mean b||_2 )

    Args:
      a, b: arrays of one shape.

    Returns:
      A scalar in [-1, 1]; NaN if a map is constant.

    >>> round(float(pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0, 4.0, 2.0]))), 5)
    -1.0
    """
    constant = (jnp.max(a) == jnp.min(a)) | (jnp.max(b) == jnp.min(b))  # its mean may differ from it by rounding
    a, b = a - jnp.mean(a), b - jnp.mean(b)
    a, b = (v / jnp.max(jnp.abs(v)) for v in (a, b))  # the squares of small numbers would underflow
    return jnp.where(constant, jnp.nan, jnp.sum(a * b) / (jnp.sqrt(jnp.sum(a**2)) * jnp.sqrt(jnp.sum(b**2))))


def kendall_tau(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Scalar:
    """Kendall's rank correlation tau-b of two maps, corrected for ties:

        tau_b = sum_{i<j} sign(a_i - a_j) sign(b_i - b_j) / sqrt( #{i<j: a_i != a_j} #{i<j: b_i != b_j} )

    It compares all n^2 pairs of n positions, 64 n of them at a time in memory.

    Args:
      a, b: arrays of one shape.

    Returns:
      A scalar in [-1, 1]; NaN if a map is constant.

    Raises:
      ValueError: for two shapes.

    References:
      Kendall 1945, https://doi.org/10.1093/biomet/33.3.239.

    >>> round(float(kendall_tau(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 1.0, 3.0]))), 4)
    0.3333
    """
    a, b = (jnp.ravel(each) for each in _of_one_shape(a, b))

    def against_all(pair: tuple[Array, Array]) -> Array:
        sign_a, sign_b = (jnp.sign(v - whole) for v, whole in zip(pair, (a, b), strict=True))
        return jnp.stack([jnp.sum(sign_a * sign_b), jnp.sum(sign_a**2), jnp.sum(sign_b**2)])

    concordance, pairs_a, pairs_b = jnp.sum(jax.lax.map(against_all, (a, b), batch_size=64), axis=0)
    return concordance / jnp.sqrt(pairs_a * pairs_b)


def spearman(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Scalar:
    """Spearman's rank correlation: `pearson` of the ranks, equal values having the mean of their ranks.

    Args:
      a, b: arrays of one shape.

    Returns:
      A scalar in [-1, 1]; NaN if a map is constant, or NaN somewhere.

    Raises:
      ValueError: for two shapes.

    References:
      Spearman 1904, https://doi.org/10.2307/1412159.

    >>> round(float(spearman(jnp.array([1.0, 2.0, 9.0]), jnp.array([2.0, 1.0, 3.0]))), 4)
    0.5
    """
    a, b = _of_one_shape(a, b)
    return jnp.where(jnp.any(jnp.isnan(a) | jnp.isnan(b)), jnp.nan, pearson(ranks(a), ranks(b)))


def ranks(values: Float[Array, "*shape"]) -> Float[Array, " n"]:
    """The rank of each value, 0 for the smallest; equal values have the mean of theirs.

    >>> ranks(jnp.array([5.0, 2.0, 5.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    flat = jnp.ravel(values)
    ordered = jnp.sort(flat)
    first, last = (jnp.searchsorted(ordered, flat, side=side) for side in ("left", "right"))
    return 0.5 * (first + last - 1).astype(flat.dtype)


def cosine(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Scalar:
    """The cosine of the angle between two maps, `<a, b> / (||a||_2 ||b||_2)`.

    Args:
      a, b: arrays of one shape.

    Returns:
      A scalar in [-1, 1]; NaN if a map is 0.

    Raises:
      ValueError: for two shapes.

    >>> round(float(cosine(jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0]))), 4)
    0.96
    """
    a, b = (jnp.ravel(v) / jnp.max(jnp.abs(v)) for v in _of_one_shape(a, b))  # the squares of small numbers would underflow
    return jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def ssim(a: Float[Array, "h w"], b: Float[Array, "h w"], *, window: int = 7, data_range: Scalar | None = None) -> Scalar:
    """The mean over windows of the structural similarity, mu, s^2 and s_ab being means, sample variances and covariance inside a window:

        SSIM = (2 mu_a mu_b + c1) (2 s_ab + c2) / ((mu_a^2 + mu_b^2 + c1) (s_a^2 + s_b^2 + c2)),    c1 = (0.01 L)^2, c2 = (0.03 L)^2

    Args:
      a, b: maps of one shape.
      window: side of the square windows, odd; all that fit inside are counted.
      data_range: L; None for the range of both maps together.

    Returns:
      A scalar in [-1, 1].

    Raises:
      ValueError: for two shapes, and for a window that is even or larger than the map.

    References:
      Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, eq. 13; uniform windows.

    >>> a = jnp.arange(64.0).reshape(8, 8)
    >>> round(float(ssim(a, a)), 4), round(float(ssim(a, 63.0 - a)), 2)
    (1.0, -0.95)
    """
    a, b = _of_one_shape(a, b)
    if a.ndim != 2 or window % 2 == 0 or not 1 < window <= min(a.shape):
        raise ValueError(f"ssim takes maps [h, w] and an odd window in 3..{min(a.shape)}, got shape {a.shape} and window {window}")

    def mean(v: Array) -> Array:
        return jax.lax.reduce_window(v, np.zeros((), v.dtype), jax.lax.add, (window, window), (1, 1), "VALID") / window**2

    sample = window**2 / (window**2 - 1.0)
    span = jnp.maximum(jnp.max(a), jnp.max(b)) - jnp.minimum(jnp.min(a), jnp.min(b)) if data_range is None else data_range
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, both = (sample * (mean(u * v) - mu * nu) for u, v, mu, nu in ((a, a, mu_a, mu_a), (b, b, mu_b, mu_b), (a, b, mu_a, mu_b)))
    return jnp.mean((2.0 * mu_a * mu_b + c1) * (2.0 * both + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)))


def _of_one_shape(a: Array, b: Array) -> tuple[Array, Array]:
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(f"both maps must have one shape, got {jnp.shape(a)} and {jnp.shape(b)}")
    return jnp.asarray(a), jnp.asarray(b)
