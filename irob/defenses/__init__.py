"""Training methods as data: what the attack ascends, and what training descends.

`DEFENSES[name](...)` returns a `Defense(inner, outer)`. Each method is made of terms, scalar functions of the explanations of x and of x' and of the
label (t = label, f = logits, M = raw class activation maps, CE = cross-entropy, lambda = weight):

    R   = ||M_t(x') - M_t(x)||_1 + sum_{i != t} w_i ||M_i(x') - M_i(x)||_1,   w = softmax of f(x') over the classes other than t
    R_1 = ||M_t(x') - M_t(x)||_1

    name           the attack ascends    training descends
    normal         (no attack)           CE(x)
    adv            CE(x')                CE(x')
    trades         beta KL               CE(x) + beta KL,     KL = KL(p(x) || p(x'))
    int            lambda R              CE(x) + lambda R
    int_one_class  lambda R_1            CE(x) + lambda R_1
    int_adv        CE(x') + lambda R     CE(x') + lambda R
    int2           CE(x')                CE(x) + lambda R
    int2_adv       CE(x')                CE(x') + lambda R
    mart           CE(x')                CE(x') + U(x') + beta (1 - p_t(x)) KL,    U = -log(1 - max_{i != t} p_i)
    alp            CE(x')                (CE(x) + CE(x')) / 2 + lambda ||f(x) - f(x')||_2^2
    int_margin     CE(x')                L = log(1 + sum_{c != t} exp(A_c - (f_t(x) - f_c(x)))),
                                         A_c = mean_u [(M_t(x) - M_t(x'))_+ + (M_c(x') - M_c(x))_+]

and of terms with gradients on the path from x to x', z_k = x + k/n (x' - x), k = 1..n:

    G   = || (x' - x) * mean_k d CE(z_k) / d z ||_1                    the integrated gradients of the loss
    R_G = ||a_t||_1 + sum_{i != t} w_i ||a_i||_1,    a_c = (x' - x) * mean_k d f_c(z_k) / d z

    ig_norm        lambda G              CE(x) + lambda G
    ig_sum_norm    CE(x') + lambda G     CE(x') + lambda G
    int_ig         lambda R_G            CE(x) + lambda R_G
    int_ig_adv     CE(x') + lambda R_G   CE(x') + lambda R_G
    gradient_norm  (no attack)           CE(x) + lambda ||d CE(x) / dx||_2^2
    saliency_norm  (no attack)           CE(x) + lambda ||d f_t(x) / dx||_2^2

Attributions of gradients, as others published them (A = integrated gradients of f_t, g_c = d f_c / dx, j the largest other logit):

    far            lambda (1 - r)        CE(x) + lambda (1 - r),     r = Pearson of A(x) and A(x')
    far_adv        CE(x') + lambda (1 - r)    the same
    art            alignment loss        CE(x') + lambda L(x'),      L = log(1 + exp(cos(g_j, x') - cos(g_t, x')))
    cure           (no attack)           CE(x) + lambda || change of d CE / dx along its signs ||_2^2
    hessian_norm   (no attack)           CE(x) + lambda E || change of M_t along N(0, 1) ||_2^2
    ssr            (no attack)           CE(x) + lambda (largest eigenvalue of the Hessian of CE at x)

and of bounds over the whole ball (`irob.certify`), m_j below `f_t - f_j`:

    ibp            (the radius)          CE(x) / 2 + CE(-m) / 2,     m by intervals
    crown_ibp      (the radius)          CE(-m),                     m half by lines, half by intervals

Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748), in the form that the authors trained: raw sums over positions, no factor 1/2, gradient
through the softmax weights, lambda = 0.01. On the paper's scale (maps on the logit scale, halved terms) that weight is 0.02 h w.
L of `int_margin` is ours: an upper bound of CE(x'), as in Proposition 1, by the part of the two-class discrepancy that speaks against the label. It
is CE(x') itself where no map changes in both directions.

G is that of Chen et al. 2019 (https://arxiv.org/abs/1905.09957), per image and with lambda = 1. The code of Boopathy et al. differentiates the mean
loss of a batch of N, so their networks have lambda = 1 / N; and what they call Int-IG is not class-wise there, but on images of one channel ig_norm
(ig_sum_norm) with lambda = 0.02 / N.

The parameters of a row are the options of its method; keyword-only ones change how it is computed, not the result.
"""

from __future__ import annotations

from collections.abc import Callable

from irob.defenses.attributions import art, attribution_distance, cure, far, far_adv, hessian_norm, largest_curvature, misalignment, ssr
from irob.defenses.bounds import crown_ibp, from_margins, ibp, interval_margins, linear_margins, outward
from irob.defenses.paths import (
    PathTerm,
    at_both_ends,
    class_attribution_change,
    from_path_terms,
    gradient_norm,
    ig_norm,
    ig_sum_norm,
    int_ig,
    int_ig_adv,
    loss_attribution,
    path_attributions,
    saliency_norm,
)
from irob.defenses.terms import (
    Defense,
    Term,
    adv,
    adversarial_loss,
    alp,
    clean_loss,
    from_terms,
    int2,
    int2_adv,
    int_,
    int_adv,
    int_margin,
    int_one_class,
    interpretation_change,
    interpretation_margin_loss,
    logit_pairing,
    mart,
    misclassification_aware_change,
    normal,
    one_class_interpretation_change,
    prediction_change,
    runner_up_loss,
    scaled,
    total,
    trades,
)

DEFENSES: dict[str, Callable[..., Defense]] = {
    "normal": normal,
    "adv": adv,
    "trades": trades,
    "int": int_,
    "int_one_class": int_one_class,
    "int_adv": int_adv,
    "int2": int2,
    "int2_adv": int2_adv,
    "mart": mart,
    "alp": alp,
    "int_margin": int_margin,
    "ig_norm": ig_norm,
    "ig_sum_norm": ig_sum_norm,
    "int_ig": int_ig,
    "int_ig_adv": int_ig_adv,
    "gradient_norm": gradient_norm,
    "saliency_norm": saliency_norm,
    "far": far,
    "far_adv": far_adv,
    "art": art,
    "cure": cure,
    "hessian_norm": hessian_norm,
    "ssr": ssr,
    "ibp": ibp,
    "crown_ibp": crown_ibp,
}

__all__ = [
    "DEFENSES",
    "Defense",
    "PathTerm",
    "Term",
    "adv",
    "adversarial_loss",
    "alp",
    "art",
    "at_both_ends",
    "attribution_distance",
    "class_attribution_change",
    "clean_loss",
    "crown_ibp",
    "cure",
    "far",
    "far_adv",
    "from_margins",
    "from_path_terms",
    "from_terms",
    "gradient_norm",
    "hessian_norm",
    "ibp",
    "ig_norm",
    "ig_sum_norm",
    "int2",
    "int2_adv",
    "int_",
    "int_adv",
    "int_ig",
    "int_ig_adv",
    "int_margin",
    "int_one_class",
    "interpretation_change",
    "interpretation_margin_loss",
    "interval_margins",
    "largest_curvature",
    "linear_margins",
    "logit_pairing",
    "loss_attribution",
    "mart",
    "misalignment",
    "misclassification_aware_change",
    "normal",
    "one_class_interpretation_change",
    "outward",
    "path_attributions",
    "prediction_change",
    "runner_up_loss",
    "saliency_norm",
    "scaled",
    "ssr",
    "total",
    "trades",
]
