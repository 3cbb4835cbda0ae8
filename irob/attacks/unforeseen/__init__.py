"""Attacks that were not foreseen in training: fog, Gabor noise, snow, JPEG artefacts, elastic deformation.

Kang et al. 2019, https://arxiv.org/abs/1908.08016, whose sizes `eps` these are. Each attack is a differentiable picture of a variable, drawn on one
image, and `attacks.pgd` climbs in the variable:

    variation = UNFORESEEN["fog"].vary(key, x, eps)
    v = pgd(lambda v: loss(explain(variation.render(v)).logits), variation.ball, variation.start, step_sizes=UNFORESEEN["fog"].step_sizes(eps, 200))
    x_adv = variation.render(v)

What is drawn at random (flakes, kernels, starts) comes from the key, so an image's result is a function of (key, image).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from irob.arrays import Array, Image, PRNGKey, Scalar
from irob.attacks.pgd import constant_steps
from irob.attacks.unforeseen import elastic, fog, gabor, jpeg, snow
from irob.attacks.unforeseen.variation import Variation

__all__ = ["UNFORESEEN", "Unforeseen", "Variation", "by_size", "frank_wolfe", "slow"]


class Unforeseen(NamedTuple):
    """vary: `(key, x, eps) -> Variation`. step_sizes: `(eps, steps) -> [steps]`, those of its authors."""

    vary: Callable[[PRNGKey, Image, Scalar], Variation]
    step_sizes: Callable[[Scalar, int], Array]


def slow(eps: Scalar, steps: int) -> Array:
    """0.002236 for every size: of variables in [0, 1], which 200 such steps half cross (Kang et al. 2019, calibration files)."""
    return constant_steps(0.002236, steps)


def by_size(eps: Scalar, steps: int) -> Array:
    """`eps / sqrt(steps)` (Kang et al. 2019, sec. 4)."""
    return constant_steps(eps / np.sqrt(steps), steps)


def frank_wolfe(eps: Scalar, steps: int) -> Array:
    """`1 / (k + 1)`, k = 0, 1, ...: the iterate is the mean of all corners so far."""
    return (1.0 / np.arange(1, steps + 1)).astype(np.float32)


UNFORESEEN: dict[str, Unforeseen] = {
    "jpeg_linf": Unforeseen(functools.partial(jpeg.vary, jpeg.LInf), by_size),
    "jpeg_l2": Unforeseen(functools.partial(jpeg.vary, jpeg.L2), by_size),
    "jpeg_l1": Unforeseen(functools.partial(jpeg.vary, jpeg.L1), frank_wolfe),
    "elastic": Unforeseen(elastic.vary, by_size),
    "fog": Unforeseen(fog.vary, slow),
    "gabor": Unforeseen(gabor.vary, slow),
    "snow": Unforeseen(snow.vary, slow),
}
