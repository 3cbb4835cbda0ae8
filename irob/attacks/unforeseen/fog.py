"""Fog: a plasma fractal whose random offsets are the variable (Kang et al. 2019, https://arxiv.org/abs/1908.08016, as in their code)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.attacks.unforeseen.variation import Range, Variation, off_canvas, on_canvas
from irob.types import Array, Image, PRNGKey, Scalar

FIRST_OFFSET = 100.0  # halved at each finer level, as in their code


def side_of(x: Image) -> int:
    """M, the side of the plasma for an image on the canvas: the power of two next above its larger side."""
    return 2 ** (int(np.log2(max(x.shape[:2]))) + 1)


def plasma(offsets: Float[Array, " n"], side: int) -> Float[Array, "side side"]:
    """Diamond-square on a torus, then shifted and scaled to [0, 1].

    Every level doubles the lattice P: a cell's center gets the mean of its four corners, an edge's middle that of its two ends and of two centers,
    each with an offset `w (2 v - 1)`, v in [0, 1] being the next `offsets`. The second center is the one two cells on, where diamond-square takes
    the adjacent cell: the sizes of this attack were calibrated so.

    Args:
      offsets: `[side^2 - 1]`, three grids of `2^i x 2^i` for each level i.
      side: M, a power of two.
    """
    corners, weight, used = jnp.zeros((1, 1), offsets.dtype), FIRST_OFFSET, 0
    while (n := len(corners)) < side:
        v = offsets[used : used + 3 * n * n].reshape(3, n, n)
        moved = weight * (2.0 * v - 1.0)
        down, right = jnp.roll(corners, -1, 0), jnp.roll(corners, -1, 1)
        centers = (corners + down + right + jnp.roll(down, -1, 1)) / 4 + moved[0]
        in_rows = (centers + jnp.roll(centers, 2, 0) + corners + right) / 4 + moved[1]
        in_columns = (centers + jnp.roll(centers, 2, 1) + corners + down) / 4 + moved[2]
        even = jnp.stack([corners, in_rows], axis=2).reshape(n, 2 * n)
        odd = jnp.stack([in_columns, centers], axis=2).reshape(n, 2 * n)
        corners, weight, used = jnp.stack([even, odd], axis=1).reshape(2 * n, 2 * n), weight / 2, used + 3 * n * n
    lifted = corners - jnp.min(corners)
    return lifted / jnp.max(lifted)


def render(x: Image, variable: Float[Array, " n"], eps: Scalar) -> Image:
    """`clip((x + e F) / (m + e))`, F the middle of the plasma, m the maximum of each channel of x, e = eps / 255.

    With eps = 0 it is the identity on images whose channels reach 1; it brightens others until they do. F is shifted and scaled per image; their
    code does so per batch.
    """
    canvas = on_canvas(x)
    (height, width, _), side = canvas.shape, side_of(canvas)
    top, left = (side - height) // 2, (side - width) // 2
    fog = plasma(variable, side)[top : top + height, left : left + width, None]
    most, e = jnp.max(canvas, axis=(0, 1)), eps / 255.0
    return off_canvas(jnp.clip((canvas + e * fog) / jnp.maximum(most + e, 1e-6), 0.0, 1.0), x)


def vary(key: PRNGKey, x: Image, eps: Scalar) -> Variation:
    """eps: amount of fog, on the scale of 255. The variable: all offsets, in [0, 1]."""
    start = jax.random.uniform(key, (side_of(on_canvas(x)) ** 2 - 1,), x.dtype)
    return Variation(lambda v: render(x, v, eps), Range(0.0, 1.0), start)
