"""The smallest perturbation that succeeds: bisection on a scalar, one example at a time, in a fixed number of rounds, so that it vectorizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.types import Array, Image, Scalar


class Bisection(NamedTuple):
    """lower, upper: the remaining bracket. values `[rounds + 1]`: what was tried. outcomes: of each trial, stacked `[rounds + 1, ...]`."""

    lower: Scalar
    upper: Scalar
    values: Float[Array, " trials"]
    outcomes: Any


class MinimalPerturbation(NamedTuple):
    """eps: the smallest radius at which the attack succeeded; the limit if it never did. x_adv: the image at that radius. found: whether it did."""

    eps: Scalar
    x_adv: Image
    found: Bool[Array, ""]


def lower_end(lower: Scalar, upper: Scalar) -> Scalar:
    """The largest value whose trial went up; 0 if none did."""
    return lower


def upper_end(lower: Scalar, upper: Scalar) -> Scalar:
    """The smallest value whose trial went down; the limit if none did."""
    return upper


def bisect(
    trial: Callable[[Scalar], tuple[Any, Any]],
    start: float,
    limit: float,
    rounds: int,
    last: Callable[[Scalar, Scalar], Scalar] = upper_end,
) -> Bisection:
    """Searches [0, limit] for the value at which `trial` changes its answer.

    From `start` it goes up to the middle of the bracket, but never more than doubling, while the trial says up; otherwise down to the middle.
    One more trial at an end of the bracket concludes.

    Args:
      trial: value -> (bool, whether to go up; anything).
      start, limit: 0 < start <= limit.
      rounds: trials before the last.
      last: `lower_end` or `upper_end`.

    Returns:
      The bracket, and all values tried with their outcomes.

    Raises:
      ValueError: unless 0 < start <= limit and rounds >= 1.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, code: the rule of both of their searches.

    >>> round(float(bisect(lambda v: (v < 0.3, None), 0.05, 1.0, 12).upper), 3)
    0.3
    """
    if not 0.0 < start <= limit or rounds < 1:
        raise ValueError(f"bisection needs 0 < start <= limit and rounds >= 1, got start {start}, limit {limit}, rounds {rounds}")

    def one_round(state: tuple[Array, Array, Array], concludes: Array) -> tuple[Any, Any]:
        value, lower, upper = state
        value = jnp.where(concludes, last(lower, upper), value)
        up, outcome = trial(value)
        lower, upper = jnp.where(up & ~concludes, value, lower), jnp.where(up | concludes, upper, value)
        middle = (lower + upper) / 2.0
        following = jnp.where(up, jnp.minimum(2.0 * value, middle), middle)
        return (following, lower, upper), (value, outcome)

    first = (jnp.float32(start), jnp.float32(0.0), jnp.float32(limit))
    (_, lower, upper), (values, outcomes) = jax.lax.scan(one_round, first, jnp.arange(rounds + 1) == rounds)
    return Bisection(lower, upper, values, outcomes)


def smallest_eps(
    attack: Callable[[Scalar], Image],
    succeeds: Callable[[Image], Any],
    *,
    start: float = 0.05,
    limit: float = 1.0,
    rounds: int = 10,
) -> MinimalPerturbation:
    """The smallest radius at which an attack succeeds, by bisection. It is as exact as the attack is monotone in its radius.

    Args:
      attack: eps -> attacked image.
      succeeds: attacked image -> whether it is a success.
      start, limit, rounds: of `bisect`. The defaults are those of Boopathy et al. 2020.

    Returns:
      The radius, the image at that radius, and whether any trial succeeded.

    >>> found = smallest_eps(lambda eps: jnp.full((1, 1, 1), eps), lambda z: z[0, 0, 0] >= 0.25, rounds=14)
    >>> round(float(found.eps), 3), bool(found.found)
    (0.25, True)
    """

    def trial(eps: Scalar) -> tuple[Array, tuple[Image, Array]]:
        x_adv = attack(eps)
        success = succeeds(x_adv)
        return ~success, (x_adv, success)

    search = bisect(trial, start, limit, rounds, upper_end)
    images, successes = search.outcomes
    found = jnp.any(successes)
    picked = jnp.where(found, jnp.argmin(jnp.where(successes, search.values, jnp.inf)), rounds)
    return MinimalPerturbation(search.values[picked], images[picked], found)
