"""What a defense is, and the methods made of terms: scalar functions of the explanations of x and of x' and of the label."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from irob.discrepancies import discrepancy, one_class, soft_two_class
from irob.losses import cross_entropy, is_class, kl_divergence, pick
from irob.types import Explain, Explanation, Image, Label, Objective, Scalar

Term = Callable[[Explanation, Explanation, Label], Scalar]


class Defense(NamedTuple):
    """A training method.

    inner: `inner(explain, x, label)` returns the objective `x_adv -> scalar` that the attack ascends; what depends on x alone is computed there,
      once, outside of the loop. None: no attack, x_adv = x.
    outer: `outer(explain, x, x_adv, label)`, the loss that training descends, differentiable in everything that `explain` closes over.
    compares_maps: whether it compares the maps of x and x', so that it can compare other maps than CAM.
    gradients: how many times the activations of x and x' are stored at once for the backward pass: 1 without input gradients, else the number of
      gradients at a time.
    per_class: whether it is that number for each class.
    norms: of the attack, that it is defined for; () for all.
    maps: names of maps that it is defined for; () for all.
    """

    inner: Callable[[Explain, Image, Label], Objective] | None
    outer: Callable[[Explain, Image, Image, Label], Scalar]
    compares_maps: bool = False
    gradients: int = 1
    per_class: bool = False
    norms: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()


def from_terms(ascend: Term | None, descend: Term, compares_maps: bool = False) -> Defense:
    """A defense from two terms, functions `(explanation of x, explanation of x', label) -> scalar`.

    Args:
      ascend: what the attack ascends; None for no attack.
      descend: what training descends. It should depend on both images, because both are explained.
      compares_maps: whether a term compares the maps of the two.

    Returns:
      A row for `DEFENSES`.

    >>> change = scaled(0.02, interpretation_change)
    >>> mine = from_terms(ascend=change, descend=total(clean_loss, change), compares_maps=True)
    >>> explain = lambda x: Explanation(x, jnp.mean(x, axis=(0, 1)))
    >>> round(float(mine.outer(explain, jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2)), 0)), 4)
    0.7331
    """

    def inner(explain: Explain, x: Image, label: Label) -> Objective:
        assert ascend is not None
        clean = explain(x)
        return lambda x_adv: ascend(clean, explain(x_adv), label)

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        # Both at once: the gradients with respect to parameters become fewer and larger matrix products.
        both = jax.vmap(explain)(jnp.stack([x, x_adv]))
        clean, adversarial = (jax.tree.map(lambda leaf: leaf[i], both) for i in range(2))  # noqa: B023
        return descend(clean, adversarial, label)

    return Defense(None if ascend is None else inner, outer, compares_maps)


def clean_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """CE(x), the loss on the clean image."""
    return cross_entropy(clean.logits, label)


def adversarial_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """CE(x'), the loss on the attacked image."""
    return cross_entropy(adversarial.logits, label)


def prediction_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """KL(p(x) || p(x')), the change of the prediction (TRADES)."""
    return kl_divergence(clean.logits, adversarial.logits)


def interpretation_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """R, the l1 discrepancy of the raw maps under `soft_two_class` weights of the adversarial logits."""
    return discrepancy(clean.maps, adversarial.maps, soft_two_class(adversarial.logits, label))


def one_class_interpretation_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """R_1, the l1 discrepancy of the raw maps of the true class."""
    return discrepancy(clean.maps, adversarial.maps, one_class(label, clean.logits.shape[-1]))


def logit_pairing(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """`||f(x) - f(x')||_2^2`."""
    return jnp.sum((clean.logits - adversarial.logits) ** 2)


def runner_up_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """`U = -log(1 - p_j(x')) = softplus(f_j - logsumexp_{i != j} f_i)`, j the most probable class other than t."""
    others = jnp.where(is_class(label, adversarial.logits.shape[-1]), -jnp.inf, adversarial.logits)
    j = jax.lax.stop_gradient(jnp.argmax(others))
    rest = jnp.where(is_class(j, others.shape[-1]), -jnp.inf, adversarial.logits)
    return jax.nn.softplus(pick(adversarial.logits, j) - jax.nn.logsumexp(rest))


def misclassification_aware_change(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """`(1 - p_t(x)) KL(p(x) || p(x'))`. As KL's, its gradient underflows beyond a logit gap of 87."""
    wrong = -jnp.expm1(-cross_entropy(clean.logits, label))  # 1 - p_t, without the difference of two numbers that are nearly 1
    return wrong * kl_divergence(clean.logits, adversarial.logits)


def interpretation_margin_loss(clean: Explanation, adversarial: Explanation, label: Label) -> Scalar:
    """The cross-entropy of the logit gaps that the change of the maps leaves, L:

        A_c = mean_u [ (M_t(x) - M_t(x'))_+ + (M_c(x') - M_c(x))_+ ](u)
        L = log(1 + sum_{c != t} exp(A_c - (f_t(x) - f_c(x))))

    A_c is the part of the two-class l1 discrepancy that speaks against the label: what the map of t loses and the map of c gains. For maps whose
    means are the logits, the gap f_t - f_c falls by at most A_c, as in Proposition 1 (whose discrepancy is at least A_c / 2), so `L >= CE(x')`;
    L = CE(x) where the maps are the same.
    """
    lost, gained = (jnp.mean(jax.nn.relu(sign * (adversarial.maps - clean.maps)), axis=(0, 1)) for sign in (-1.0, 1.0))
    gaps = pick(clean.logits, label) - clean.logits
    against = jnp.where(is_class(label, len(gaps)), 0.0, pick(lost, label) + gained - gaps)
    return jax.nn.logsumexp(against)


def scaled(weight: float, term: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """`weight * term`, as a term."""
    return lambda *arguments: weight * term(*arguments)


def total(*terms: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """The sum of some terms, as a term."""
    return lambda *arguments: sum((term(*arguments) for term in terms), start=0.0)


def normal() -> Defense:
    """Training on clean images alone."""
    return Defense(None, lambda explain, x, x_adv, label: cross_entropy(explain(x).logits, label))


def adv() -> Defense:
    """Adversarial training (Madry et al. 2018, https://arxiv.org/abs/1706.06083)."""
    defense = from_terms(adversarial_loss, adversarial_loss)
    return defense._replace(outer=lambda explain, x, x_adv, label: cross_entropy(explain(x_adv).logits, label))


def trades(beta: float = 1.0) -> Defense:
    """TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573, eq. 5). beta = 1 is the interpretability paper's; TRADES' own is 6."""
    change = scaled(beta, prediction_change)
    return from_terms(change, total(clean_loss, change))


def int_(weight: float = 0.01) -> Defense:
    """Int: robust interpretation, without an adversarial loss."""
    change = scaled(weight, interpretation_change)
    return from_terms(change, total(clean_loss, change), compares_maps=True)


def int_one_class(weight: float = 0.01) -> Defense:
    """Int with the one-class discrepancy, without a bound like Proposition 1."""
    change = scaled(weight, one_class_interpretation_change)
    return from_terms(change, total(clean_loss, change), compares_maps=True)


def int_adv(weight: float = 0.01) -> Defense:
    """Int-Adv: robust interpretation and adversarial training, with one attack on their sum."""
    both = total(adversarial_loss, scaled(weight, interpretation_change))
    return from_terms(both, both, compares_maps=True)


def int2(weight: float = 0.01) -> Defense:
    """Int2: robust interpretation under an attack on the prediction."""
    return from_terms(adversarial_loss, total(clean_loss, scaled(weight, interpretation_change)), compares_maps=True)


def int_margin() -> Defense:
    """Interpretation within the margin: the attack changes the prediction, training descends a bound of its success by the change of maps.

    Defined for class activation maps, whose means are the logits.
    """
    return from_terms(adversarial_loss, interpretation_margin_loss, compares_maps=True)._replace(maps=("cam",))


def int2_adv(weight: float = 0.01) -> Defense:
    """Int2-Adv: robust interpretation and adversarial training under an attack on the prediction."""
    return from_terms(adversarial_loss, total(adversarial_loss, scaled(weight, interpretation_change)), compares_maps=True)


def mart(beta: float = 5.0) -> Defense:
    """MART (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS, eq. 11; beta, their lambda, as in their code)."""
    return from_terms(adversarial_loss, total(adversarial_loss, runner_up_loss, scaled(beta, misclassification_aware_change)))


def alp(weight: float = 0.5) -> Defense:
    """Adversarial logit pairing (Kannan et al. 2018, https://arxiv.org/abs/1803.06373, sec. 4, on a mixture of clean and attacked images)."""
    return from_terms(adversarial_loss, total(scaled(0.5, clean_loss), scaled(0.5, adversarial_loss), scaled(weight, logit_pairing)))
