"""Projected gradient ascent (PGD) on any objective, inside any ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.attacks.attack import AttackResult, GradientCounts, ScoredObjective, first_iterate, linearized, no_gradients, said
from irob.attacks.balls import Ball
from irob.types import Array, Objective, Point, PRNGKey, Scalar


def pgd_step(ball: Ball, x: Point, x_adv: Point, gradient: Point, step_size: Any) -> Point:
    """One step of projected gradient ascent:

        x_{k+1} = project( ascend(x_k, g, step_size) ),    for LInf  ascend = x_k + step_size sign(g),  for L2  x_k + step_size g / ||g||_2

    Args:
      ball, x: the set, and the point that it is around.
      x_adv: x_k, in the set.
      gradient: g, of the objective at x_k.
      step_size: in the ball's norm.

    Returns:
      x_{k+1}, in the set.
    """
    return ball.project(ball.ascend(x_adv, gradient, step_size), x)


def pgd(
    objective: Objective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
) -> Point:
    """Projected gradient ascent, last iterate:

        x_0 = project(start),    x_{k+1} = project( x_k + step_k along the steepest ascent of the objective at x_k )

    Args:
      objective: `x_adv -> scalar`, larger = more adversarial. A closure: compute what depends on x alone before, outside.
      ball: norm and radius, from `attacks.balls`; it includes the [0, 1] box.
      x: the clean image `[H, W, c]` in [0, 1], or whatever point the ball is around.
      step_sizes: `[steps]`, one size per step in the ball's norm, e.g. `constant_steps` or `decaying_steps`.
      start: the first iterate; x itself if None. A random start is `ball.random_point(key, x)`. An objective that compares with x, such as a
        discrepancy, has gradient zero at x, so it needs one.

    Returns:
      The last iterate. No gradient flows through it. Elements of a gradient that are not finite count as zero. If no gradient was finite and not
      zero, a call outside of jit warns; `best_of_pgd` has the counts. In a Python loop `pgd` is compiled at each call, `compiled_pgd` once.

    Raises:
      ValueError: if there is no step, a size that is known is negative, or start and x have two shapes.

    References:
      Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    >>> from irob.attacks.balls import LInf
    >>> x = jnp.full((1, 2, 1), 0.5)
    >>> pgd(lambda z: z[0, 0, 0] - z[0, 1, 0], LInf(0.25), x, step_sizes=constant_steps(0.5, 3)).ravel().tolist()
    [0.75, 0.25]
    """
    x_adv, counts = _last_iterate(lambda z: (objective(z), None), ball, x, step_sizes, start)
    return said(AttackResult(x_adv, 0.0, counts)).x_adv


def compiled_pgd(objective: Callable[..., Scalar]) -> Callable[..., Point]:
    """`pgd` compiled once for many images: make it once, call it in a loop.

    Args:
      objective: `(x_adv, *arguments) -> scalar`. What changes from call to call, such as parameters and labels, is an argument, not closed over.

    Returns:
      `(ball, x, *arguments, step_sizes, start=None) -> x_adv`, as `pgd`, compiled for each shape of its arguments and number of steps.

    >>> from irob.attacks.balls import LInf
    >>> attack = compiled_pgd(lambda z, weight: jnp.sum(weight * z))
    >>> x, sizes = jnp.full((1, 1, 1), 0.5), constant_steps(0.5, 3)
    >>> [attack(LInf(0.25), x, weight, step_sizes=sizes).item() for weight in (1.0, -2.0)]
    [0.75, 0.25]
    """

    @jax.jit
    def run(ball: Ball, x: Point, *arguments: Any, step_sizes: Any, start: Point | None = None) -> Point:
        return pgd(lambda z: objective(z, *arguments), ball, x, step_sizes=step_sizes, start=start)

    return run


def best_of_pgd(
    objective: ScoredObjective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
    momentum: float = 0.0,
) -> AttackResult:
    """Projected gradient ascent, the iterate with the highest score, start and last iterate included.

    What is ascended need not be what decides: the attack may follow the cross-entropy and be judged by the margin.

    Args:
      objective: `x_adv -> (value, score)`; the value is ascended, the score is compared. One forward pass gives both.
      ball, x, step_sizes, start: as in `pgd`, which says what is raised.
      momentum: mu, if positive: steps follow `m_{k+1} = mu m_k + g_k / ||g_k||_1`, m_0 = 0, instead of the gradient g_k.

    Returns:
      The best iterate, its score, and the counts of gradients: where `gradients.useless()`, the attack went nowhere, which is no sign of robustness.
      No gradient flows through them.

    References:
      Momentum: Dong et al. 2018, https://arxiv.org/abs/1710.06081, eq. 6.

    >>> from irob.attacks.balls import LInf
    >>> overshoot = lambda z: (jnp.sum(z), -jnp.abs(jnp.sum(z) - 0.6))
    >>> found = best_of_pgd(overshoot, LInf(0.5), jnp.full((1, 1, 1), 0.5), step_sizes=constant_steps(0.1, 3))
    >>> round(float(found.x_adv[0, 0, 0]), 4)
    0.6
    """
    first = jax.lax.stop_gradient(first_iterate(start, ball, x))

    def better(best: AttackResult, x_adv: Point, score: Scalar) -> AttackResult:
        higher = score > best.score
        return best._replace(x_adv=jnp.where(higher, x_adv, best.x_adv), score=jnp.where(higher, score, best.score))

    def step(state: Any, size: Any) -> tuple[Any, None]:
        x_adv, before, best = state
        here, counts = linearized(objective, x_adv, best.gradients)
        best = better(best, x_adv, here.score)._replace(gradients=counts)
        direction = with_momentum(before, here.gradient, momentum)
        return (pgd_step(ball, x, x_adv, direction, size), direction, best), None

    worst = AttackResult(first, jnp.full((), -jnp.inf, first.dtype), no_gradients())
    (x_adv, _, best), _ = jax.lax.scan(step, (first, jnp.zeros_like(first), worst), _checked(step_sizes, x))
    return said(jax.lax.stop_gradient(better(best, x_adv, objective(x_adv)[1])))


def last_of_pgd(
    objective: ScoredObjective,
    ball: Ball,
    x: Point,
    *,
    step_sizes: Float[Array, " steps"],
    start: Point | None = None,
    momentum: float = 0.0,
) -> AttackResult:
    """`pgd` with the score of its last iterate, for where `best_of_pgd` is expected."""
    x_adv, counts = _last_iterate(objective, ball, x, step_sizes, start, momentum)
    return said(AttackResult(x_adv, jax.lax.stop_gradient(objective(x_adv)[1]), counts))


def _last_iterate(
    objective: Callable[[Point], tuple[Scalar, Any]], ball: Ball, x: Point, step_sizes: Any, start: Point | None, momentum: float = 0.0
) -> tuple[Point, GradientCounts]:
    def step(state: Any, size: Any) -> tuple[Any, None]:
        x_adv, before, counts = state
        here, counts = linearized(objective, x_adv, counts)
        direction = with_momentum(before, here.gradient, momentum)
        return (pgd_step(ball, x, x_adv, direction, size), direction, counts), None

    first = first_iterate(start, ball, x)
    (last, _, counts), _ = jax.lax.scan(step, (first, jnp.zeros_like(first), no_gradients()), _checked(step_sizes, x))
    return jax.lax.stop_gradient((last, counts))


def with_momentum(before: Point, gradient: Point, momentum: float) -> Point:
    """`mu m + g / ||g||_1`, the direction of a step after m; g itself without momentum.

    >>> with_momentum(jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0]), 0.5).tolist()
    [0.75, 0.75]
    """
    if momentum == 0.0:
        return gradient
    length = jnp.sum(jnp.abs(gradient))
    return momentum * before + gradient / jnp.where(length > 0.0, length, 1.0)


def _checked(step_sizes: Float[Array, " steps"], x: Point) -> Array:
    if jnp.ndim(step_sizes) != 1:
        raise ValueError(
            f"step_sizes must be [steps], one size for each, such as constant_steps(0.01, 40), got shape {jnp.shape(step_sizes)}"
        )
    if len(step_sizes) < 1:
        raise ValueError("step_sizes is empty: an attack takes at least one step")
    if not isinstance(step_sizes, jax.core.Tracer) and not np.all(np.asarray(step_sizes) >= 0.0):
        raise ValueError(f"step_sizes must not be negative or NaN, got {np.asarray(step_sizes)}")
    return jnp.where(jnp.asarray(step_sizes) >= 0.0, step_sizes, jnp.nan).astype(x.dtype)


# --- step sizes -----------------------------------------------------------------------------------------------------------------------------


def constant_steps(step_size: Scalar, num_steps: int) -> Float[Array, " steps"]:
    """`num_steps` steps of the same size.

    >>> constant_steps(0.5, 3).tolist()
    [0.5, 0.5, 0.5]
    """
    return jnp.full(num_steps, step_size, jnp.float32)


def decaying_steps(eps: Scalar, num_steps: int) -> Float[Array, " steps"]:
    """Large steps first, then small ones: thirds of the run at 0.2, 0.06 and 0.02 eps (the last takes the remainder).

    >>> [round(float(size), 2) for size in decaying_steps(1.0, 4)]
    [0.2, 0.06, 0.02, 0.02]
    """
    third = np.minimum(np.arange(num_steps) // max(num_steps // 3, 1), 2)
    return jnp.asarray(eps * np.array([0.2, 0.06, 0.02], np.float32)[third], jnp.float32)


def frank_wolfe_steps(eps: Scalar, num_steps: int) -> Float[Array, " steps"]:
    """`1 / (k + 1)`, k = 0, 1, ...: with steps towards corners of the set the iterate is the mean of all corners so far."""
    return (1.0 / np.arange(1, num_steps + 1)).astype(np.float32)


StepRule = Callable[[Scalar, int], Float[Array, " steps"]]  # (eps, number of steps) -> sizes
STEP_SIZES: dict[str, StepRule] = {
    "eps": constant_steps,
    "eps/steps": lambda eps, num_steps: constant_steps(eps / num_steps, num_steps),
    "0.2, 0.06, 0.02 eps": decaying_steps,
    "0.2 eps": lambda eps, num_steps: constant_steps(0.2 * eps, num_steps),
    "eps/4": lambda eps, num_steps: constant_steps(eps / 4, num_steps),
    "eps/sqrt(steps)": lambda eps, num_steps: constant_steps(eps / np.sqrt(num_steps), num_steps),
    "constant 0.01": lambda eps, num_steps: constant_steps(0.01, num_steps),
    "constant 0.002236": lambda eps, num_steps: constant_steps(0.002236, num_steps),
    "1/(k+1)": frank_wolfe_steps,
}


def step_rule(name: str | StepRule) -> StepRule:
    """A rule `(eps, steps) -> sizes`, by its name in `STEP_SIZES` or as it is.

    Raises:
      ValueError: for an unknown name.
    """
    if isinstance(name, str) and name not in STEP_SIZES:
        raise ValueError(f"unknown step sizes {name!r}: choose one of {', '.join(map(repr, STEP_SIZES))}")
    return STEP_SIZES[name] if isinstance(name, str) else name


# --- as a row of ATTACKS --------------------------------------------------------------------------------------------------------------------


class PGD(NamedTuple):
    """Projected gradient ascent as an `Attack`.

    step_sizes: a key of `STEP_SIZES`, or a rule of one's own.
    random_start: whether it starts from a random point of the ball, where no start is given; otherwise from x.
    best_iterate: whether the iterate with the highest score is the result; otherwise the last one.
    momentum: of `best_of_pgd`.
    """

    step_sizes: str | StepRule = "0.2, 0.06, 0.02 eps"
    random_start: bool = True
    best_iterate: bool = True
    momentum: float = 0.0

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Ascends the objective; see `Attack`."""
        if start is None and self.random_start:
            start = ball.random_point(key, x)
        ascend = best_of_pgd if self.best_iterate else last_of_pgd
        sizes = step_rule(self.step_sizes)(ball.eps, num_steps)
        return ascend(objective, ball, x, step_sizes=sizes, start=start, momentum=self.momentum)
