"""Auto-PGD: projected gradient ascent that halves its step by itself and goes back to the best point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from irob.attacks.attack import (
    AttackResult,
    Linearization,
    ScoredObjective,
    first_iterate,
    linearized,
    no_gradients,
    said,
    selected,
)
from irob.attacks.balls import L1, Ball
from irob.types import Array, Point, PRNGKey, Scalar


def checkpoints(num_steps: int, first: float = 0.22, shorter: float = 0.03, shortest: float = 0.06) -> np.ndarray:
    """The iterations after which the step may halve: `[num_steps + 1]`, the length of the window that ends there, 0 where none does.

    Windows are `first N`, then each `shorter N` less than the one before, down to `shortest N` (floors, at least 1).

    References:
      Croce & Hein 2020, https://arxiv.org/abs/2003.01690, sec. 3; floors as in the authors' code.

    >>> np.flatnonzero(checkpoints(100)).tolist()
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    window, decrement, least = (max(int(part * num_steps), 1) for part in (first, shorter, shortest))
    windows, at = np.zeros(num_steps + 1, np.int32), 0
    while (at := at + window) <= num_steps:
        windows[at], window = window, max(window - decrement, least)
    return windows


class Visit(NamedTuple):
    """An iterate, and what is known there.

    number: 0 for the start. window: length of the window that ends here, else 0.
    x_adv, here: the point, and the objective there. best_point, best: of all so far, that with the largest value.
    """

    number: Array
    window: Array
    x_adv: Point
    here: Linearization
    best_point: Point
    best: Linearization

    def or_best(self, back: Array) -> tuple[Point, Point]:
        """The point to go on from, and its gradient: the best one's where `back`."""
        return selected(back, (self.best_point, self.best.gradient), (self.x_adv, self.here.gradient))


def _ascended(
    objective: ScoredObjective, first: Point, windows: np.ndarray, memory: Any, move: Callable[[Any, Visit], tuple[Point, Any]]
) -> AttackResult:
    """Visits the start and then the points that `move(memory, visit) -> (next point, memory)` leads to, in one loop that compiles a network once."""

    def visit(state: Any, at: tuple[Array, Array]) -> tuple[Any, None]:
        x_adv, best_point, best, found, memory = state
        here, counts = linearized(objective, x_adv, found.gradients)
        higher = here.score > found.score
        kept_point, kept_score = selected(higher, (x_adv, here.score), (found.x_adv, found.score))
        found = AttackResult(kept_point, kept_score, counts)
        larger = (here.value > best.value) | ~jnp.isfinite(best.value)
        best_point, best = selected(larger, (x_adv, here), (best_point, best))
        following, memory = move(memory, Visit(*at, x_adv, here, best_point, best))
        return (following, best_point, best, found, memory), None

    low = jnp.full((), -jnp.inf, first.dtype)
    state = first, first, Linearization(low, low, jnp.zeros_like(first)), AttackResult(first, low, no_gradients()), memory
    (_, _, _, found, _), _ = jax.lax.scan(visit, state, (jnp.arange(len(windows)), jnp.asarray(windows)))
    return jax.lax.stop_gradient(found)


class Steps(NamedTuple):
    """What `APGD` remembers. before: the point before the last step. step_size: of the next one. last: value at the last point.

    increases: in this window. checked: largest value at the last checkpoint. halved: whether the step was halved there.
    """

    before: Point
    step_size: Scalar
    last: Scalar
    increases: Array
    checked: Scalar
    halved: Array


class APGD(NamedTuple):
    """Auto-PGD as an `Attack`, for l-inf and l2; in l1 it is `SparseAPGD`.

        z_{k+1} = project( x_k + eta s(g_k) ),    x_{k+1} = project( x_k + a (z_{k+1} - x_k) + (1 - a) (x_k - x_{k-1}) ),    a = 0.75, at first 1

    with s the steepest ascent in the norm of the ball and eta = 2 eps. At each of the `checkpoints` the step halves, and the point with the largest
    value so far is taken up again, if the value grew in at most 0.75 of the steps since the last one, or if the step was not halved there and the
    largest value has not grown since.

    momentum: a after the first step.
    rho: the proportion of steps.
    previous: the value that the first step's is compared with; None for that of the start. (The authors' code has 0; it tells in short runs.)

    The result is the point with the highest score, of the start and all iterates. With fewer than about 50 steps nearly every step is a checkpoint:
    take `PGD`. Without a start it begins at distance eps. In l2 the projection is the exact one on ball and box together.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/2003.01690, algorithm 1 (constants of the authors' code).

    >>> from irob.attacks.balls import LInf
    >>> x, key = jnp.full((1, 2, 1), 0.5), jax.random.key(0)
    >>> APGD()(lambda z: (z[0, 0, 0] - z[0, 1, 0],) * 2, LInf(0.25), x, key=key, num_steps=50).x_adv.ravel().tolist()
    [0.75, 0.25]
    """

    momentum: float = 0.75
    rho: float = 0.75
    previous: float | None = None

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Ascends the objective; see `Attack`. It takes num_steps + 1 gradients, in l1 one more for each further stage."""
        if isinstance(ball, L1):
            return SparseAPGD()(objective, ball, x, key=key, num_steps=num_steps, start=start)
        first = first_iterate(at_distance_eps(ball, key, x) if start is None else start, ball, x)

        def move(steps: Steps, visit: Visit) -> tuple[Point, Steps]:
            at_start, value = visit.number == 0, visit.here.value
            last = steps.last if self.previous is None else jnp.where(visit.number == 1, self.previous, steps.last)
            increases = steps.increases + (~at_start & (value > last))
            stuck = (increases <= self.rho * visit.window) | (~steps.halved & (visit.best.value <= steps.checked))
            checked = visit.window > 0
            halved = checked & stuck
            step_size = jnp.where(halved, steps.step_size / 2.0, steps.step_size)
            x_adv, gradient = visit.or_best(halved)
            far = ball.project(ball.ascend(x_adv, gradient, step_size), x)
            a = jnp.where(at_start, 1.0, self.momentum).astype(first.dtype)
            following = ball.project(x_adv + a * (far - x_adv) + (1.0 - a) * (x_adv - steps.before), x)
            return following, Steps(
                before=x_adv,
                step_size=step_size,
                last=value,
                increases=jnp.where(checked, 0, increases),
                checked=jnp.where(checked | at_start, visit.best.value, steps.checked),
                halved=jnp.where(checked, halved, steps.halved),
            )

        nothing = jnp.zeros((), first.dtype)
        steps = Steps(first, 2.0 * jnp.asarray(ball.eps, first.dtype), nothing, jnp.int32(0), nothing, jnp.array(True))
        return said(_ascended(objective, first, checkpoints(num_steps), steps, move))


def at_distance_eps(ball: Ball, key: PRNGKey, x: Point) -> Point:
    """`x + eps t`, t a random direction of length 1; for a ball that has none, one of its random points."""
    if not hasattr(ball, "random_direction"):
        return ball.random_point(key, x)
    return ball.project(x + ball.eps * ball.random_direction(key, x), x)


class Sparsity(NamedTuple):
    """What `SparseAPGD` remembers. share: of the entries that move. step_size: of the next step.

    moved: how many entries the best point moved, at the last checkpoint.
    """

    share: Scalar
    step_size: Scalar
    moved: Scalar


class SparseAPGD(NamedTuple):
    """Auto-PGD in l1, as an `Attack`: steps along the signs of the largest gradient entries, how many is adapted.

        x_{k+1} = project( x_k + eta sign(g_S) / |S| ),    S the entries with the largest |g_i|, a share of all

    The share is at first 0.2 (after a given start: of the entries that the start moved, over 1.5). Every 0.04 N steps it becomes the proportion of
    entries that the best point moves, over 1.5; the step returns to eps, and the best point is taken up again, where that count fell by more than
    5 %; otherwise the step is divided by 1.5, down to eps / 10.

    (The authors' code rounds the number of entries up, so that it never comes down to one, which a linear objective needs. Here it is rounded down.)

    stages: (proportion of the steps, radius over that of the ball). One stage starts where the one before had its largest value.

    References:
      Croce & Hein 2021, https://arxiv.org/abs/2103.01208, algorithm 1 and sec. 3.3 (constants of the authors' code).
    """

    stages: tuple[tuple[float, float], ...] = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Ascends the objective; see `Attack`."""
        result, counts = None, no_gradients()
        point = None if start is None else first_iterate(start, ball, x)
        for number, (part, times) in enumerate(self.stages, start=1):
            larger = ball._replace(eps=times * ball.eps)  # type: ignore[attr-defined]
            first = larger.project(x + jax.random.normal(key, x.shape, x.dtype), x) if point is None else larger.project(point, x)
            of_largest_value = lambda z: (objective(z)[0],) * 2  # noqa: E731
            last = number == len(self.stages)
            steps = max(int(part * num_steps), 1)
            result = self._stage(objective if last else of_largest_value, larger, x, first, steps, given=point is not None)
            point, counts = result.x_adv, counts.plus(result.gradients)
        assert result is not None
        return said(result._replace(gradients=counts))

    @staticmethod
    def _stage(objective: ScoredObjective, ball: Ball, x: Point, first: Point, num_steps: int, given: bool) -> AttackResult:
        eps = jnp.asarray(ball.eps, first.dtype)

        def moved(point: Point) -> Array:
            return jnp.sum(point != x).astype(first.dtype)

        def move(memory: Sparsity, visit: Visit) -> tuple[Point, Sparsity]:
            checked, count = visit.window > 0, moved(visit.best_point)
            fell = count / memory.moved < 0.95
            slower = jnp.clip(memory.step_size / 1.5, eps / 10.0, eps)
            step_size = jnp.where(checked, jnp.where(fell, eps, slower), memory.step_size)
            share = jnp.where(checked, count / x.size / 1.5, memory.share)
            x_adv, gradient = visit.or_best(checked & fell)
            size = jnp.abs(gradient)
            moving = jnp.clip((share * x.size + 1e-3).astype(jnp.int32), 1, x.size)
            signs = jnp.where(size >= jnp.sort(size.reshape(-1))[x.size - moving], jnp.sign(gradient), 0.0)
            following = ball.project(x_adv + step_size * signs / (jnp.sum(jnp.abs(signs)) + 1e-10), x)
            return following, Sparsity(share, step_size, jnp.where(checked, count, memory.moved))

        share = moved(first) / x.size / 1.5 if given else jnp.asarray(0.2, first.dtype)
        memory = Sparsity(share, eps, moved(first) if given else jnp.asarray(float(x.size), first.dtype))
        return _ascended(objective, first, checkpoints(num_steps, 0.04, 0.0, 0.04), memory, move)
