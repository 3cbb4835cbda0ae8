"""HopSkipJump: along the decision boundary towards the image, by decisions alone, without gradients and without scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.attack import AttackResult, ScoredObjective, first_iterate
from irob.attacks.balls import Ball
from irob.attacks.boundary import Walk, at_start
from irob.types import Array, Point, PRNGKey, Scalar


class HopSkipJump(NamedTuple):
    """HopSkipJump as an `Attack`. Of its objective it sees only whether the score is positive, phi(x') = 1 or -1. From a point that succeeds:

        x_k = the nearest to x that succeeds, of the projections of x'_k on balls around x, by bisection of the radius
        g_k = mean_b (phi(x_k + w u_b) - mean phi) u_b,    u_b uniform on the sphere of radius 1 in l2, w = max(r / n, 2e-7 n), r = ||x_k - x||
        x'_{k+1} = x_k + 2^-j r / sqrt(k) along the steepest ascent of <g_k, .>,    with the smallest j that succeeds

    with n the number of pixels; the second width is what float32 can resolve. Bisection takes 2 log2 n rounds: along the boundary's normal it must be
    finer than the draws.

    draws: b. (The authors take 100 sqrt(k), and a width of the distance before the bisection.)
    starts: images of uniform noise, the first of which that succeeds is x'_1; where a start is given that succeeds, it is.
    halvings: largest j.

    num_steps counts queries; there is at least one k. The result is the nearest point that succeeds, if it lies in the ball, otherwise x. `smallest`
    has the point at any distance.

    References:
      Chen, Jordan & Wainwright 2020, https://arxiv.org/abs/1904.02144, algorithm 2.
    """

    draws: int = 100
    starts: int = 100
    halvings: int = 10

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Looks for the nearest success; see `Attack`."""
        return self.smallest(objective, ball, x, key=key, num_steps=num_steps, start=start).within(ball, x)

    def smallest(
        self, objective: ScoredObjective, ball: Any, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> Walk:
        """The nearest success at any distance; as `FAB.smallest`."""
        first_iterate(start, ball, x)  # raises for wrong shapes and types
        score = lambda point: objective(point)[1]  # noqa: E731
        start_key, walk_key = jax.random.split(key)
        first = _first_success(score, jax.random.uniform(start_key, (self.starts, *x.shape), x.dtype), start)
        walk = at_start(first).recorded(ball, x, first, score(first))
        rounds = math.ceil(2.0 * math.log2(max(x.size, 2)))
        times = max((num_steps - self.starts - rounds - 3) // (self.draws + rounds + self.halvings + 2), 1)

        def step(walk: Walk, given: tuple[Array, PRNGKey]) -> tuple[Walk, None]:
            number, key = given
            near = self._nearest(score, ball, x, walk.x_adv, rounds)
            walk = walk.recorded(ball, x, near, score(near))
            size = ball.length(near - x)
            normal = self._normal(score, near, jnp.maximum(size / x.size, 2e-7 * x.size), key)
            jumps = jnp.clip(
                jax.vmap(lambda j: ball.ascend(near, normal, 2.0**-j * size / jnp.sqrt(number)))(jnp.arange(self.halvings + 1.0)), 0.0, 1.0
            )
            successes = jax.lax.map(score, jumps) > 0.0
            onward = jnp.where(jnp.any(successes), jumps[jnp.argmax(successes)], near)
            return walk.moved(onward, walk.found.gradients), None

        numbers = jnp.arange(1, times + 1).astype(x.dtype)
        walk, _ = jax.lax.scan(step, walk, (numbers, jax.random.split(walk_key, times)))
        last = self._nearest(score, ball, x, walk.x_adv, rounds)
        return walk.recorded(ball, x, last, score(last))

    def _nearest(self, score: Callable[[Point], Scalar], ball: Any, x: Point, far: Point, rounds: int) -> Point:
        """Of the projections of a point that succeeds on smaller balls, the nearest that bisection finds to succeed; the point itself if none."""

        def on(radius: Scalar) -> Point:
            return ball._replace(eps=radius).project(far, x)

        def halve(found: tuple[Any, Any, Point], _: None) -> tuple[Any, None]:
            fails, succeeds, point = found
            radius = 0.5 * (fails + succeeds)
            middle = on(radius)
            success = score(middle) > 0.0
            return (
                jnp.where(success, fails, radius), jnp.where(success, radius, succeeds), jnp.where(success, middle, point),
            ), None  # fmt: skip

        bounds = jnp.zeros((), x.dtype), ball.length(far - x), far
        return jax.lax.scan(halve, bounds, None, length=rounds)[0][2]

    def _normal(self, score: Callable[[Point], Scalar], point: Point, width: Scalar, key: PRNGKey) -> Point:
        """The direction in which decisions change, estimated from draws around a point of the boundary."""
        shape = (-1, *(1,) * point.ndim)
        u = jax.random.normal(key, (self.draws, *point.shape), point.dtype)
        u /= jnp.linalg.norm(u.reshape(self.draws, -1), axis=1).reshape(shape)
        phi = jnp.where(jax.lax.map(score, jnp.clip(point + width * u, 0.0, 1.0)) > 0.0, 1.0, -1.0)
        spread = jnp.where(jnp.abs(jnp.mean(phi)) == 1.0, phi, phi - jnp.mean(phi))  # all alike: their own direction
        return jnp.mean(spread.reshape(shape) * u, axis=0)


def _first_success(score: Callable[[Point], Scalar], drawn: Array, start: Point | None) -> Point:
    candidates = drawn if start is None else jnp.concatenate([jnp.clip(start, 0.0, 1.0)[None], drawn])
    return candidates[jnp.argmax(jax.lax.map(score, candidates) > 0.0)]
