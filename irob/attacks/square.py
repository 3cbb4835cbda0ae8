"""Square Attack: random search among images that differ from x in squares, by scores alone, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from irob.attacks.attack import AttackResult, GradientCounts, ScoredObjective, first_iterate, selected
from irob.attacks.balls import L1, L2, LInf
from irob.types import Array, Image, PRNGKey

# (queries up to which, divisor of the proportion of pixels in a square)
SCHEDULE = ((10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256))


def square_sides(num_queries: int, height: int, width: int, proportion: float = 0.8) -> np.ndarray:
    """The side of the square of each query, `[num_queries]`: `round(sqrt(p H W))`, p the proportion over 1, 2, 4, ... as the search goes on.

    References:
      Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049, sec. 3; the schedule of the authors' code for 10,000 queries, not rescaled.

    >>> sorted(set(square_sides(5000, 32, 32).tolist()))
    [3, 4, 5, 7, 10, 14, 20, 29]
    """
    number = np.arange(num_queries)
    divisors = np.select([number <= last for last, _ in SCHEDULE], [divisor for _, divisor in SCHEDULE], 512)
    sides = np.rint(np.sqrt(proportion / divisors * height * width)).astype(np.int32)
    return np.clip(sides, 1, min(height, width))


class Draw(NamedTuple):
    """Of one query. corners: of a first and a second window, each in [0, 1) of what is possible `[2, 2]`. signs: `[c]`. turned: the pattern."""

    corners: Array
    signs: Array
    turned: Array


def draws(key: PRNGKey, num_queries: int, channels: int) -> Draw:
    """What the start (unused) and the queries draw, `[num_queries, ...]`."""
    corner_key, sign_key, turn_key = jax.random.split(key, 3)
    return Draw(
        jax.random.uniform(corner_key, (num_queries, 2, 2)),
        jax.random.rademacher(sign_key, (num_queries, channels), jnp.float32),
        jax.random.bernoulli(turn_key, 0.5, (num_queries,)),
    )


def window(corner: Array, side: Array, height: int, width: int) -> Array:
    """The pixels of a window, `[H, W]` bool: every position is equally likely. (The authors' code never draws the last row and column.)"""
    first = jnp.floor(corner * (jnp.array([height, width]) - side + 1))
    rows, columns = (np.arange(size) - first[axis] for axis, size in enumerate((height, width)))
    return ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))


class Square(NamedTuple):
    """Square Attack as an `Attack`: the start and num_steps queries, each one forward pass, without a gradient.

    l-inf: from vertical stripes of +-eps, each query sets a square to +-eps, a sign for each channel. (A query that would change nothing is left out;
      of several in a row every second.)
    l2, l1: from a grid of `bumps`, each query moves what a second window holds, and what the radius leaves, into a bump in a first window.
    A candidate is kept if its value is larger, or if it succeeds (score > 0); then the search ends.

    proportion: of the pixels in the first squares.

    References:
      Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049, algorithms 1 to 3; in l1, as the authors' later code, with the exact projection.
    """

    proportion: float = 0.8

    def __call__(
        self, objective: ScoredObjective, ball: Any, x: Image, *, key: PRNGKey, num_steps: int, start: Image | None = None
    ) -> AttackResult:
        """Searches; see `Attack`."""
        height, width, channels = x.shape
        start_key, query_key = jax.random.split(key)
        drawn = jax.tree.map(
            lambda part: part.astype(x.dtype) if part.dtype == jnp.float32 else part, draws(query_key, num_steps + 1, channels)
        )
        first_of, candidates, sides = (
            (stripes, _squares, square_sides) if isinstance(ball, LInf) else (grid_of_bumps, _moved_bumps, odd_sides)
        )
        first = first_iterate(start, ball, x) if start is not None else first_of(ball, start_key, x)
        side_of = jnp.asarray(np.append(1, sides(num_steps, height, width, self.proportion)))
        query_of = candidates(ball, x, lambda number: (side_of[number], jax.tree.map(lambda part: part[number], drawn)))

        def searches(state: Any) -> Any:
            number, _, _, score = state
            return (number <= num_steps) & ~(score > 0.0)

        def query(state: Any) -> Any:
            number, best, value, score = state
            later, candidate = query_of(number, best)
            number, candidate = selected(number == 0, (number, first), (later, candidate))
            new_value, new_score = objective(candidate)
            larger = new_value > value
            better = (larger | (new_score > 0.0)) & (number <= num_steps)
            best, value, score = selected(better, (candidate, jnp.where(larger, new_value, value), new_score), (best, value, score))
            return number + 1, best, value, score

        low = jnp.full((), -jnp.inf, x.dtype)
        _, best, _, score = jax.lax.while_loop(searches, query, (jnp.int32(0), first, low, low))
        return jax.lax.stop_gradient(AttackResult(best, score, GradientCounts()))


Drawn = Callable[[Array], tuple[Array, Draw]]  # the side and the draw of a query, by its number
Query = Callable[[Array, Image], tuple[Array, Image]]  # (number, best image) -> number of the query that is made, candidate


def stripes(ball: Any, key: PRNGKey, x: Image) -> Image:
    """`x +- eps`, a sign for each column and channel."""
    return ball.project(x + ball.eps * jax.random.rademacher(key, x.shape[1:], x.dtype), x)


def _squares(ball: Any, x: Image, drawn: Drawn) -> Query:
    """Of a query that would change nothing, the next one is made instead."""
    low, high = ball.project(x - ball.eps, x), ball.project(x + ball.eps, x)

    def candidate(number: Array, best: Image) -> Image:
        side, draw = drawn(number)
        inside = window(draw.corners[0], side, *x.shape[:2])[..., None]
        return ball.project(jnp.where(inside, jnp.where(draw.signs > 0.0, high, low), best), x)

    def query(number: Array, best: Image) -> tuple[Array, Image]:
        number += jnp.all(candidate(number, best) == best)
        return number, candidate(number, best)

    return query


# --- l2 and l1 ------------------------------------------------------------------------------------------------------------------------------


def odd_sides(num_queries: int, height: int, width: int, proportion: float) -> np.ndarray:
    """`square_sides`, at least 3 and odd."""
    sides = np.maximum(square_sides(num_queries, height, width, proportion), 3)
    sides += 1 - sides % 2
    most = min(height, width)
    return np.where(sides > most, most - 1 + most % 2, sides)


def rings(height: int, width: int) -> np.ndarray:
    """`[a, b]` of length 1 in l2: around the center (a // 2, b // 2), on the square of half-width k, the sum over k of 1 / (k + 1)^2.

    >>> (rings(1, 3) / rings(1, 3).min()).round(2).tolist()
    [[1.0, 5.0, 1.0]]
    """
    row, column = height // 2, width // 2
    found = np.zeros((height, width))
    for k in range(max(row, column) + 1):
        found[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += 1.0 / (k + 1) ** 2
    return found / np.linalg.norm(found)


def bump(side: int, length: Callable[[np.ndarray], float]) -> np.ndarray:
    """`[s, s]` of length 1: `rings` in the upper half, minus `rings` in the lower half."""
    upper = side // 2
    found = np.zeros((side, side))
    found[:upper] = rings(upper, side)
    found[upper:] = -rings(side - upper, side)
    return found / length(found)


def _bumps(height: int, width: int, length: Callable[[np.ndarray], float]) -> np.ndarray:
    """The bumps of all odd sides, that of side s at s // 2, each at the upper left of an image `[sides, H, W]`."""
    sides = range(1, min(height, width) + 1, 2)
    found = np.zeros((len(sides), height, width))
    for i, side in enumerate(sides):
        found[i, :side, :side] = bump(side, length)
    return found


def _length_of(ball: Any) -> Callable[[np.ndarray], float]:
    return lambda array: float(np.linalg.norm(array.reshape(-1), 1 if _power(ball) == 1 else 2))


def _power(ball: Any) -> int:
    """P of the norm: 2 for l2, 1 for l1."""
    for row, power in ((L2, 2), (L1, 1)):
        if isinstance(ball, row):
            return power
    raise ValueError(f"Square Attack is defined in l-inf, l2 and l1, not in {type(ball).__name__}")


def grid_of_bumps(ball: Any, key: PRNGKey, x: Image) -> Image:
    """Bumps side by side, at distance eps: a sign for each and each channel, half of them transposed."""
    height, width, channels = x.shape
    side = max(min(height, width) // 5, 1)
    above = max((min(height, width) - 5 * side) // 2, 0)  # on the left, too
    sign_key, turn_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, (height // side, width // side, channels), x.dtype)
    turned = jax.random.bernoulli(turn_key, 0.5, (*signs.shape[:2], 1))
    tile = jnp.asarray(bump(side, _length_of(ball)), x.dtype)
    upright, lying = (jnp.kron(jnp.where(turned == lies, signs, 0.0), each[..., None]) for lies, each in ((False, tile), (True, tile.T)))
    tiles = (upright + lying)[: height - above, : width - above]
    found = jnp.zeros_like(x).at[above : above + tiles.shape[0], above : above + tiles.shape[1]].set(tiles)
    return ball.project(x + ball.eps * found / ball.length(found), x)


def _moved_bumps(ball: Any, x: Image, drawn: Drawn) -> Query:
    return lambda number, best: (number, _bump_of(ball, x, best, *drawn(number)))


def _bump_of(ball: Any, x: Image, best: Image, side: Array, draw: Draw) -> Image:
    (height, width, channels), p = x.shape, _power(ball)
    size = lambda part, axis=None: jnp.sum(jnp.abs(part) ** p, axis=axis)  # noqa: E731
    delta = best - x
    new, source = (window(corner, side, height, width)[..., None] for corner in draw.corners)
    pattern = jnp.asarray(_bumps(height, width, _length_of(ball)), x.dtype)[side // 2]
    pattern = jnp.where(draw.turned, _transposed(pattern), pattern)
    first = jnp.floor(draw.corners[0] * (jnp.array([height, width]) - side + 1)).astype(jnp.int32)
    pattern = jnp.roll(pattern, first, (0, 1))[..., None] * draw.signs
    held = jnp.where(new, delta, 0.0)
    u = pattern + held / (size(held, (0, 1)) ** (1.0 / p) + 1e-12)
    spare = jnp.maximum(ball.eps**p - size(delta), 0.0) / channels
    length = (spare + size(jnp.where(new | source, delta, 0.0), (0, 1))) ** (1.0 / p)
    moved = jnp.where(new, u / (size(u, (0, 1)) ** (1.0 / p) + 1e-12) * length, jnp.where(source, 0.0, delta))
    return ball.project(x + ball.eps * moved / (size(moved) ** (1.0 / p) + 1e-12), x)


def _transposed(pattern: Array) -> Array:
    """Of a pattern in the upper left of `[H, W]`; its side fits both."""
    most = min(pattern.shape)
    return jnp.zeros_like(pattern).at[:most, :most].set(pattern[:most, :most].T)
