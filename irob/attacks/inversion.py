"""Feature inversion: what an image must look like for one unit of the representation to be strongly active."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from irob.attacks.balls import Ball
from irob.attacks.projected_gradient import pgd
from irob.losses import pick
from irob.types import Array, Features, Image, Label, Scalar


def mean_activation(features: Features, unit: Label) -> Scalar:
    """The mean activation of unit k, `mean over u of A_k(u)`, which is what the head reads of it."""
    return jnp.mean(pick(features, unit))


def invert(features: Callable[[Image], Features], unit: Label, seed: Image, ball: Ball, *, step_sizes: Float[Array, " steps"]) -> Image:
    """Ascends the mean activation of one unit from a seed image (a real one, or noise), inside a ball around it and [0, 1].

    On robust networks the result shows what the unit stands for.

    Args:
      features: `x -> A [h, w, K]`, e.g. `explain(x).maps` read out by `maps.READOUTS["representation"]`.
      unit: k.
      seed: `[H, W, c]` in [0, 1].
      ball: `L2` for steps along the gradient, `LInf` along its sign. With a radius as large as the box only the box bounds the image.
      step_sizes: `[steps]`.

    Returns:
      The last iterate `[H, W, c]`.

    References:
      Engstrom et al. 2019, https://arxiv.org/abs/1906.00945, sec. 3.2.
    """
    return pgd(lambda x: mean_activation(features(x), unit), ball, seed, step_sizes=step_sizes)
