"""Attacks that walk to the decision boundary: FAB and DeepFool, which look for the smallest perturbation, not the worst one in a ball."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.attack import AttackResult, GradientCounts, Linearization, ScoredObjective, first_iterate, linearized, no_gradients, said
from irob.attacks.balls import Ball
from irob.types import Point, PRNGKey, Scalar


def to_hyperplane(ball: Any, point: Point, normal: Point, offset: Scalar) -> Point:
    """The shortest move in the norm of a ball, within the box, from a point to a hyperplane:

        argmin_d ||d||_p    with    <w, d> + f = 0,    point + d in [0, 1]

    Args:
      ball: a `NormBall`, whose norm counts.
      point: in [0, 1].
      normal: w.
      offset: f, the value of the linear function at the point.

    Returns:
      d; where the hyperplane does not meet the box, the move to the corner of the box that is nearest to it.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/1907.02044, sec. 2.2 and appendix A.

    >>> from irob.attacks.balls import L2
    >>> [round(move, 3) for move in to_hyperplane(L2(1.0), jnp.array([0.5, 0.5]), jnp.array([3.0, 4.0]), -1.25).tolist()]
    [0.15, 0.2]
    """
    away = -jnp.sign(offset) * jnp.sign(normal)
    room = jnp.where(away > 0.0, 1.0 - point, jnp.where(away < 0.0, point, 0.0))
    return away * ball.smallest_step(jnp.abs(normal), room, jnp.abs(offset))


class Walk(NamedTuple):
    """Where an attack on the boundary is. x_adv: the iterate. found: the nearest point that succeeds, with its score. distance: of that one."""

    x_adv: Point
    found: AttackResult
    distance: Scalar

    def recorded(self, ball: Any, x: Point, point: Point, score: Scalar) -> Walk:
        """With a point that was reached, if it succeeds and is nearer than the one before."""
        distance = ball.length(point - x)
        nearer = (score > 0.0) & (distance < self.distance)
        found = self.found._replace(x_adv=jnp.where(nearer, point, self.found.x_adv), score=jnp.where(nearer, score, self.found.score))
        return self._replace(found=found, distance=jnp.where(nearer, distance, self.distance))

    def moved(self, x_adv: Point, gradients: GradientCounts) -> Walk:
        """At another iterate, after so many gradients."""
        return self._replace(x_adv=x_adv, found=self.found._replace(gradients=gradients))

    def within(self, ball: Any, x: Point) -> AttackResult:
        """The nearest point if it lies in the ball, up to rounding, put there exactly; otherwise x, with the score -inf."""
        inside = self.distance <= ball.eps * (1.0 + 1e-6)
        x_adv = jnp.where(inside, ball.project(self.found.x_adv, x), x)
        score = jnp.where(inside, self.found.score, -jnp.inf)
        return said(jax.lax.stop_gradient(self.found._replace(x_adv=x_adv, score=score)))


def at_start(first: Point) -> Walk:
    """A walk that begins at a point, and has found nothing."""
    nothing = jnp.full((), -jnp.inf, first.dtype)
    return Walk(first, AttackResult(first, nothing, no_gradients()), jnp.full((), jnp.inf, first.dtype))


class FAB(NamedTuple):
    """The fast adaptive boundary attack as an `Attack`. The value of its objective must be positive where it succeeds, such as `difference` to a
    class, or `nearest_boundary`. With f its value at x_k and w its gradient there:

        d_1, d_2 = the shortest moves from x_k and from x to the hyperplane { u : f + <w, u - x_k> = 0 }
        x_{k+1} = clip( (1 - a) (x_k + eta d_1) + a (x + eta d_2) ),    a = min( ||d_1|| / (||d_1|| + ||d_2||), a_max )

    A point that succeeds is recorded if it is nearer to x than all before; then the walk steps back, `x + beta (x_{k+1} - x)`.

    max_pull, overshoot, back: a_max, eta, beta.
    random_start: whether it begins eps / 2 away from x, where no start is given; otherwise at x.

    The result is the nearest point that succeeds, if it lies in the ball, otherwise x. `smallest` has the point at any distance.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/1907.02044 (constants of the authors' code).
    """

    max_pull: float = 0.1
    overshoot: float = 1.05
    back: float = 0.9
    random_start: bool = False

    @property
    def seeks_zero(self) -> bool:
        """It goes to where its objective is 0, so that must be the decision boundary."""
        return True

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Looks for the nearest success; see `Attack`."""
        return self.smallest(objective, ball, x, key=key, num_steps=num_steps, start=start).within(ball, x)

    def smallest(
        self, objective: ScoredObjective, ball: Any, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> Walk:
        """The nearest success at any distance: `found.x_adv`, at `distance`, which is infinite where there is none."""
        if start is None and self.random_start:
            start = jnp.clip(x + 0.5 * ball.eps * ball.random_direction(key, x), 0.0, 1.0)
        first = jnp.asarray(x) if start is None else jnp.clip(start, 0.0, 1.0)
        first_iterate(start, ball, x)  # raises for wrong shapes and types

        def step(walk: Walk, _: None) -> tuple[Walk, None]:
            here, counts = linearized(objective, walk.x_adv, walk.found.gradients)
            following = self._pulled(ball, x, walk.x_adv, here)
            score = objective(following)[1]
            onward = jnp.where(score > 0.0, x + self.back * (following - x), following)
            return walk.recorded(ball, x, following, score).moved(onward, counts), None

        return jax.lax.scan(step, at_start(first), None, length=num_steps)[0]

    def _pulled(self, ball: Any, x: Point, point: Point, here: Linearization) -> Point:
        w = here.gradient
        onward = to_hyperplane(ball, point, w, here.value)
        from_x = to_hyperplane(ball, x, w, here.value + jnp.sum(w * (x - point)))
        near, far = (jnp.maximum(ball.length(d), 1e-8) for d in (onward, from_x))
        a = jnp.minimum(near / (near + far), self.max_pull)
        return jnp.clip((1.0 - a) * (point + self.overshoot * onward) + a * (x + self.overshoot * from_x), 0.0, 1.0)


class DeepFool(NamedTuple):
    """DeepFool as an `Attack`: repeated moves to the linearized boundary, until one succeeds. Its objective is as that of `FAB`, in the original
    `nearest_boundary`. Unlike the original, every move stays in the box.

        x_{k+1} = x_k + the shortest move from x_k to { u : f + <w, u - x_k> = 0 },    x'_k = clip( x + (1 + overshoot) (x_k - x) )

    overshoot: beyond the boundary.

    The result is the first x'_k that succeeds, if it lies in the ball, otherwise x. `smallest` has the point at any distance.

    References:
      Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599, algorithm 2.
    """

    overshoot: float = 0.02

    @property
    def seeks_zero(self) -> bool:
        """It goes to where its objective is 0, so that must be the decision boundary."""
        return True

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Looks for a near success; see `Attack`. Nothing in it is random."""
        return self.smallest(objective, ball, x, key=key, num_steps=num_steps, start=start).within(ball, x)

    def smallest(
        self, objective: ScoredObjective, ball: Any, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> Walk:
        """The first success at any distance; as `FAB.smallest`."""
        first_iterate(start, ball, x)  # raises for wrong shapes and types

        def shown(point: Point) -> Point:
            return jnp.clip(x + (1.0 + self.overshoot) * (point - x), 0.0, 1.0)

        def step(walk: Walk, _: None) -> tuple[Walk, None]:
            here, counts = linearized(objective, walk.x_adv, walk.found.gradients)
            following = walk.x_adv + to_hyperplane(ball, walk.x_adv, here.gradient, here.value)
            score = objective(shown(following))[1]
            later = walk.recorded(ball, x, shown(following), score).moved(following, counts)
            return jax.tree.map(lambda a, b: jnp.where(jnp.isinf(walk.distance), a, b), later, walk), None

        return jax.lax.scan(step, at_start(jnp.asarray(x) if start is None else jnp.clip(start, 0.0, 1.0)), None, length=num_steps)[0]
