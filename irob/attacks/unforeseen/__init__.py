"""Unforeseen attacks, which were not part of the training: fog, Gabor noise, snow, JPEG artifacts, elastic deformation.

Kang et al. 2019, https://arxiv.org/abs/1908.08016; the sizes `eps` are theirs. Each attack renders an image from a variable, differentiably, and
`pgd` ascends in the variable:

    attack = UNFORESEEN["fog"]
    variation = attack.vary(key, x, eps)
    v = pgd(lambda v: loss(explain(variation.render(v)).logits), variation.ball, variation.start, step_sizes=attack.steps(eps, 200))
    x_adv = variation.render(v)

Everything random (flakes, kernels, starts) comes from the key, so the result of an image is a function of (key, image).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from irob.attacks.projected_gradient import StepRule, step_rule
from irob.attacks.unforeseen import elastic, fog, gabor, jpeg, snow
from irob.attacks.unforeseen.variation import Variation
from irob.types import Array, Image, PRNGKey, Scalar

__all__ = ["UNFORESEEN", "UnforeseenAttack", "Variation"]


class UnforeseenAttack(NamedTuple):
    """vary: `(key, x, eps) -> Variation`. step_sizes: of its authors, a key of `STEP_SIZES` or a rule. eps: default sizes, for an attack
    without calibrated ones.
    """

    vary: Callable[[PRNGKey, Image, Scalar], Variation]
    step_sizes: str | StepRule
    eps: tuple[float, ...] = ()

    def steps(self, eps: Scalar, num_steps: int) -> Array:
        """`[num_steps]`, the sizes of its steps."""
        return step_rule(self.step_sizes)(eps, num_steps)


# Kang et al. 2019: steps of eps / sqrt(steps) in sec. 4; 0.002236 for every size in their calibration files, for variables in [0, 1].
UNFORESEEN: dict[str, UnforeseenAttack] = {
    "jpeg_linf": UnforeseenAttack(functools.partial(jpeg.vary, jpeg.LInfJPEG), "eps/sqrt(steps)"),
    "jpeg_l2": UnforeseenAttack(functools.partial(jpeg.vary, jpeg.L2JPEG), "eps/sqrt(steps)"),
    "jpeg_l1": UnforeseenAttack(functools.partial(jpeg.vary, jpeg.L1JPEG), "1/(k+1)"),
    "elastic": UnforeseenAttack(elastic.vary, "eps/sqrt(steps)"),
    "fog": UnforeseenAttack(fog.vary, "constant 0.002236"),
    "gabor": UnforeseenAttack(gabor.vary, "constant 0.002236"),
    "snow": UnforeseenAttack(snow.vary, "constant 0.002236"),
}
