"""Attacks: ascent of an objective `x_adv -> scalar` inside a ball around the image. No attack knows a model.

balls               LInf, L2, L1: projection, steepest ascent, random points
projected_gradient  pgd and its variants; step sizes; ATTACKS, attacks by name
minimal             the smallest radius at which an attack succeeds
sneaking            changes the prediction and hides from a discrepancy of the maps
top_k_map           changes the map and keeps the prediction
inversion           images that drive one unit of the representation
unforeseen          attacks that were not part of the training: JPEG, elastic, fog, Gabor noise, snow
"""

from irob.attacks.balls import BALLS, L1, L2, Ball, LInf, NormBall
from irob.attacks.inversion import invert, mean_activation
from irob.attacks.minimal import Bisection, MinimalPerturbation, bisect, smallest_eps
from irob.attacks.projected_gradient import (
    ATTACKS,
    PGD,
    STEP_SIZES,
    Attack,
    AttackResult,
    GradientCounts,
    best_of_pgd,
    compiled_pgd,
    constant_steps,
    decaying_steps,
    last_of_pgd,
    pgd,
    pgd_step,
    step_rule,
)
from irob.attacks.sneaking import SneakingResult, smallest_discrepancy, sneaking_attack
from irob.attacks.top_k_map import top_k_map_attack
from irob.attacks.unforeseen import UNFORESEEN, UnforeseenAttack, Variation

__all__ = [
    "ATTACKS",
    "BALLS",
    "L1",
    "L2",
    "PGD",
    "STEP_SIZES",
    "UNFORESEEN",
    "Attack",
    "AttackResult",
    "Ball",
    "Bisection",
    "GradientCounts",
    "LInf",
    "MinimalPerturbation",
    "NormBall",
    "SneakingResult",
    "UnforeseenAttack",
    "Variation",
    "best_of_pgd",
    "bisect",
    "compiled_pgd",
    "constant_steps",
    "decaying_steps",
    "invert",
    "last_of_pgd",
    "mean_activation",
    "pgd",
    "pgd_step",
    "smallest_discrepancy",
    "smallest_eps",
    "sneaking_attack",
    "step_rule",
    "top_k_map_attack",
]
