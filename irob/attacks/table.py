"""`ATTACKS`, attacks by name."""

from __future__ import annotations

from irob.attacks.attack import Attack
from irob.attacks.auto_pgd import APGD
from irob.attacks.boundary import FAB, DeepFool
from irob.attacks.carlini_wagner import CarliniWagner
from irob.attacks.hop_skip_jump import HopSkipJump
from irob.attacks.projected_gradient import PGD
from irob.attacks.square import Square

ATTACKS: dict[str, Attack] = {
    "pgd": PGD(),
    "fgsm": PGD(step_sizes="eps", random_start=False),
    "mi_fgsm": PGD(step_sizes="eps/steps", random_start=False, best_iterate=False, momentum=1.0),
    "apgd": APGD(),
    "fab": FAB(),
    "deepfool": DeepFool(),
    "carlini_wagner": CarliniWagner(),
    "square": Square(),
    "hop_skip_jump": HopSkipJump(),
}
