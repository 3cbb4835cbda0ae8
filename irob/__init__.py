"""Interpretability-aware robustness in JAX: pure functions of one example, lifted to batches with `jax.vmap`.

    networks       create, SmallCNN, PoolCNN, WResNet, CAMNetwork of Conv and MaxPool: x -> class activation maps and logits
    maps           cam, grad_cam, grad_cam_plus_plus, layer_cam, complete; READOUTS, the maps that are linear in the last feature map; on pixels
                   saliency, gradient_x_input, integrated_gradients, expected_gradients, smooth_grad; heatmap for display
    explainers     EXPLAINERS, every map by name; explainer(name, network, form) with form = plain(params) or for_attacks(params)
    losses         cross_entropy, kl_divergence, margin, dlr
    discrepancy    discrepancy; class weights one_class, two_class, all_class, top_k_classes, soft_two_class, normalised; top_k_pixels,
                   top_k_overlap; proposition_1_gap; kendall_tau, pearson
    attacks        pgd, best_of_pgd, last_of_pgd, constant_steps, decaying_steps; balls LInf, L2, L1; bisect, smallest_eps; on and behind the
                   interpretation isa (with smallest_discrepancy, largest_weight) and aai; attacks of other kinds in UNFORESEEN
    inversion      invert, activation: images that drive a unit of the representation
    defenses       DEFENSES: name -> Defense(inner objective, outer loss); from_terms makes new ones of clean_loss, adversarial_loss,
                   prediction_change, interpretation_change, one_class_interpretation_change, scaled, total
    metrics        robust_accuracy, wilson_interval, worst_case, mean_with_error
    authors        authors.loads, authors.dumps: the paper authors' released weights

Images are `[H, W, c]` in [0, 1], labels integers, maps `[h, w, C]`. Losses and objectives: larger = worse for the classifier.
"""

from irob import authors
from irob.arrays import Explain, Explanation, Objective
from irob.attacks.balls import BALLS, L1, L2, Ball, ClippedLInf, LInf
from irob.attacks.interpretability import Sneaked, aai, isa, largest_weight, smallest_discrepancy
from irob.attacks.minimal import Bisection, Minimal, bisect, smallest_eps
from irob.attacks.pgd import AttackResult, best_of_pgd, constant_steps, decaying_steps, last_of_pgd, pgd
from irob.attacks.unforeseen import UNFORESEEN, Unforeseen, Variation
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
    normalised,
    one_class,
    pearson,
    proposition_1_gap,
    soft_two_class,
    top_k_classes,
    top_k_overlap,
    top_k_pixels,
    two_class,
)
from irob.explainers import EXPLAINERS, explainer, for_attacks, plain
from irob.inversion import activation, invert
from irob.losses import cross_entropy, dlr, kl_divergence, margin
from irob.maps import (
    READOUTS,
    RULES,
    Integrated,
    cam,
    complete,
    expected_gradients,
    grad_cam,
    grad_cam_plus_plus,
    gradient_x_input,
    heatmap,
    integrated_gradients,
    layer_cam,
    saliency,
    smooth_grad,
)
from irob.metrics import Proportion, mean_with_error, robust_accuracy, wilson_interval, worst_case
from irob.networks import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create

__version__ = "0.5.0"
__all__ = [
    "BALLS",
    "DEFENSES",
    "EXPLAINERS",
    "L1",
    "L2",
    "NETWORKS",
    "NORMS",
    "READOUTS",
    "RULES",
    "UNFORESEEN",
    "AttackResult",
    "Ball",
    "Bisection",
    "Bound",
    "CAMNetwork",
    "ClippedLInf",
    "Conv",
    "Defense",
    "Explain",
    "Explanation",
    "Integrated",
    "LInf",
    "MaxPool",
    "Minimal",
    "Objective",
    "PoolCNN",
    "Proportion",
    "SmallCNN",
    "Sneaked",
    "Unforeseen",
    "Variation",
    "WResNet",
    "aai",
    "activation",
    "adversarial_loss",
    "all_class",
    "authors",
    "best_of_pgd",
    "bisect",
    "cam",
    "clean_loss",
    "complete",
    "constant_steps",
    "create",
    "cross_entropy",
    "decaying_steps",
    "discrepancy",
    "dlr",
    "expected_gradients",
    "explainer",
    "for_attacks",
    "from_terms",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_x_input",
    "heatmap",
    "integrated_gradients",
    "interpretation_change",
    "invert",
    "isa",
    "kendall_tau",
    "kl_divergence",
    "largest_weight",
    "last_of_pgd",
    "layer_cam",
    "margin",
    "mean_with_error",
    "normalised",
    "one_class",
    "one_class_interpretation_change",
    "pearson",
    "pgd",
    "plain",
    "prediction_change",
    "proposition_1_gap",
    "robust_accuracy",
    "saliency",
    "scaled",
    "smallest_discrepancy",
    "smallest_eps",
    "smooth_grad",
    "soft_two_class",
    "top_k_classes",
    "top_k_overlap",
    "top_k_pixels",
    "total",
    "two_class",
    "wilson_interval",
    "worst_case",
]
