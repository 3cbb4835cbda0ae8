"""Two networks on the same examples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from irob.metrics.proportions import mean_with_error
from irob.types import Array


class Paired(NamedTuple):
    """only_first, only_second: how many examples only one of the two gets right. p_value: of the exact McNemar test, two-sided."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Bool[Array, " n"], second: Bool[Array, " n"]) -> Paired:
    """McNemar's exact test of whether two networks are right equally often, on the same examples:

        p = min(1, 2 P(X <= min(b, c))),    X ~ Binomial(b + c, 1/2)

    with b and c the examples that only one of them gets right. Two separate intervals would ignore that easy examples are easy for both.

    Args:
      first, second: `[n]`, whether each is right.

    Returns:
      b, c and p; p = 1 where b + c = 0.

    Raises:
      ValueError: unless both are `[n]` of bool.

    References:
      McNemar 1947, https://doi.org/10.1007/BF02295996; exact: the binomial test of the sign.

    >>> round(mcnemar(np.array([True] * 6 + [False]), np.array([False] * 6 + [True])).p_value, 4)
    0.125
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape or a.dtype != bool or b.dtype != bool:
        raise ValueError(f"both must be True or False for each of n examples, got {a.dtype}{a.shape} and {b.dtype}{b.shape}")
    only_first, only_second = int(np.sum(a & ~b)), int(np.sum(~a & b))
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)) for k in range(least + 1))
    return Paired(only_first, only_second, min(1.0, 2.0 * tail))


class Difference(NamedTuple):
    """value: the mean difference. low, high: its 95% interval. p_value: that it is zero, two-sided."""

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(first: Float[Array, " n"], second: Float[Array, " n"]) -> Difference:
    """The mean difference of two scores of the same examples, in the normal approximation:

        d_i = a_i - b_i,    z = mean(d) / (s / sqrt(n)),    p = max(erfc(|z| / sqrt 2), 2^(1 - m))

    with s the standard deviation of d (n - 1) and m the number of d_i that are not 0: no exact test of their signs has a smaller p. For scores
    such as the proportion of seeds of a training that are right on an example.

    Args:
      first, second: `[n]`, n >= 2, the scores.

    Returns:
      The difference of the means, its interval and p; p = 1 where all d are 0.

    Raises:
      ValueError: unless both are `[n]`, n >= 2, of finite numbers.

    >>> round(paired_difference(np.array([1.0, 0.5, 1.0, 1.0]), np.array([0.0, 0.5, 1.0, 0.0])).value, 4)
    0.5
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"both must be finite scores of the same n >= 2 examples, got {a.shape} and {b.shape}")
    value, error = mean_with_error(a - b)
    z = value / error if error else math.copysign(math.inf, value) if value else 0.0
    smallest = 2.0 ** min(1 - int(np.sum(a != b)), 0)
    return Difference(value, value - 1.959964 * error, value + 1.959964 * error, max(math.erfc(abs(z) / math.sqrt(2.0)), smallest))
