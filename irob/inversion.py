"""Feature inversion: what an image must be like for one unit of the representation to be strongly active."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from irob.arrays import Array, Features, Image, Label, Scalar
from irob.attacks.balls import Ball
from irob.attacks.pgd import pgd
from irob.losses import pick


def activation(features: Features, unit: Label) -> Scalar:
    """The activity of a unit, `mean over u of A_k(u)`: what the head sees of it."""
    return jnp.mean(pick(features, unit))


def invert(features: Callable[[Image], Features], unit: Label, seed: Image, ball: Ball, *, step_sizes: Float[Array, " steps"]) -> Image:
    """Ascends the activity of one unit from a seed image (a real one, or noise) inside a ball around it and [0, 1].

    On robust networks the result shows what the unit stands for (Engstrom et al. 2019, https://arxiv.org/abs/1906.00945, sec. 3.2).

    Args:
      features: `x -> A [h, w, K]`, e.g. `explain(x).maps` read out by `maps.READOUTS["representation"]`.
      unit: k.
      seed: `[H, W, c]` in [0, 1].
      ball: `L2` for steps along the gradient, `LInf` along its sign. A radius as large as the box leaves only the box.
      step_sizes: `[steps]`.
    """
    return pgd(lambda x: activation(features(x), unit), ball, seed, step_sizes=step_sizes)
