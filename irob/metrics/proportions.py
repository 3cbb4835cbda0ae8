"""Proportions and means over examples, with their uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from irob.types import Array


class Proportion(NamedTuple):
    """A proportion of n examples. value: in [0, 1]. low, high: its confidence interval. n: how many examples were counted."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion p:

        center = (p + z^2 / 2n) / (1 + z^2 / n),  half-width = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    Unlike p +- z sqrt(p (1 - p) / n) it stays in [0, 1] and keeps its coverage near 0 and 1.

    Args:
      successes: in 0 .. n.
      n: number of examples, >= 1.
      z: quantile of the normal distribution; the default, that of 0.975, gives 95% coverage.

    Returns:
      Lower and upper end, in [0, 1].

    Raises:
      ValueError: unless 0 <= successes <= n and n >= 1.

    References:
      Wilson 1927, https://doi.org/10.2307/2276774.

    >>> [round(end, 4) for end in wilson_interval(0, 100)]
    [0.0, 0.037]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    p, scale = successes / n, 1.0 + z * z / n
    center = (p + z * z / (2 * n)) / scale
    half = z * np.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n)) / scale
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def robust_accuracy(correct: Bool[Array, " n"], counted: Bool[Array, " n"] | None = None) -> Proportion:
    """The proportion of examples that are still classified correctly under attack, with its 95% Wilson interval.

    Args:
      correct: `[n]`, True where the attack failed. Examples misclassified without attack count as False.
      counted: `[n]`, False for padding; None counts all.

    Returns:
      Value, interval and n.

    Raises:
      ValueError: unless it is `[n]` of bool, and if no example is counted.

    >>> robust_accuracy(np.array([True, False, True, True])).value
    0.75
    """
    if np.ndim(correct) != 1 or np.asarray(correct).dtype != bool:
        raise ValueError(
            f"correct must be True or False for each of n examples, got {np.asarray(correct).dtype} of shape {np.shape(correct)}"
        )
    kept = np.asarray(correct) if counted is None else np.asarray(correct)[np.asarray(counted)]
    successes = int(kept.sum())
    low, high = wilson_interval(successes, len(kept))
    return Proportion(successes / len(kept), low, high, len(kept))


def worst_case(correct: Bool[Array, "attempts n"]) -> Bool[Array, " n"]:
    """Correct under every attempt (restart, attack, objective), for each example."""
    return jnp.all(correct, axis=0)


def mean_with_error(values: Float[Array, " n"]) -> tuple[float, float]:
    """Mean and its standard error `s / sqrt(n)` (s with n - 1); the error of one value is NaN.

    Raises:
      ValueError: if there is no value.
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        raise ValueError("the mean of no values: at least one is needed")
    error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else np.nan
    return float(array.mean()), float(error)
