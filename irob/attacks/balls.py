"""The sets that bound a perturbation: { x' in [0, 1]^n : ||x' - x||_p <= eps } for p = inf, 2, 1.

The [0, 1] box is part of each set. A ball knows three things: `project` (the nearest point of the set), `ascend` (a step of a given size in the
direction of steepest ascent of a linear function, for the ball's own norm) and `random_point`. `eps` may be traced, so one compiled attack serves a
schedule of radii.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from irob.arrays import Array, Image, PRNGKey, Scalar


@runtime_checkable
class Ball(Protocol):
    """What an attack needs of a norm."""

    @property
    def eps(self) -> Scalar:
        """Radius, in the norm's own unit on pixels in [0, 1]."""

    def project(self, x_adv: Image, x: Image) -> Image:
        """The point of the ball around x that is nearest to x_adv (in l2)."""

    def ascend(self, x_adv: Image, gradient: Image, step_size: Scalar) -> Image:
        """The point reached from x_adv by a step of norm step_size that increases <gradient, .> most. Projection is left to `project`."""

    def random_point(self, key: PRNGKey, x: Image) -> Image:
        """A random point of the ball around x."""


class LInf(NamedTuple):
    """`max_i |x'_i - x_i| <= eps`."""

    eps: Scalar

    def project(self, x_adv: Image, x: Image) -> Image:
        """Clip to [x - eps, x + eps], then to [0, 1]."""
        return jnp.clip(jnp.clip(x_adv, x - self.eps, x + self.eps), 0.0, 1.0)

    def ascend(self, x_adv: Image, gradient: Image, step_size: Scalar) -> Image:
        """`x' + step_size sign(g)`; sign(0) = 0."""
        return x_adv + step_size * jnp.sign(gradient)

    def random_point(self, key: PRNGKey, x: Image) -> Image:
        """Uniform in the cube, clipped to [0, 1]."""
        return self.project(x + jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0) * self.eps, x)


class L2(NamedTuple):
    """`sqrt(sum_i (x'_i - x_i)^2) <= eps`."""

    eps: Scalar

    def project(self, x_adv: Image, x: Image) -> Image:
        """The exact projection on ball and box together: x + clip(s d, -x, 1 - x), d = x' - x, with the largest s <= 1 that fits the ball."""
        d = x_adv - x

        def at(s: Array) -> Array:
            return jnp.clip(s * d, -x, 1.0 - x)

        s = _largest(lambda s: jnp.sum(at(s) ** 2) <= jnp.square(self.eps), jnp.ones((), x.dtype))
        return x + at(s)

    def ascend(self, x_adv: Image, gradient: Image, step_size: Scalar) -> Image:
        """`x' + step_size g / ||g||_2`; no move where g = 0."""
        length = jnp.linalg.norm(gradient)
        return x_adv + step_size * gradient / jnp.where(length > 0.0, length, 1.0)

    def random_point(self, key: PRNGKey, x: Image) -> Image:
        """Uniform in the ball (a Gaussian direction times U^(1/n)), clipped to [0, 1]."""
        direction_key, radius_key = jax.random.split(key)
        direction = jax.random.normal(direction_key, x.shape, x.dtype)
        radius = self.eps * jax.random.uniform(radius_key, dtype=x.dtype) ** (1.0 / x.size)
        return jnp.clip(x + radius * direction / jnp.linalg.norm(direction), 0.0, 1.0)


class L1(NamedTuple):
    """`sum_i |x'_i - x_i| <= eps`."""

    eps: Scalar

    def project(self, x_adv: Image, x: Image) -> Image:
        """The exact projection on ball and box together: |d_i| shrunk by a common amount, then clipped to the room that the box leaves."""
        d = x_adv - x
        room = jnp.where(d > 0.0, 1.0 - x, x)
        largest = jnp.max(jnp.abs(d))

        def at(s: Array) -> Array:
            return jnp.sign(d) * jnp.clip(jnp.abs(d) - (1.0 - s) * largest, 0.0, room)

        s = _largest(lambda s: jnp.sum(jnp.abs(at(s))) <= self.eps, jnp.ones((), x.dtype))
        return x + at(s)

    def ascend(self, x_adv: Image, gradient: Image, step_size: Scalar) -> Image:
        """The best point of the l1 ball of radius step_size around x' within the box: pixels are moved in the order of |g|, each as far
        as the box lets it, until step_size is spent. (Without the box only one pixel would move, and soon be stuck at its end.)
        """
        room = jnp.where(gradient > 0.0, 1.0 - x_adv, x_adv) * (gradient != 0.0)
        order = jnp.argsort(-jnp.abs(gradient).reshape(-1))
        sorted_room = jnp.take(room.reshape(-1), order)
        spent_before = jnp.cumsum(sorted_room) - sorted_room
        move = jnp.clip(step_size - spent_before, 0.0, sorted_room)
        return x_adv + jnp.sign(gradient) * jnp.zeros_like(move).at[order].set(move).reshape(x_adv.shape)

    def random_point(self, key: PRNGKey, x: Image) -> Image:
        """Uniform in the ball (n of n + 1 exponential variables over their sum, random signs), clipped to [0, 1]."""
        sign_key, size_key = jax.random.split(key)
        sizes = jax.random.exponential(size_key, (x.size + 1,), x.dtype)
        signs = jax.random.rademacher(sign_key, x.shape, x.dtype)
        return jnp.clip(x + self.eps * signs * (sizes[:-1] / jnp.sum(sizes)).reshape(x.shape), 0.0, 1.0)


def _largest(fits: Callable[[Array], Array], upper: Array, halvings: int = 30) -> Array:
    """The largest s in [0, upper] with `fits(s)`, a condition that holds at 0 and is monotone in s (to float32 precision, by bisection)."""

    def halve(_: Array | int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        good = fits(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, halvings, halve, (jnp.zeros_like(upper), upper))
    return jnp.where(fits(upper), upper, low)


BALLS: dict[str, Callable[[Scalar], Ball]] = {"linf": LInf, "l2": L2, "l1": L1}
