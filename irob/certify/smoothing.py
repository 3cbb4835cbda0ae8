"""Randomized smoothing: certificates in l2 for any network, from its outputs under Gaussian noise. They hold with a probability, 1 - alpha."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from irob.types import Array, Image, Logits, PRNGKey, Scalar

QUANTILE = statistics.NormalDist().inv_cdf


class Smoothed(NamedTuple):
    """prediction: the class of the smoothed classifier; -1: it abstains. radius: in l2, within which it keeps this class; 0 where it abstains."""

    prediction: int
    radius: float


def noisy_counts(logits: Callable[[Image], Logits], x: Image, key: PRNGKey, *, sigma: Scalar, draws: int) -> Int[Array, " C"]:
    """How often each class is predicted at `x + sigma N(0, 1)`, not clipped to [0, 1].

    Args:
      logits: the network.
      x: the image.
      key: of the noise.
      sigma: its standard deviation.
      draws: how many.

    Returns:
      `[C]`, summing to `draws`.
    """

    def one(counts: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        predicted = jnp.argmax(logits(x + sigma * jax.random.normal(key, x.shape, x.dtype)))
        return counts.at[predicted].add(1), None

    count = jax.eval_shape(logits, x).shape[0]
    return jax.lax.scan(one, jnp.zeros(count, jnp.int32), jax.random.split(key, draws))[0]


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """The lower end of a one-sided interval of a proportion: the p at which so many successes or more have probability alpha.

    Raises:
      ValueError: unless 0 <= successes <= n, n >= 1 and 0 < alpha < 1.

    References:
      Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.

    >>> round(clopper_pearson_lower(100, 100, 0.001), 4)
    0.9333
    """
    if n < 1 or not 0 <= successes <= n or not 0.0 < alpha < 1.0:
        raise ValueError(f"a proportion needs 0 <= successes <= n, n >= 1 and 0 < alpha < 1, got {successes} of {n}, alpha {alpha}")
    if successes == 0:
        return 0.0
    k = np.arange(successes, n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = 0.5 * (low + high)
        logs = ways + k * math.log(p) + (n - k) * math.log1p(-p)
        tail = math.exp(logs.max()) * float(np.sum(np.exp(logs - logs.max())))
        low, high = (p, high) if tail < alpha else (low, p)
    return low


def certified_prediction(first: Int[Array, " C"], second: Int[Array, " C"], sigma: float, alpha: float = 0.001) -> Smoothed:
    """The class that most noisy images have, and the radius within which the smoothed classifier keeps it, with probability 1 - alpha:

        R = sigma Phi^-1(p),    p = the Clopper-Pearson lower bound of the class's proportion; it abstains where p <= 1/2

    Args:
      first: counts that choose the class.
      second: counts of independent draws, that bound its proportion.
      sigma: of the noise.
      alpha: of the bound.

    References:
      Cohen et al. 2019, https://arxiv.org/abs/1902.02918, theorem 1 and sec. 3.2.

    >>> certified_prediction(np.array([9, 1]), np.array([100, 0]), 0.5).prediction
    0
    """
    chosen = int(np.argmax(first))
    p = clopper_pearson_lower(int(second[chosen]), int(np.sum(second)), alpha)
    return Smoothed(chosen, sigma * QUANTILE(min(p, 1.0 - 1e-12))) if p > 0.5 else Smoothed(-1, 0.0)


def smoothed_top(attribute: Callable[[Image], Array], x: Image, key: PRNGKey, *, sigma: Scalar, draws: int, top: int) -> Float[Array, " n"]:
    """The sparsified smoothed map: how often each position is among the `top` largest of the map at `x + sigma N(0, 1)`.

    Args:
      attribute: `x -> map`, of n entries.
      x, key, sigma, draws: as in `noisy_counts`.
      top: positions that count each time.

    Returns:
      `[n]` in [0, 1].

    References:
      Levine et al. 2019, https://arxiv.org/abs/1905.12105 (sparsified SmoothGrad).
    """

    def one(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        found = jnp.ravel(attribute(x + sigma * jax.random.normal(key, x.shape, x.dtype)))
        return total.at[jax.lax.top_k(found, top)[1]].add(1), None

    n = int(np.prod(jax.eval_shape(attribute, x).shape))
    return jax.lax.scan(one, jnp.zeros(n, jnp.int32), jax.random.split(key, draws))[0] / draws


def certified_overlap(means: Float[Array, " n"], k: int, radius: float, *, sigma: float, draws: int, alpha: float = 0.001) -> int:
    """How many of the k largest positions of the smoothed map stay among its k largest, for every x' within an l2 radius: the largest r with

        Phi^-1( l_[r] ) - Phi^-1( u_[2k - r + 1] ) > 2 radius / sigma

    l_[r] being the r-th largest lower bound of the means, u_[r] the r-th largest upper bound, by Hoeffding for all n at once: they hold with
    probability 1 - alpha. (If fewer than r stay, one of the r largest has been passed by one that was not among the 2k - r largest.)

    Args:
      means: of `smoothed_top`.
      k: positions; 2 k <= n.
      radius: in l2.
      sigma, draws: of the smoothed map.
      alpha: of the bounds.

    Returns:
      A number from 0 to k.

    Raises:
      ValueError: for k beyond half of the positions.

    References:
      Levine et al. 2019, https://arxiv.org/abs/1905.12105.

    >>> certified_overlap(np.array([1.0, 1.0, 0.0, 0.0]), 2, 0.0, sigma=0.5, draws=1000)
    2
    """
    values = np.sort(np.asarray(means, np.float64))[::-1]
    n = len(values)
    if not 1 <= k <= n // 2:
        raise ValueError(f"k must be in 1..{n // 2}, half of the positions, got {k}")
    error = math.sqrt(math.log(2.0 * n / alpha) / (2.0 * draws))
    scale = lambda p: QUANTILE(min(max(p, 1e-12), 1.0 - 1e-12))  # noqa: E731
    for r in range(k, 0, -1):
        lower, upper = values[r - 1] - error, values[2 * k - r] + error
        if lower > 0.0 and upper < 1.0 and scale(lower) - scale(upper) > 2.0 * radius / sigma:
            return r
    return 0
