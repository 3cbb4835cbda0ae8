"""How small a perturbation may be: bisection on a scalar, one example at a time, in a fixed number of rounds, so that it vectorises."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.arrays import Array, Image, Scalar


class Bisection(NamedTuple):
    """lower, upper: the bracket that is left. values `[rounds + 1]`: what was tried. outcomes: what each trial gave, stacked `[rounds + 1, ...]`."""

    lower: Scalar
    upper: Scalar
    values: Float[Array, " trials"]
    outcomes: Any


class Minimal(NamedTuple):
    """eps: the smallest radius at which the attack succeeded; the limit if it never did. x_adv: the image at that radius. found: whether it did."""

    eps: Scalar
    x_adv: Image
    found: Bool[Array, ""]


def lower_end(lower: Scalar, upper: Scalar) -> Scalar:
    """The largest value that said up, 0 if none did."""
    return lower


def upper_end(lower: Scalar, upper: Scalar) -> Scalar:
    """The smallest value that said down, the limit if none did."""
    return upper


def bisect(
    trial: Callable[[Scalar], tuple[Any, Any]],
    start: float,
    limit: float,
    rounds: int,
    last: Callable[[Scalar, Scalar], Scalar] = upper_end,
) -> Bisection:
    """Searches [0, limit] for the value at which `trial` changes its mind.

    From `start`: up to the middle of the bracket, though never more than doubling, while the trial says up; else down to its middle. One trial
    more at an end of the bracket concludes. The rule of the paper's authors for both of their searches (Boopathy et al. 2020,
    https://arxiv.org/abs/2006.14748, code).

    Args:
      trial: value -> (bool, whether to go up; anything).
      start, limit: 0 < start <= limit.
      rounds: trials before the last.
      last: `lower_end` or `upper_end`.

    Raises:
      ValueError: unless 0 < start <= limit and rounds >= 1.

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
) -> Minimal:
    """The smallest radius at which an attack succeeds, found by bisection; as sharp as the attack is monotone in its radius.

    Args:
      attack: eps -> attacked image.
      succeeds: whether an image has what the attack is after.
      start, limit, rounds: of `bisect`. The defaults are those of the paper's authors.
    """

    def trial(eps: Scalar) -> tuple[Array, tuple[Image, Array]]:
        x_adv = attack(eps)
        success = succeeds(x_adv)
        return ~success, (x_adv, success)

    search = bisect(trial, start, limit, rounds, upper_end)
    images, successes = search.outcomes
    found = jnp.any(successes)
    picked = jnp.where(found, jnp.argmin(jnp.where(successes, search.values, jnp.inf)), rounds)
    return Minimal(search.values[picked], images[picked], found)
