"""Elastic deformation: pixels flow along a smooth field (Kang et al. 2019, https://arxiv.org/abs/1908.08016, after Xiao et al. 2018,
https://arxiv.org/abs/1801.02612).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Float

from irob.attacks.unforeseen.variation import Range, Variation
from irob.types import Array, Image, PRNGKey, Scalar

REACH, SIGMA = 12, 3.0  # of the Gaussian that smooths the field, in pixels


def smoothing(side: int) -> Float[np.ndarray, "side side"]:
    """The matrix of the Gaussian along one axis, the field mirrored at its edges (the edge itself not repeated)."""
    bell = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2 * SIGMA**2))
    mirrored = np.pad(np.eye(side), ((REACH, REACH), (0, 0)), mode="reflect")
    bell = bell / bell.sum()
    return np.stack([bell @ mirrored[i : i + 2 * REACH + 1] for i in range(side)]).astype(np.float32)


def flow(variable: Float[Array, "H W 2"]) -> Float[Array, "H W 2"]:
    """The smoothed field: from where each pixel is taken, in pixels down and right of itself."""
    rows, columns = (smoothing(side) for side in variable.shape[:2])
    return jnp.einsum("hi,ijd,wj->hwd", rows, variable, columns)


def render(x: Image, variable: Float[Array, "H W 2"]) -> Image:
    """The image resampled along the field, bilinearly; black beyond the edge."""
    height, width, _ = x.shape
    positions = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")) + jnp.moveaxis(flow(variable), -1, 0)
    planes = jax.vmap(lambda plane: map_coordinates(plane, list(positions), order=1, mode="constant"), in_axes=2, out_axes=2)(
        jnp.asarray(x)
    )
    return jnp.clip(planes, 0.0, 1.0)  # rounding


def vary(key: PRNGKey, x: Image, eps: Scalar) -> Variation:
    """eps: bound of the field before it is smoothed, in pixels. The variable: the field."""
    ball = Range(-eps, eps)
    return Variation(lambda v: render(x, v), ball, ball.random_point(key, jnp.zeros((*x.shape[:2], 2), x.dtype)))
