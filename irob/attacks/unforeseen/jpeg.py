"""JPEG artifacts: noise on the coefficients of JPEG, in half quantization steps (Kang et al. 2019, https://arxiv.org/abs/1908.08016, as in their
code), within an l-inf, l2 or l1 ball.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.attacks import balls
from irob.attacks.balls import Ball
from irob.attacks.unforeseen.variation import Range, Variation, off_canvas, on_canvas
from irob.types import Array, Image, Point, PRNGKey, Scalar

# The tables of the JPEG standard (ITU-T T.81, annex K), rows = vertical frequency.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32).T
TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32).T
MAX_COEFFICIENT = 2.0  # in half quantization steps


def LInfJPEG(eps: Scalar) -> Ball:  # noqa: N802
    """The ball `|v_i| <= eps` of coefficients."""
    return Range(-eps, eps)


class L2JPEG(NamedTuple):
    """`||v||_2 <= eps`, `|v_i| <= 2`."""

    eps: Scalar

    def project(self, v: Point, start: Point) -> Point:
        """Scale to the l2 ball, then clip to [-2, 2]."""
        return jnp.clip(v * jnp.minimum(1.0, self.eps / jnp.maximum(jnp.linalg.norm(v), 1e-12)), -MAX_COEFFICIENT, MAX_COEFFICIENT)

    def ascend(self, v: Point, gradient: Point, step_size: Scalar) -> Point:
        """`v + step_size g / ||g||_2`; no move where g = 0."""
        return balls.L2(self.eps).ascend(v, gradient, step_size)

    def random_point(self, key: PRNGKey, start: Point) -> Point:
        """Uniform in the l2 ball, clipped."""
        of_direction, of_radius = jax.random.split(key)
        direction = jax.random.normal(of_direction, start.shape, start.dtype)
        radius = self.eps * jax.random.uniform(of_radius, dtype=start.dtype) ** (1.0 / start.size)
        return self.project(radius * direction / jnp.linalg.norm(direction), start)


class L1JPEG(NamedTuple):
    """`||v||_1 <= eps`, `|v_i| <= 2`, with Frank-Wolfe steps: a step goes towards a corner of the set, `v + step_size (corner - v)`.

    The corner fills coordinates in the order of |g|, each by its room to 2 in the direction of the gradient (from v), until eps is spent.
    """

    eps: Scalar

    def project(self, v: Point, start: Point) -> Point:
        """Clip to [-2, 2]. It does not project on the l1 ball, which the steps of `ascend` and `random_point` do not leave."""
        return jnp.clip(v, -MAX_COEFFICIENT, MAX_COEFFICIENT)

    def ascend(self, v: Point, gradient: Point, step_size: Scalar) -> Point:
        """The step towards the corner."""
        sign = jnp.sign(gradient)
        room = MAX_COEFFICIENT - sign * v
        order = jnp.argsort(-jnp.abs(gradient))
        sorted_room = room[order]
        before = jnp.cumsum(sorted_room) - sorted_room
        given = jnp.zeros_like(v).at[order].set(jnp.clip(self.eps - before, 0.0, sorted_room))
        return v + step_size * (sign * given - v)

    def random_point(self, key: PRNGKey, start: Point) -> Point:
        """Uniform in the l1 ball (n of n + 1 exponential variables over their sum, random signs), clipped."""
        of_signs, of_sizes = jax.random.split(key)
        sizes = jax.random.exponential(of_sizes, (start.size + 1,), start.dtype)
        return self.project(self.eps * jax.random.rademacher(of_signs, start.shape, start.dtype) * sizes[:-1] / jnp.sum(sizes), start)


def cosines() -> Float[np.ndarray, "8 8"]:
    """The orthonormal DCT-II: row k is the cosine of frequency k."""
    k, n = np.ogrid[:8, :8]
    return (np.sqrt(np.where(k == 0, 1, 2) / 8) * np.cos(np.pi * (2 * n + 1) * k / 16)).astype(np.float32)


def patterns(table: Float[np.ndarray, "8 8"]) -> Float[np.ndarray, "64 64"]:
    """Row = coefficient, column = pixel: what half a quantization step of each coefficient adds to the pixels of its block."""
    d = cosines()
    return (0.5 * table[:, :, None, None] * np.einsum("ui,vj->uvij", d, d)).reshape(64, 64)


def plane(v: Float[Array, " n"], table: Float[np.ndarray, "8 8"], height: int, width: int) -> Float[Array, "height width"]:
    """The pixels of a plane from its coefficients, block after block in rows."""
    blocks = (v.reshape(-1, 64) @ patterns(table)).reshape(height // 8, width // 8, 8, 8)
    return blocks.transpose(0, 2, 1, 3).reshape(height, width)


def artifacts(v: Float[Array, " n"], height: int, width: int) -> Float[Array, "height width 3"]:
    """What a variable adds to an image, on the scale of 255: `[1.5 H W]`, all luma blocks, then Cb, then Cr at half the resolution."""
    luma, blue, red = v[: height * width], *jnp.split(v[height * width :], 2)
    half = [jnp.repeat(jnp.repeat(plane(part, CHROMINANCE, height // 2, width // 2), 2, 0), 2, 1) for part in (blue, red)]
    return jnp.stack([plane(luma, LUMINANCE, height, width), *half], axis=-1) @ TO_RGB


def through_ycbcr(x: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
    """To luma and chroma, the latter averaged over 2 x 2 pixels, and back: JPEG compression without rounding."""
    ycbcr = x @ TO_YCBCR
    h, w, _ = x.shape
    chroma = jnp.mean(ycbcr[..., 1:].reshape(h // 2, 2, w // 2, 2, 2), axis=(1, 3))
    return jnp.concatenate([ycbcr[..., :1], jnp.repeat(jnp.repeat(chroma, 2, 0), 2, 1)], axis=-1) @ TO_RGB


def render(x: Image, variable: Float[Array, " n"]) -> Image:
    """JPEG, without rounding, of x with `v / 2` quantization steps added to each coefficient: linear in v but for the clipping."""
    canvas = on_canvas(x)
    height, width, _ = canvas.shape
    return off_canvas(jnp.clip(through_ycbcr(canvas) + artifacts(variable, height, width) / 255.0, 0.0, 1.0), x)


def vary(ball: Callable[[Scalar], Any], key: PRNGKey, x: Image, eps: Scalar) -> Variation:
    """eps: radius of the ball, in half quantization steps. The variable: `[1.5 H W]` coefficients."""
    height, width, _ = on_canvas(x).shape
    within = ball(eps)
    start = within.random_point(key, jnp.zeros(height * width * 3 // 2, x.dtype))
    return Variation(lambda v: render(x, v), within, start)
