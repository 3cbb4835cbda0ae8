"""The sets that bound a perturbation: { x' in [0, 1]^n : ||x' - x||_p <= eps } for p = inf, 2, 1.

The [0, 1] box is part of each set. An attack needs three methods of a ball: `project` (the nearest point of the set), `ascend` (a step of a given
size in the direction of steepest ascent of a linear function, in the ball's own norm) and `random_point`. `eps` may be traced, so one compiled
attack serves a schedule of radii. A row of `BALLS` also has the `length` of a perturbation, the `diameter` of the box and its largest radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from irob.types import Array, Point, PRNGKey, Scalar


@runtime_checkable
class Ball(Protocol):
    """What an attack needs to know of the set."""

    @property
    def eps(self) -> Scalar:
        """Radius, in the norm's own unit on pixels in [0, 1]."""

    def project(self, x_adv: Point, x: Point) -> Point:
        """A point of the set around x; x_adv itself if it is one."""

    def ascend(self, x_adv: Point, gradient: Point, step_size: Scalar) -> Point:
        """The point reached from x_adv by a step that increases <gradient, .>. It may leave the set."""

    def random_point(self, key: PRNGKey, x: Point) -> Point:
        """A random point of the ball around x."""


class NormBall(Ball, Protocol):
    """A row of `BALLS`: the balls of a norm, made by their radius.

    Its projection is the nearest point of the set, in l2. Its step of ascent has norm step_size and increases the product with the gradient most.
    """

    def random_direction(self, key: PRNGKey, x: Point) -> Point:
        """A random perturbation of length 1, of the shape of x."""

    @staticmethod
    def smallest_step(gain: Point, room: Point, needed: Scalar) -> Point:
        """The shortest d with `0 <= d_i <= room_i` and `sum_i gain_i d_i = needed`; d = room where that is not enough. gain, needed >= 0."""

    @staticmethod
    def length(difference: Point) -> Scalar:
        """The norm of a perturbation."""

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """The norm of the diagonal of the box [0, 1]^shape: no perturbation is longer."""

    @staticmethod
    def max_eps() -> float:
        """The largest radius that makes sense on pixels in [0, 1]."""


def checked_radius(eps: Scalar) -> Scalar:
    """The radius itself, NaN where it is traced and negative.

    Raises:
      ValueError: if its value is known, and negative or NaN.
    """
    if isinstance(eps, jax.core.Tracer):
        return jnp.where(eps >= 0.0, eps, jnp.nan)
    if np.ndim(eps) or not float(eps) >= 0.0:
        raise ValueError(f"the radius of a ball is one number that is not negative, got {eps}")
    return eps


def checked_center(x: Point) -> Point:
    """The image itself, NaN where a traced pixel is not in [0, 1], up to rounding.

    Raises:
      ValueError: if its values are known, and one is not in [0, 1].
    """
    if isinstance(x, jax.core.Tracer):
        return jnp.where((x >= -ROUNDING) & (x <= 1.0 + ROUNDING), x, jnp.nan)
    values = np.asarray(x, np.float64)
    if not (np.all(values >= -ROUNDING) and np.all(values <= 1.0 + ROUNDING)):
        raise ValueError(f"pixels are in [0, 1], got {values.min():g} .. {values.max():g}: divide uint8 pixels by 255")
    return x


ROUNDING = 1e-5  # of a pixel that was computed


class LInf(NamedTuple):
    """The l-inf ball `max_i |x'_i - x_i| <= eps`, within [0, 1].

    >>> LInf(0.25).project(jnp.array([0.9, 0.0]), jnp.array([0.5, 0.1])).tolist()
    [0.75, 0.0]
    """

    eps: Scalar

    def project(self, x_adv: Point, x: Point) -> Point:
        """Clip to [x - eps, x + eps], then to [0, 1]."""
        eps, x = checked_radius(self.eps), checked_center(x)
        return jnp.clip(jnp.clip(x_adv, x - eps, x + eps), 0.0, 1.0)

    def ascend(self, x_adv: Point, gradient: Point, step_size: Scalar) -> Point:
        """`x' + step_size sign(g)`; sign(0) = 0."""
        return x_adv + step_size * jnp.sign(gradient)

    def random_point(self, key: PRNGKey, x: Point) -> Point:
        """Uniform in the cube, clipped to [0, 1]."""
        return self.project(x + jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0) * self.eps, x)

    def random_direction(self, key: PRNGKey, x: Point) -> Point:
        """Uniform in the cube, divided by its largest entry."""
        t = jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
        return t / jnp.max(jnp.abs(t))

    @staticmethod
    def smallest_step(gain: Point, room: Point, needed: Scalar) -> Point:
        """`d_i = min(level, room_i)`, the level such that it is enough."""
        return _water_filled(jnp.where(gain > 0.0, 1.0, 0.0).astype(room.dtype), gain, room, needed)

    @staticmethod
    def length(difference: Point) -> Scalar:
        """`max_i |d_i|`; NaN where one is, which XLA's maxima on CPU do not ensure."""
        largest = jnp.maximum(jnp.max(difference), -jnp.min(difference))  # on CPU six times as fast as the maximum of |d|
        return jnp.where(jnp.any(jnp.isnan(difference)), jnp.nan, largest)

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """1, the range of a pixel."""
        return 1.0

    @staticmethod
    def max_eps() -> float:
        """1, the range of a pixel."""
        return 1.0


class L2(NamedTuple):
    """The l2 ball `sqrt(sum_i (x'_i - x_i)^2) <= eps`, within [0, 1].

    >>> L2(1.0).project(jnp.array([0.5, 0.5]), jnp.array([0.5, 0.25])).tolist()
    [0.5, 0.5]
    """

    eps: Scalar

    def project(self, x_adv: Point, x: Point) -> Point:
        """The exact projection on ball and box together: x + clip(s d, -x, 1 - x), d = x' - x, with the largest s <= 1 that fits the ball.

        Where the box stops a coordinate (s |d_i| >= r_i, its room) it adds r_i^2 to the squared length, otherwise s^2 d_i^2. Solving for s with
        the coordinates stopped so far stays below the solution and stops more of them, until no further one is stopped.
        """
        x = checked_center(x)
        d, eps = x_adv - x, checked_radius(self.eps)
        room = jnp.where(d > 0.0, 1.0 - x, x)

        def solve(s: Any, _: None) -> tuple[Any, None]:
            stopped = s * jnp.abs(d) >= room
            left = jnp.square(eps) - jnp.sum(jnp.where(stopped, room**2, 0.0))
            free = jnp.sum(jnp.where(stopped, 0.0, d**2))
            return jnp.where(free > 0.0, jnp.minimum(1.0, jnp.sqrt(jnp.maximum(left, 0.0) / jnp.where(free > 0.0, free, 1.0))), 1.0), None

        s, _ = jax.lax.scan(solve, jnp.zeros((), x.dtype), None, length=8)
        return x + jnp.clip(s * d, -x, 1.0 - x)

    def ascend(self, x_adv: Point, gradient: Point, step_size: Scalar) -> Point:
        """`x' + step_size g / ||g||_2`; no move where g = 0. Divided by max |g| first, because the squares of a small gradient underflow."""
        largest = jnp.max(jnp.abs(gradient))
        direction = gradient / jnp.where(largest > 0.0, largest, 1.0)
        length = jnp.linalg.norm(direction)
        return x_adv + step_size * direction / jnp.where(length > 0.0, length, 1.0)

    def random_point(self, key: PRNGKey, x: Point) -> Point:
        """Uniform in the ball (a Gaussian direction times U^(1/n)), clipped to [0, 1]."""
        direction_key, radius_key = jax.random.split(key)
        direction = jax.random.normal(direction_key, x.shape, x.dtype)
        radius = checked_radius(self.eps) * jax.random.uniform(radius_key, dtype=x.dtype) ** (1.0 / x.size)
        return jnp.clip(x + radius * direction / jnp.linalg.norm(direction), 0.0, 1.0)

    def random_direction(self, key: PRNGKey, x: Point) -> Point:
        """Uniform on the sphere of radius 1."""
        t = jax.random.normal(key, x.shape, x.dtype)
        return t / jnp.linalg.norm(t)

    @staticmethod
    def smallest_step(gain: Point, room: Point, needed: Scalar) -> Point:
        """`d_i = min(level gain_i, room_i)`, the level such that it is enough."""
        return _water_filled(gain, gain, room, needed)

    @staticmethod
    def length(difference: Point) -> Scalar:
        """`sqrt(sum_i d_i^2)`."""
        return jnp.linalg.norm(difference.reshape(-1))

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """The root of the number of pixel values."""
        return float(np.sqrt(np.prod(shape)))

    @staticmethod
    def max_eps() -> float:
        """Infinite: every radius makes sense."""
        return np.inf


class L1(NamedTuple):
    """The l1 ball `sum_i |x'_i - x_i| <= eps`, within [0, 1].

    >>> L1(0.5).project(jnp.array([1.0, 0.5]), jnp.array([0.25, 0.5])).tolist()
    [0.75, 0.5]
    """

    eps: Scalar

    def project(self, x_adv: Point, x: Point) -> Point:
        """The projection on ball and box together: |d_i| reduced by a common amount t >= 0, then clipped to r_i, the room in the box. It is exact but
        for the rounding of the sum with x, which goes towards x: many small changes, each rounded up, would leave the ball.

        The length sum_i clip(|d_i| - t, 0, r_i) is piecewise linear and decreasing in t, with knots at |d_i| - r_i and at |d_i|: the sorted knots
        tell which piece reaches eps.
        """
        x = checked_center(x)
        d, eps = x_adv - x, jnp.asarray(checked_radius(self.eps), x.dtype)
        size = jnp.abs(d)
        room = jnp.minimum(size, jnp.where(d > 0.0, 1.0 - x, x))
        knots = jnp.concatenate([(size - room).reshape(-1), size.reshape(-1)])
        order = jnp.argsort(knots)
        at = knots[order]
        slope = jnp.cumsum(jnp.where(order < d.size, -1.0, 1.0).astype(x.dtype))  # after each knot
        lengths = jnp.sum(room) + jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(slope[:-1] * jnp.diff(at))])
        last = jnp.maximum(jnp.sum(lengths > eps) - 1, 0)
        t = jnp.where(lengths[0] > eps, at[last] + (lengths[last] - eps) / jnp.maximum(-slope[last], 1.0), 0.0)

        def length_and_slope(t: Array) -> tuple[Array, Array]:
            kept = jnp.clip(size - t, 0.0, room)
            return jnp.sum(kept), jnp.sum((kept > 0.0) & (kept < room))

        length, moving = length_and_slope(t)  # one Newton step removes the rounding of the long sums
        t = jnp.maximum(t + (length - eps) / jnp.maximum(moving, 1).astype(x.dtype), 0.0)
        kept = jnp.clip(size - t, 0.0, room)
        projected = x + jnp.sign(d) * kept
        nearer = jnp.nextafter(jax.lax.stop_gradient(projected), jax.lax.stop_gradient(x))
        return jnp.where(jnp.abs(projected - x) > kept, projected + (nearer - jax.lax.stop_gradient(projected)), projected)

    def ascend(self, x_adv: Point, gradient: Point, step_size: Scalar) -> Point:
        """The best point of the l1 ball of radius step_size around x' within the box: pixels move in the order of |g|, each as far as the box
        allows, until step_size is spent. (Without the box only one pixel would move, and soon be stuck at its end.)
        """
        room = jnp.where(gradient > 0.0, 1.0 - x_adv, x_adv) * (gradient != 0.0)
        order = jnp.argsort(-jnp.abs(gradient).reshape(-1))
        sorted_room = jnp.take(room.reshape(-1), order)
        spent_before = jnp.cumsum(sorted_room) - sorted_room
        move = jnp.clip(step_size - spent_before, 0.0, sorted_room)
        return x_adv + jnp.sign(gradient) * jnp.zeros_like(move).at[order].set(move).reshape(x_adv.shape)

    def random_point(self, key: PRNGKey, x: Point) -> Point:
        """Uniform in the ball (n of n + 1 exponential variables over their sum, random signs), clipped to [0, 1]."""
        sign_key, size_key = jax.random.split(key)
        sizes = jax.random.exponential(size_key, (x.size + 1,), x.dtype)
        signs = jax.random.rademacher(sign_key, x.shape, x.dtype)
        return jnp.clip(x + checked_radius(self.eps) * signs * (sizes[:-1] / jnp.sum(sizes)).reshape(x.shape), 0.0, 1.0)

    def random_direction(self, key: PRNGKey, x: Point) -> Point:
        """A Gaussian perturbation, divided by its length."""
        t = jax.random.normal(key, x.shape, x.dtype)
        return t / jnp.sum(jnp.abs(t))

    @staticmethod
    def smallest_step(gain: Point, room: Point, needed: Scalar) -> Point:
        """Entries in the order of their gain, each as far as there is room, until it is enough."""
        order = jnp.argsort(-gain.reshape(-1))
        sorted_gain, sorted_room = jnp.take(gain.reshape(-1), order), jnp.take(room.reshape(-1), order)
        got_before = jnp.cumsum(sorted_gain * sorted_room) - sorted_gain * sorted_room
        useful = sorted_gain > 0.0
        moved = jnp.clip((needed - got_before) / jnp.where(useful, sorted_gain, 1.0), 0.0, jnp.where(useful, sorted_room, 0.0))
        return jnp.zeros_like(moved).at[order].set(moved).reshape(room.shape)

    @staticmethod
    def length(difference: Point) -> Scalar:
        """`sum_i |d_i|`."""
        return jnp.linalg.norm(difference.reshape(-1), 1)

    @staticmethod
    def diameter(shape: Sequence[int]) -> float:
        """The number of pixel values."""
        return float(np.prod(shape))

    @staticmethod
    def max_eps() -> float:
        """Infinite: every radius makes sense."""
        return np.inf


def _water_filled(weight: Point, gain: Point, room: Point, needed: Scalar) -> Point:
    """`d_i = min(level weight_i, room_i)` at the level where `sum_i gain_i d_i = needed`.

    The sum is concave and piecewise linear in the level, so Newton's method from 0 rises to the solution and arrives in finitely many rounds.
    """
    shape = room.shape
    weight, gain, room = (part.reshape(-1) for part in (weight, gain, room))

    def next_level(level: Any) -> Any:
        stopped = level * weight >= room
        both = jnp.stack([jnp.where(stopped, room, 0.0), jnp.where(stopped, 0.0, weight)])
        # One product: on CPU it takes a third of the time of two sums.
        got, slope = jnp.matmul(both, gain, precision=jax.lax.Precision.HIGHEST)
        return jnp.where(slope > 0.0, (needed - got) / jnp.where(slope > 0.0, slope, 1.0), level)

    def rises(levels: Any) -> Any:
        return levels[1] > levels[0]

    start = jnp.full((), -1.0, room.dtype), jnp.zeros((), room.dtype)
    _, level = jax.lax.while_loop(rises, lambda levels: (levels[1], next_level(levels[1])), start)
    feasible = jnp.sum(gain * room) > needed
    return jnp.where(feasible, jnp.minimum(level * weight, room), jnp.where(gain > 0.0, room, 0.0)).reshape(shape)


BALLS: dict[str, type[Any]] = {"linf": LInf, "l2": L2, "l1": L1}  # each a `NormBall`
