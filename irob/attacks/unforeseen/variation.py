"""Shared by the unforeseen attacks: the record, the canvas they render on, and correlation with a kernel per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Complex, Float

from irob.attacks.balls import Ball, LInf
from irob.types import Array, Image, Point, Scalar

Render = Callable[[Any], Image]


class Variation(NamedTuple):
    """An attack on one image, to be ascended in its variable.

    render: variable -> image in [0, 1], differentiable.
    ball: the set of the variable.
    start: the first variable, random, and the point that `ball` is around.
    """

    render: Render
    ball: Ball
    start: Point


class Range(NamedTuple):
    """`low <= v <= high`, with steps along the sign of the gradient."""

    low: Scalar
    high: Scalar

    @property
    def eps(self) -> Scalar:
        """Half of the width high - low."""
        return (self.high - self.low) / 2

    def project(self, v: Point, start: Point) -> Point:
        """Clips to the range [low, high]."""
        return jnp.clip(v, self.low, self.high)

    def ascend(self, v: Point, gradient: Point, step_size: Scalar) -> Point:
        """`v + step_size sign(g)`."""
        return LInf(self.eps).ascend(v, gradient, step_size)

    def random_point(self, key: Any, start: Point) -> Point:
        """`v ~ U[low, high]`, each coordinate by itself."""
        return jax.random.uniform(key, start.shape, start.dtype, self.low, self.high)


def on_canvas(x: Image) -> Float[Array, "height width 3"]:
    """The image with zeros around it until its sides are multiples of 16, with three channels.

    Raises:
      ValueError: unless it has one channel or three.
    """
    if x.shape[2] not in (1, 3):
        raise ValueError(f"this attack needs images with one channel or three, got {x.shape[2]}")
    (top, bottom), (left, right) = (_margins(side) for side in x.shape[:2])
    padded = jnp.pad(x, ((top, bottom), (left, right), (0, 0)))
    return jnp.repeat(padded, 3, axis=2) if x.shape[2] == 1 else padded


def off_canvas(drawn: Float[Array, "height width 3"], x: Image) -> Image:
    """The inverse of `on_canvas`: the middle, and the mean over channels if x has one."""
    (top, _), (left, _) = (_margins(side) for side in x.shape[:2])
    middle = drawn[top : top + x.shape[0], left : left + x.shape[1]]
    return jnp.mean(middle, axis=2, keepdims=True) if x.shape[2] == 1 else middle


def _margins(side: int) -> tuple[int, int]:
    missing = -side % 16
    return missing // 2, missing - missing // 2


def spectrum(kernels: Float[Array, "n k k"], shape: tuple[int, int]) -> Complex[Array, "n u v"]:
    """The Fourier transform of kernels, for `correlated`. (A convolution with a kernel per image is slow in a batch.)"""
    k = kernels.shape[-1]
    return jnp.conj(jnp.fft.rfft2(kernels, (shape[0] + k - 1, shape[1] + k - 1)))


def correlated(grids: Float[Array, "n h w"], kernels: Complex[Array, "n u v"], k: int) -> Float[Array, "h w"]:
    """`sum_n sum_{a, b} grid_n(i + a - k // 2, j + b - k // 2) kernel_n(a, b)`, zeros beyond the edge; the kernels as `spectrum` gives them."""
    (height, width), whole = grids.shape[1:], (grids.shape[1] + k - 1, grids.shape[2] + k - 1)
    found = jnp.fft.irfft2(jnp.sum(jnp.fft.rfft2(grids, whole) * kernels, axis=0), whole)
    return jnp.roll(found, (k // 2, k // 2), (0, 1))[:height, :width]
