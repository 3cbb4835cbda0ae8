"""Snow: flakes of seven random shapes, whose strength is the variable (Kang et al. 2019, https://arxiv.org/abs/1908.08016, as in their code)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from irob.attacks.balls import LInf
from irob.attacks.unforeseen.variation import Variation, correlated, off_canvas, on_canvas, spectrum
from irob.types import Array, Image, Point, PRNGKey, Scalar

SHAPES, SIDE, MIDDLE = 7, 13, 6
BUDGET, BLOCK = 0.2, 8  # mean strength of a block of 8 x 8 flakes


class Flakes(NamedTuple):
    """0 <= s <= 1 with a mean of at most eps in every block of 8 x 8 flakes of a shape (smaller at the edge)."""

    eps: Scalar = BUDGET

    def project(self, s: Point, start: Point) -> Point:
        """Clip, then scale the blocks above the budget."""
        s = jnp.clip(s, 1e-9, 1.0)
        n, h, w = s.shape
        whole = jnp.pad(s, ((0, 0), (0, -h % BLOCK), (0, -w % BLOCK)))
        blocks = whole.reshape(n, whole.shape[1] // BLOCK, BLOCK, whole.shape[2] // BLOCK, BLOCK)
        inside = np.pad(np.ones((h, w)), ((0, -h % BLOCK), (0, -w % BLOCK))).reshape(blocks.shape[1:]).sum(axis=(1, 3), dtype=np.float32)
        scale = self.eps / jnp.maximum(self.eps, jnp.sum(blocks, axis=(2, 4)) / inside)
        return (blocks * scale[:, :, None, :, None]).reshape(whole.shape)[:, :h, :w]

    def ascend(self, s: Point, gradient: Point, step_size: Scalar) -> Point:
        """`s + step_size sign(g)`."""
        return LInf(self.eps).ascend(s, gradient, step_size)

    def random_point(self, key: PRNGKey, start: Point) -> Point:
        """`exp(-5 U)`, projected."""
        return self.project(jnp.exp(-5.0 * jax.random.uniform(key, start.shape, start.dtype)), start)


def line(rows: Any, columns: Any, width: Scalar) -> Float[Array, "7 7"]:
    """An anti-aliased line from the first position to (rows, columns).

    Along the longer axis, at a whole a, the line is at b0 = a slope; the cell (a, b) has `clip(1 + w - |b - b0|)`, w = width sqrt(1 + slope) / 4.
    """
    steep = rows > columns
    longer, shorter = jnp.where(steep, rows, columns), jnp.where(steep, columns, rows)
    slope = shorter / longer
    a, b = np.ogrid[: MIDDLE + 1, : MIDDLE + 1]
    values = jnp.clip(1.0 + width * jnp.sqrt(1.0 + slope) / 4.0 - jnp.abs(b - slope * a), 0.0, 1.0) * (a <= longer)
    return jnp.where(steep, values, values.T)


def flake(rows: Any, columns: Any, width: Scalar, sigma: Scalar, flipped: Any) -> Float[Array, "k k"]:
    """A line from the middle and its mirror image through the middle, flipped from left to right if so asked, blurred by a 3 x 3 Gaussian."""
    half = line(rows, columns, width)
    sharp = jnp.zeros((SIDE, SIDE)).at[MIDDLE:, MIDDLE:].set(half).at[: MIDDLE + 1, : MIDDLE + 1].set(half[::-1, ::-1])
    sharp = jnp.where(flipped, sharp[:, ::-1], sharp)
    bell = jnp.exp(-(jnp.array([-1.0, 0.0, 1.0]) ** 2) / (2.0 * sigma**2))
    bell = bell / jnp.sum(bell)
    padded = jnp.pad(sharp, 1)
    across = jnp.tensordot(bell, jnp.stack([padded[i : i + SIDE] for i in range(3)]), axes=1)
    return jnp.tensordot(bell, jnp.stack([across[:, j : j + SIDE] for j in range(3)]), axes=1)


def random_flakes(key: PRNGKey) -> Float[Array, "7 k k"]:
    """Seven flakes: ends 2 to 6 positions off the middle, widths 1, 3, 5 with probabilities 0.6, 0.3, 0.1, sigma in [0.41, 0.6]; all flipped or
    none.
    """
    of_flip, of_ends, of_widths, of_sigmas = jax.random.split(key, 4)
    ends = jax.random.randint(of_ends, (SHAPES, 2), 2, MIDDLE + 1)
    widths = jax.random.choice(of_widths, jnp.array([1.0, 3.0, 5.0]), (SHAPES,), p=jnp.array([0.6, 0.3, 0.1]))
    sigmas = jax.random.uniform(of_sigmas, (SHAPES,), minval=0.41, maxval=0.6)
    flipped = jax.random.bernoulli(of_flip)
    return jax.vmap(lambda end, width, sigma: flake(end[0], end[1], width, sigma, flipped))(ends, widths, sigmas)


def fallen(strengths: Float[Array, "7 rows columns"], flakes: Complex[Array, "7 u v"]) -> Float[Array, "h w"]:
    """All flakes, each s^4 of its shape: shape i < 4 at every fourth row and column from (0, i), shape 4 + i from (i + 1, 0).

    flakes: `spectrum(random_flakes(key), (h, w))`.
    """
    n, rows, columns = strengths.shape
    grids = jnp.zeros((n, 4 * rows, 4 * columns), strengths.dtype)
    for shape, (row, column) in enumerate([*((0, i) for i in range(4)), *((i + 1, 0) for i in range(3))]):
        grids = grids.at[shape, row::4, column::4].set(strengths[shape] ** 4)
    return correlated(grids, flakes, SIDE)


def render(x: Image, variable: Float[Array, "7 rows columns"], eps: Scalar, flakes: Complex[Array, "7 u v"]) -> Image:
    """`clip(0.75 x + 0.25 max(x, 1.5 lum + 0.5) + eps S)`, S the flakes, lum = 0.2126 R + 0.7152 G + 0.0722 B.

    Snow whitens the whole image, with eps = 0 as well.
    """
    canvas = on_canvas(x)
    lum = (canvas @ np.array([0.2126, 0.7152, 0.0722], np.float32))[..., None]
    pale = 0.75 * canvas + 0.25 * jnp.maximum(canvas, 1.5 * lum + 0.5)
    return off_canvas(jnp.clip(pale + eps * fallen(variable, flakes)[..., None], 0.0, 1.0), x)


def vary(key: PRNGKey, x: Image, eps: Scalar) -> Variation:
    """eps: brightness of the flakes. The variable: their strengths."""
    of_flakes, of_start = jax.random.split(key)
    height, width, _ = on_canvas(x).shape
    flakes = spectrum(random_flakes(of_flakes), (height, width))
    start = Flakes().random_point(of_start, jnp.zeros((SHAPES, height // 4, width // 4), x.dtype))
    return Variation(lambda v: render(x, v, eps, flakes), Flakes(), start)
