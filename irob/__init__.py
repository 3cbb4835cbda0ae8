"""Interpretability-aware robustness in JAX: pure functions of one example, lifted to batches with `jax.vmap`.

    networks       create, SmallCNN, PoolCNN, WResNet, CAMNetwork of Conv and MaxPool: x -> class activation maps and logits
    maps           cam, complete
    losses         cross_entropy, kl_divergence, margin, dlr
    discrepancy    discrepancy; class weights one_class, two_class, all_class, top_k_classes, soft_two_class; top_k_pixels;
                   proposition_1_gap; kendall_tau
    attacks        pgd, best_of_pgd, constant_steps, decaying_steps; balls LInf, L2, L1
    defenses       DEFENSES: name -> Defense(inner objective, outer loss); from_terms makes new ones of clean_loss, adversarial_loss,
                   prediction_change, interpretation_change, one_class_interpretation_change, scaled, total
    metrics        robust_accuracy, wilson_interval, worst_case, mean_with_error

Images are `[H, W, c]` in [0, 1], labels integers, maps `[h, w, C]`. Losses and objectives: larger = worse for the classifier.
"""

from irob.arrays import Explain, Explanation, Objective
from irob.attacks.balls import BALLS, L1, L2, Ball, LInf
from irob.attacks.pgd import AttackResult, best_of_pgd, constant_steps, decaying_steps, pgd
from irob.defenses import (
    DEFENSES,
    Defense,
    adversarial_loss,
    clean_loss,
    from_terms,
    interpretation_change,
    one_class_interpretation_change,
    prediction_change,
    scaled,
    total,
)
from irob.discrepancy import (
    NORMS,
    Bound,
    all_class,
    discrepancy,
    kendall_tau,
    one_class,
    proposition_1_gap,
    soft_two_class,
    top_k_classes,
    top_k_pixels,
    two_class,
)
from irob.losses import cross_entropy, dlr, kl_divergence, margin
from irob.maps import cam, complete
from irob.metrics import Proportion, mean_with_error, robust_accuracy, wilson_interval, worst_case
from irob.networks import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create

__version__ = "0.1.0"
__all__ = [
    "BALLS",
    "DEFENSES",
    "L1",
    "L2",
    "NETWORKS",
    "NORMS",
    "AttackResult",
    "Ball",
    "Bound",
    "CAMNetwork",
    "Conv",
    "Defense",
    "Explain",
    "Explanation",
    "LInf",
    "MaxPool",
    "Objective",
    "PoolCNN",
    "Proportion",
    "SmallCNN",
    "WResNet",
    "adversarial_loss",
    "all_class",
    "best_of_pgd",
    "cam",
    "clean_loss",
    "complete",
    "constant_steps",
    "create",
    "cross_entropy",
    "decaying_steps",
    "discrepancy",
    "dlr",
    "from_terms",
    "interpretation_change",
    "kendall_tau",
    "kl_divergence",
    "margin",
    "mean_with_error",
    "one_class",
    "one_class_interpretation_change",
    "pgd",
    "prediction_change",
    "proposition_1_gap",
    "robust_accuracy",
    "scaled",
    "soft_two_class",
    "top_k_classes",
    "top_k_pixels",
    "total",
    "two_class",
    "wilson_interval",
    "worst_case",
]
