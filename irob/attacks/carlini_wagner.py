"""The attack of Carlini and Wagner in l2: gradient descent on the length of a perturbation and a hinge of the margin together."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.attacks.attack import AttackResult, ScoredObjective, first_iterate, linearized, no_gradients
from irob.attacks.balls import L2, Ball
from irob.attacks.boundary import Walk
from irob.types import Array, Point, PRNGKey


class CarliniWagner(NamedTuple):
    """The l2 attack of Carlini and Wagner as an `Attack`. The value of its objective is a margin, positive where it succeeds, such as `margin_loss`.

        minimize over w    ||x' - x||_2^2 + c max(kappa - value(x'), 0),    x' = (1 + tanh(w)) / 2

    by Adam. The constant c is searched: times 10 until x' succeeds, then by bisection between the largest that failed and the smallest that did not.

    confidence: kappa. search_steps: trials of c. initial_constant: the first. learning_rate: of Adam.

    The result is the nearest point that succeeds (score > 0, value >= kappa), if it lies in the ball, otherwise x, with the score -inf. `smallest`
    has it at any distance.

    References:
      Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644, sec. VI-A (constants of the authors' code). Adam: Kingma & Ba 2015,
      https://arxiv.org/abs/1412.6980.
    """

    confidence: float = 0.0
    search_steps: int = 9
    initial_constant: float = 1e-3
    learning_rate: float = 1e-2

    @property
    def seeks_zero(self) -> bool:
        """It goes to where its objective is 0, so that must be the decision boundary."""
        return True

    def __call__(
        self, objective: ScoredObjective, ball: Ball, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> AttackResult:
        """Looks for the nearest success; see `Attack`. num_steps: of Adam, for each c. Nothing in it is random."""
        return self.smallest(objective, ball, x, key=key, num_steps=num_steps, start=start).within(ball, x)

    def smallest(
        self, objective: ScoredObjective, ball: Any, x: Point, *, key: PRNGKey, num_steps: int, start: Point | None = None
    ) -> Walk:
        """The success that is nearest in the norm of the ball, at any distance; as `FAB.smallest`. (What is minimized is the l2 length.)"""
        first_iterate(start, L2(jnp.inf), x)  # raises for wrong shapes and types
        inverse = lambda point: jnp.arctanh(0.999999 * (2.0 * point - 1.0))  # noqa: E731
        image_of = lambda w: jnp.clip(0.5 * (1.0 + jnp.tanh(w)), 0.0, 1.0)  # noqa: E731
        w_start = inverse(jnp.clip(x if start is None else start, 0.0, 1.0))

        def trial(state: Any, _: None) -> tuple[Any, None]:
            walk, low, high, constant = state

            def step(carry: Any, number: Array) -> tuple[Any, None]:
                w, mean, square, walk, succeeded = carry
                x_adv = image_of(w)
                here, counts = linearized(objective, x_adv, walk.found.gradients)
                reached = jnp.where(here.value >= self.confidence, here.score, -jnp.inf)
                walk = walk.recorded(ball, x, x_adv, reached).moved(x_adv, counts)
                of_image = 2.0 * (x_adv - x) - jnp.where(here.value < self.confidence, constant, 0.0) * here.gradient
                gradient = of_image * 0.5 * (1.0 - jnp.tanh(w) ** 2)
                mean = 0.9 * mean + 0.1 * gradient
                square = 0.999 * square + 0.001 * gradient**2
                t = (number + 1).astype(x.dtype)
                scaled = mean / (1.0 - 0.9**t) / (jnp.sqrt(square / (1.0 - 0.999**t)) + 1e-8)
                return (w - self.learning_rate * scaled, mean, square, walk, succeeded | (reached > 0.0)), None

            zero = jnp.zeros_like(w_start)
            (*_rest, walk, succeeded), _last = jax.lax.scan(step, (w_start, zero, zero, walk, jnp.array(False)), jnp.arange(num_steps))
            low, high = jnp.where(succeeded, low, constant), jnp.where(succeeded, constant, high)
            following = jnp.where(jnp.isinf(high), 10.0 * constant, 0.5 * (low + high))
            return (walk, low, high, following), None

        low, nothing = jnp.zeros((), x.dtype), jnp.full((), -jnp.inf, x.dtype)
        walk = Walk(jnp.asarray(x), AttackResult(jnp.asarray(x), nothing, no_gradients()), -nothing)
        begin = walk, low, -nothing, jnp.asarray(self.initial_constant, x.dtype)
        return jax.lax.scan(trial, begin, None, length=self.search_steps)[0][0]
