"""Projected gradient ascent on any objective, inside any ball."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.arrays import Array, Objective, Point, Scalar
from irob.attacks.balls import Ball

ScoredObjective = Callable[[Point], tuple[Scalar, Scalar]]


class AttackResult(NamedTuple):
    """x_adv: the adversarial image `[H, W, c]` (or other variable), inside the ball. score: how good it is for the attacker, by what chose it."""

    x_adv: Point
    score: Scalar


def pgd(
    objective: Objective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
) -> Point:
    """Projected gradient ascent (Madry et al. 2018, https://arxiv.org/abs/1706.06083), last iterate:

        x_0 = start,    x_{k+1} = project(x_k + step along the steepest ascent of the objective at x_k)

    Args:
      objective: `x_adv -> scalar`, larger = more adversarial. A closure: whatever depends on x alone is best computed before, outside.
      ball: norm and radius, from `attacks.balls`; it holds the [0, 1] box too.
      x: the clean image `[H, W, c]` in [0, 1], or whatever point the ball is around.
      step_sizes: `[steps]`, one size per step in the ball's norm: `constant_steps` or `decaying_steps`.
      start: the first iterate, projected on the ball; x itself if None.
        Random starts are `ball.random_point(key, x)`. An objective that compares with x, such as a
        discrepancy, has gradient zero at x, so it needs a random start.

    Returns:
      The last iterate; no gradient flows through it.

    Raises:
      ValueError: if there is no step.

    >>> import jax.numpy as jnp
    >>> from irob.attacks.balls import LInf
    >>> x = jnp.full((1, 2, 1), 0.5)
    >>> pgd(lambda z: z[0, 0, 0] - z[0, 1, 0], LInf(0.25), x, step_sizes=constant_steps(0.5, 3)).ravel().tolist()
    [0.75, 0.25]
    """

    def step(x_adv: Point, size: Any) -> tuple[Point, None]:
        return ball.project(ball.ascend(x_adv, jax.grad(objective)(x_adv), size), x), None

    x_adv, _ = jax.lax.scan(step, _start(start, ball, x), _checked(step_sizes, x))
    return jax.lax.stop_gradient(x_adv)


def best_of_pgd(
    objective: ScoredObjective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
) -> AttackResult:
    """Like `pgd`, but returns the iterate with the highest score, the start and the last one included.

    What is ascended need not be what decides: the attack may follow the cross-entropy and be judged by the margin.

    Args:
      objective: `x_adv -> (value, score)`; the value is ascended, the score compared. One forward pass gives both.
      ball, x, step_sizes, start: as in `pgd`.
    """
    first = jax.lax.stop_gradient(_start(start, ball, x))

    def better(best: AttackResult, x_adv: Point, score: Scalar) -> AttackResult:
        higher = score > best.score
        return AttackResult(jnp.where(higher, x_adv, best.x_adv), jnp.where(higher, score, best.score))

    def step(state: tuple[Point, AttackResult], size: Any) -> tuple[tuple[Point, AttackResult], None]:
        x_adv, best = state
        gradient, score = jax.grad(objective, has_aux=True)(x_adv)
        best = better(best, x_adv, score)
        return (ball.project(ball.ascend(x_adv, gradient, size), x), best), None

    worst = AttackResult(first, jnp.full((), -jnp.inf, first.dtype))
    (x_adv, best), _ = jax.lax.scan(step, (first, worst), _checked(step_sizes, x))
    return jax.lax.stop_gradient(better(best, x_adv, objective(x_adv)[1]))


def last_of_pgd(
    objective: ScoredObjective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
) -> AttackResult:
    """`pgd` with the score of its last iterate: what to hand over where `best_of_pgd` is expected, to get the last iterate instead."""
    x_adv = pgd(lambda z: objective(z)[0], ball, x, step_sizes=step_sizes, start=start)
    return AttackResult(x_adv, jax.lax.stop_gradient(objective(x_adv)[1]))


def constant_steps(step_size: Scalar, num_steps: int) -> Float[Array, " steps"]:
    """`num_steps` steps of the same size."""
    return jnp.full(num_steps, step_size, jnp.float32)


def decaying_steps(eps: Scalar, num_steps: int) -> Float[Array, " steps"]:
    """Thirds of the run at 0.2, 0.06 and 0.02 eps (the last takes what does not divide): far first, then fine."""
    third = np.minimum(np.arange(num_steps) // max(num_steps // 3, 1), 2)
    return jnp.asarray(eps * np.array([0.2, 0.06, 0.02], np.float32)[third], jnp.float32)


def _start(start: Point | None, ball: Ball, x: Point) -> Array:
    return jnp.asarray(x) if start is None else jnp.asarray(ball.project(start, x))


def _checked(step_sizes: Float[Array, " steps"], x: Point) -> Array:
    if step_sizes.shape[0] < 1:
        raise ValueError("step_sizes is empty: an attack takes at least one step")
    return jnp.asarray(step_sizes, x.dtype)
