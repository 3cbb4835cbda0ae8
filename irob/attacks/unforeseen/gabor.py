"""Gabor noise: a sparse grid, correlated with a random Gabor kernel and stretched to almost black and white (Kang et al. 2019,
https://arxiv.org/abs/1908.08016, as in their code).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from irob.attacks.balls import LInf
from irob.attacks.unforeseen.variation import Variation, correlated, off_canvas, on_canvas, spectrum
from irob.types import Array, Image, Point, PRNGKey, Scalar

SIDE = 23  # of the kernel
MAX_SIDES = 10
DENSITY = 1 / 14  # share of the cells that are not empty at the start


class EmptyCells(NamedTuple):
    """-1 <= v <= 1 in the cells that were empty at the start, 0 in the others: the sizes of this attack were calibrated so."""

    @property
    def eps(self) -> Scalar:
        """1, the bound of a cell."""
        return 1.0

    def project(self, v: Point, start: Point) -> Point:
        """Clip the former, set the latter to 0."""
        return jnp.where(start == 0.0, jnp.clip(v, -1.0, 1.0), 0.0)

    def ascend(self, v: Point, gradient: Point, step_size: Scalar) -> Point:
        """`v + step_size sign(g)`."""
        return LInf(1.0).ascend(v, gradient, step_size)

    def random_point(self, key: PRNGKey, start: Point) -> Point:
        """A start: values uniform in [-1, 1] in a fourteenth of the cells, 0 in the others."""
        of_cells, of_values = jax.random.split(key)
        full = jax.random.bernoulli(of_cells, DENSITY, start.shape)
        return jnp.where(full, jax.random.uniform(of_values, start.shape, start.dtype, -1.0, 1.0), 0.0)


def kernel(sides: Any, sigma: Scalar, frequency: Scalar, theta: Scalar) -> Float[Array, "k k"]:
    """`sum_{i < sides} exp(-(p^2 + q^2) / (2 (sigma + 0.001)^2)) cos(2 pi frequency p)`, p and q being the coordinates, in [-1/2, 1/2], turned by
    theta + i pi / sides. frequency: cycles per side of the kernel.
    """
    y, x = np.meshgrid(*[np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)] * 2, indexing="ij")

    def one(i: Any) -> Array:
        angle = theta + i * jnp.pi / sides
        p, q = x * jnp.cos(angle) + y * jnp.sin(angle), y * jnp.cos(angle) - x * jnp.sin(angle)
        return jnp.exp(-0.5 * (p**2 + q**2) / (sigma + 0.001) ** 2) * jnp.cos(2 * jnp.pi * frequency * p) * (i < sides)

    return jnp.sum(jax.vmap(one)(jnp.arange(MAX_SIDES)), axis=0)


def noise(grid: Float[Array, "h w"], kernels: Complex[Array, "1 u v"]) -> Float[Array, "h w"]:
    """In [0, 1], nearly all of it at the ends: the correlation o, stretched about its mean by `1.001 / (0.001 + |o - mean| / max |o - mean|)`.

    The mean, the stretch and the ends are constants for the gradient. kernels: `spectrum(kernel[None], grid.shape)`.
    """
    o = correlated(grid[None], kernels, SIDE)
    constant = jax.lax.stop_gradient(o)
    mean = jnp.mean(constant)
    far = jnp.max(jnp.abs(constant - mean))
    gain = 1.001 / (0.001 + jnp.abs(constant - mean) / jnp.where(far > 0.0, far, 1.0))
    stretched = mean + (o - mean) * gain
    ends = jax.lax.stop_gradient((jnp.min(stretched), jnp.max(stretched)))
    width = ends[1] - ends[0]
    return (stretched - ends[0]) / jnp.where(width > 0.0, width, 1.0)


def render(x: Image, variable: Float[Array, "h w"], eps: Scalar, kernels: Complex[Array, "1 u v"]) -> Image:
    """`clip(x + eps / 255 noise)` in all channels."""
    return off_canvas(jnp.clip(on_canvas(x) + eps / 255.0 * noise(variable, kernels)[..., None], 0.0, 1.0), x)


def random_kernel(key: PRNGKey) -> Float[Array, "k k"]:
    """1 to 10 sides, sigma in [0.1, 0.4], frequency in [3, 5.75], theta in [0, pi]."""
    sides, rest = jax.random.split(key)
    u = jax.random.uniform(rest, (3,))
    return kernel(jax.random.randint(sides, (), 1, MAX_SIDES + 1), 0.1 + 0.3 * u[0], 3.0 + 2.75 * u[1], jnp.pi * u[2])


def vary(key: PRNGKey, x: Image, eps: Scalar) -> Variation:
    """eps: contrast of the noise, on the scale of 255. The variable: the grid."""
    of_kernel, of_start = jax.random.split(key)
    height, width, _ = on_canvas(x).shape
    shape = (height, width)
    kernels = spectrum(random_kernel(of_kernel)[None], shape)
    cells = EmptyCells()
    return Variation(lambda v: render(x, v, eps, kernels), cells, cells.random_point(of_start, jnp.zeros(shape, x.dtype)))
