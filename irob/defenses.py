"""Training methods as data: what the attack ascends, and what training descends.

`DEFENSES[name](...)` gives a `Defense(inner, outer)`. Every method here is made of terms, scalar functions of the explanations of x and of x' and
of the label (t = label, f = logits, M = raw class activation maps, CE = cross-entropy, lambda = weight):

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

Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748), in the form that the authors trained: raw sums over positions, no factor 1/2,
gradient through the softmax weights, lambda = 0.01. On the paper's scale (complete maps, halved terms) that weight is 0.02 h w.
"""

from collections.abc import Callable
from typing import NamedTuple

from irob.arrays import Explain, Explanation, Image, Label, Objective, Scalar
from irob.discrepancy import discrepancy, one_class, soft_two_class
from irob.losses import cross_entropy, kl_divergence

Term = Callable[[Explanation, Explanation, Label], Scalar]


class Defense(NamedTuple):
    """A training method.

    inner: `inner(explain, x, label)` returns the objective `x_adv -> scalar` that the attack ascends; what depends on x alone is computed there,
      once, outside of the loop. None: no attack, x_adv = x.
    outer: `outer(explain, x, x_adv, label)`, the loss that training descends, differentiable in whatever `explain` closes over.
    """

    inner: Callable[[Explain, Image, Label], Objective] | None
    outer: Callable[[Explain, Image, Image, Label], Scalar]


def from_terms(ascend: Term | None, descend: Term) -> Defense:
    """A defense from two functions of (explanation of x, explanation of x', label)."""

    def inner(explain: Explain, x: Image, label: Label) -> Objective:
        assert ascend is not None
        clean = explain(x)
        return lambda x_adv: ascend(clean, explain(x_adv), label)

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        return descend(explain(x), explain(x_adv), label)

    return Defense(None if ascend is None else inner, outer)


def clean_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """CE(x)."""
    return cross_entropy(clean.logits, label)


def adversarial_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """CE(x')."""
    return cross_entropy(adversarial.logits, label)


def prediction_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """KL(p(x) || p(x')) (TRADES)."""
    return kl_divergence(clean.logits, adversarial.logits)


def interpretation_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """R, the l1 discrepancy of the raw maps under `soft_two_class` weights of the adversarial logits."""
    return discrepancy(clean.maps, adversarial.maps, soft_two_class(adversarial.logits, label))


def one_class_interpretation_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """R_1, the l1 discrepancy of the raw maps of the true class."""
    return discrepancy(clean.maps, adversarial.maps, one_class(label, clean.logits.shape[-1]))


def scaled(weight: float, term: Term) -> Term:
    """`weight * term`."""
    return lambda clean, adversarial, label: weight * term(clean, adversarial, label)


def total(*terms: Term) -> Term:
    """The sum of terms."""
    return lambda clean, adversarial, label: sum((term(clean, adversarial, label) for term in terms), start=0.0)


def normal() -> Defense:
    """Cross-entropy on clean images."""
    return from_terms(None, clean_loss)


def adv() -> Defense:
    """Adversarial training (Madry et al. 2018, https://arxiv.org/abs/1706.06083)."""
    return from_terms(adversarial_loss, adversarial_loss)


def trades(beta: float = 1.0) -> Defense:
    """TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573, eq. 5). beta = 1 is the interpretability paper's; TRADES' own is 6."""
    change = scaled(beta, prediction_change)
    return from_terms(change, total(clean_loss, change))


def int_(weight: float = 0.01) -> Defense:
    """Robust interpretation, and that alone."""
    change = scaled(weight, interpretation_change)
    return from_terms(change, total(clean_loss, change))


def int_one_class(weight: float = 0.01) -> Defense:
    """Robust interpretation of the true class, which bounds nothing."""
    change = scaled(weight, one_class_interpretation_change)
    return from_terms(change, total(clean_loss, change))


def int_adv(weight: float = 0.01) -> Defense:
    """Robust interpretation and adversarial training, one attack on their sum."""
    both = total(adversarial_loss, scaled(weight, interpretation_change))
    return from_terms(both, both)


def int2(weight: float = 0.01) -> Defense:
    """Robust interpretation against an attack on the prediction."""
    return from_terms(adversarial_loss, total(clean_loss, scaled(weight, interpretation_change)))


def int2_adv(weight: float = 0.01) -> Defense:
    """Robust interpretation and adversarial training against an attack on the prediction."""
    return from_terms(adversarial_loss, total(adversarial_loss, scaled(weight, interpretation_change)))


DEFENSES: dict[str, Callable[..., Defense]] = {
    "normal": normal,
    "adv": adv,
    "trades": trades,
    "int": int_,
    "int_one_class": int_one_class,
    "int_adv": int_adv,
    "int2": int2,
    "int2_adv": int2_adv,
}
