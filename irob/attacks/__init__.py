"""Attacks: ascent of an objective `x_adv -> scalar` inside a ball around the image. No attack knows a model.

balls               LInf, L2, L1: projection, steepest ascent, random points
attack              what an attack is, and what it returns
projected_gradient  pgd and its variants; step sizes
auto_pgd            APGD, which sets its own steps
boundary            FAB and DeepFool, which look for the nearest success; carlini_wagner, likewise
square              random search, by scores alone; hop_skip_jump, by decisions alone
table               ATTACKS, all of these by name
objectives          what attacks ascend, made of logits; expectation over transformations, straight-through gradients, transfer
ensembles           AutoAttack: which attacks in which order
minimal             the smallest radius at which an attack succeeds
sneaking            changes the prediction and hides from a discrepancy of the maps
on_maps             MAP_ATTACKS: change the map, or hide in it, while the prediction stays or changes
inversion           images that drive one unit of the representation
unforeseen          attacks that were not part of the training: JPEG, elastic, fog, Gabor noise, snow
"""

from irob.attacks.attack import Attack, AttackResult, GradientCounts
from irob.attacks.auto_pgd import APGD, SparseAPGD
from irob.attacks.balls import BALLS, L1, L2, Ball, LInf, NormBall
from irob.attacks.boundary import FAB, DeepFool, to_hyperplane
from irob.attacks.carlini_wagner import CarliniWagner
from irob.attacks.ensembles import Stage, stages_of
from irob.attacks.hop_skip_jump import HopSkipJump
from irob.attacks.inversion import invert, mean_activation
from irob.attacks.minimal import Bisection, MinimalPerturbation, bisect, smallest_eps
from irob.attacks.objectives import OBJECTIVES, expectation, nearest_boundary, straight_through, targeted, transferred, untargeted
from irob.attacks.on_maps import MAP_ATTACKS, Given, MapAttack, copying, keeps, leaves, map_attack, reaches, top_k_map_attack
from irob.attacks.projected_gradient import (
    PGD,
    STEP_SIZES,
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
from irob.attacks.square import Square
from irob.attacks.table import ATTACKS
from irob.attacks.unforeseen import UNFORESEEN, UnforeseenAttack, Variation

__all__ = [
    "APGD",
    "ATTACKS",
    "BALLS",
    "FAB",
    "L1",
    "L2",
    "MAP_ATTACKS",
    "OBJECTIVES",
    "PGD",
    "STEP_SIZES",
    "UNFORESEEN",
    "Attack",
    "AttackResult",
    "Ball",
    "Bisection",
    "CarliniWagner",
    "DeepFool",
    "Given",
    "GradientCounts",
    "HopSkipJump",
    "LInf",
    "MapAttack",
    "MinimalPerturbation",
    "NormBall",
    "SneakingResult",
    "SparseAPGD",
    "Square",
    "Stage",
    "UnforeseenAttack",
    "Variation",
    "best_of_pgd",
    "bisect",
    "compiled_pgd",
    "constant_steps",
    "copying",
    "decaying_steps",
    "expectation",
    "invert",
    "keeps",
    "last_of_pgd",
    "leaves",
    "map_attack",
    "mean_activation",
    "nearest_boundary",
    "pgd",
    "pgd_step",
    "reaches",
    "smallest_discrepancy",
    "smallest_eps",
    "sneaking_attack",
    "stages_of",
    "step_rule",
    "straight_through",
    "targeted",
    "to_hyperplane",
    "top_k_map_attack",
    "transferred",
    "untargeted",
]
