"""What every attack is: its interface, what it returns, and what it does with gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from irob.attacks.balls import Ball
from irob.types import Array, Point, PRNGKey, Scalar

ScoredObjective = Callable[[Point], tuple[Scalar, Scalar]]  # x_adv -> (value that is ascended, score that chooses the result)


class GradientCounts(NamedTuple):
    """How many gradients an attack took, how many of them were zero everywhere, and how many were not finite somewhere."""

    taken: Scalar = 0
    zero: Scalar = 0
    nonfinite: Scalar = 0

    def with_one(self, gradient: Point) -> GradientCounts:
        """The counts with one gradient more."""
        finite = jnp.all(jnp.isfinite(gradient))
        return GradientCounts(self.taken + 1, self.zero + (finite & jnp.all(gradient == 0.0)), self.nonfinite + ~finite)

    def plus(self, other: GradientCounts) -> GradientCounts:
        """The counts of two attacks together."""
        return GradientCounts(*(a + b for a, b in zip(self, other, strict=True)))

    def useless(self) -> Any:
        """Whether gradients were taken and none of them was of use, so that the failure of an attack says nothing about the network."""
        return jnp.asarray((self.taken > 0) & (self.zero + self.nonfinite >= self.taken))


class AttackResult(NamedTuple):
    """What an attack found.

    x_adv: the adversarial image `[H, W, c]` (or other variable), inside the ball.
    score: its score; larger = better for the attacker.
    gradients: what the attack had to go by; none are counted where an attack does not say.
    """

    x_adv: Point
    score: Scalar
    gradients: GradientCounts = GradientCounts()

    def finite(self) -> Any:
        """Whether the point is finite, and at least one gradient was, if any was taken."""
        none = (self.gradients.taken > 0) & (self.gradients.nonfinite >= self.gradients.taken)
        return jnp.all(jnp.isfinite(self.x_adv)) & ~jnp.asarray(none)


Ascent = Callable[[ScoredObjective], AttackResult]  # an attack with everything but the objective filled in


@runtime_checkable
class Attack(Protocol):
    """A row of `ATTACKS`: ascends an objective inside a ball.

    key: of everything random. num_steps: its budget of gradients. start: the first iterate where the caller has one.
    """

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult: ...


class Linearization(NamedTuple):
    """Of an objective at a point: its value, its score, its gradient (zero where that is not finite)."""

    value: Scalar
    score: Any
    gradient: Point


def linearized(
    objective: Callable[[Point], tuple[Scalar, Any]], x_adv: Point, counts: GradientCounts
) -> tuple[Linearization, GradientCounts]:
    """An objective at a point, by one forward and one backward pass; the counts with its gradient."""
    (value, score), gradient = jax.value_and_grad(objective, has_aux=True)(x_adv)
    return Linearization(value, score, jnp.where(jnp.isfinite(gradient), gradient, 0.0)), counts.with_one(gradient)


def selected(condition: Any, these: Any, those: Any) -> Any:
    """One of two trees of arrays, leaf by leaf, by a scalar condition that may be traced."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)


def no_gradients() -> GradientCounts:
    """The counts before the first gradient."""
    return GradientCounts(*jnp.zeros(3, jnp.int32))


def said(result: AttackResult) -> AttackResult:
    """The result; with a warning, where its values are known, if the attack had nothing to go by."""
    counts = result.gradients
    if not any(isinstance(count, jax.core.Tracer) for count in counts) and counts.useless():
        warnings.warn(
            f"none of the {counts.taken} gradients of the objective was of use ({counts.zero} zero everywhere, {counts.nonfinite} not finite): the"
            " attack went nowhere. An objective that compares with x needs a random start; a network that hides its gradients, another attack.",
            stacklevel=3,
        )
    return result


def first_iterate(start: Point | None, ball: Ball, x: Point) -> Array:
    """The start of an attack, in the set; x itself if there is none.

    Raises:
      ValueError: unless x is floats, and the start of the same shape.
    """
    if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
        raise ValueError(f"x must be floats, pixels in [0, 1], got {jnp.asarray(x).dtype}: divide uint8 pixels by 255")
    if start is not None and jnp.shape(start) != jnp.shape(x):
        raise ValueError(f"start must have the shape of x, {jnp.shape(x)}, got {jnp.shape(start)}")
    return jnp.asarray(x) if start is None else jnp.asarray(ball.project(start, x))
