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

and of terms with gradients on the path from x to x', z_k = x + k/n (x' - x), k = 1..n:

    G   = || (x' - x) * mean_k d CE(z_k) / d z ||_1                    the integrated gradients of the loss
    R_G = ||a_t||_1 + sum_{i != t} w_i ||a_i||_1,    a_c = (x' - x) * mean_k d f_c(z_k) / d z

    ig_norm        lambda G              CE(x) + lambda G
    ig_sum_norm    CE(x') + lambda G     CE(x') + lambda G
    int_ig         lambda R_G            CE(x) + lambda R_G
    int_ig_adv     CE(x') + lambda R_G   CE(x') + lambda R_G
    gradient_norm  (no attack)           CE(x) + lambda ||d CE(x) / dx||_2^2
    saliency_norm  (no attack)           CE(x) + lambda ||d f_t(x) / dx||_2^2

Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748), in the form that the authors trained: raw sums over positions, no factor 1/2, gradient
through the softmax weights, lambda = 0.01. On the paper's scale (maps on the logit scale, halved terms) that weight is 0.02 h w.
G is that of Chen et al. 2019 (https://arxiv.org/abs/1905.09957), per image and with lambda = 1. The code of Boopathy et al. differentiates the mean
loss of a batch of N, so their networks have lambda = 1 / N; and what they call Int-IG is not class-wise there, but on images of one channel ig_norm
(ig_sum_norm) with lambda = 0.02 / N.

The parameters of a row are the options of its method; keyword-only ones change how it is computed, not the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.discrepancies import discrepancy, l1_norm, one_class, soft_two_class
from irob.losses import cross_entropy, is_class, kl_divergence, pick
from irob.types import Array, Explain, Explanation, Image, Label, Objective, Scalar

Term = Callable[[Explanation, Explanation, Label], Scalar]
PathTerm = Callable[[Explain, Image, Image, Label], Scalar]


class Defense(NamedTuple):
    """A training method.

    inner: `inner(explain, x, label)` returns the objective `x_adv -> scalar` that the attack ascends; what depends on x alone is computed there,
      once, outside of the loop. None: no attack, x_adv = x.
    outer: `outer(explain, x, x_adv, label)`, the loss that training descends, differentiable in everything that `explain` closes over.
    compares_maps: whether it compares the maps of x and x', so that it can compare other maps than CAM.
    gradients: how many times the activations of x and x' are stored at once for the backward pass: 1 without input gradients, else the number of
      gradients at a time.
    per_class: whether it is that number for each class.
    """

    inner: Callable[[Explain, Image, Label], Objective] | None
    outer: Callable[[Explain, Image, Image, Label], Scalar]
    compares_maps: bool = False
    gradients: int = 1
    per_class: bool = False


# --- methods made of terms ------------------------------------------------------------------------------------------------------------------


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


def int2_adv(weight: float = 0.01) -> Defense:
    """Int2-Adv: robust interpretation and adversarial training under an attack on the prediction."""
    return from_terms(adversarial_loss, total(adversarial_loss, scaled(weight, interpretation_change)), compares_maps=True)


def mart(beta: float = 5.0) -> Defense:
    """MART (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS, eq. 11; beta, their lambda, as in their code)."""
    return from_terms(adversarial_loss, total(adversarial_loss, runner_up_loss, scaled(beta, misclassification_aware_change)))


def alp(weight: float = 0.5) -> Defense:
    """Adversarial logit pairing (Kannan et al. 2018, https://arxiv.org/abs/1803.06373, sec. 4, on a mixture of clean and attacked images)."""
    return from_terms(adversarial_loss, total(scaled(0.5, clean_loss), scaled(0.5, adversarial_loss), scaled(weight, logit_pairing)))


# --- methods with gradients on a path -------------------------------------------------------------------------------------------------------


def path_attributions(function: Callable[[Image], Any], x: Image, x_adv: Image, points: int, chunk: int = 1) -> Array:
    """`(x' - x) * mean_k d function(z_k) / d z` with `z_k = x + k/n (x' - x)`, k = 1..n: `[..., H, W, c]` for a function to `[...]`.

    chunk: points computed at a time; it need not divide `points`. If there are more, their gradients are recomputed when they are differentiated:
      memory does not grow with the number of points.

    Raises:
      ValueError: without a point, or with an empty chunk.
    """
    if points < 1 or chunk < 1:
        raise ValueError(f"points and chunk must be positive, got points {points} and chunk {chunk}")
    groups = -(-points // chunk)
    k = jnp.arange(1, groups * -(-points // groups) + 1, dtype=x.dtype).reshape(groups, -1)

    def summed(k: Array) -> Array:
        gradients = jax.vmap(lambda k: jax.jacrev(function)(x + k / points * (x_adv - x)))(jnp.minimum(k, points))
        return jnp.tensordot(k <= points, gradients, axes=1)

    if groups == 1:
        total = summed(k[0])
    else:
        nothing = jnp.zeros(jax.eval_shape(summed, k[0]).shape, x.dtype)
        total, _ = jax.lax.scan(lambda total, k: (total + jax.checkpoint(summed)(k), None), nothing, k)
    return (x_adv - x) * total / points


def loss_attribution(points: int, chunk: int) -> PathTerm:
    """G, with n = points."""

    def term(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        return jnp.sum(l1_norm(path_attributions(lambda z: cross_entropy(explain(z).logits, label), x, x_adv, points, chunk)))

    return term


def class_attribution_change(points: int, chunk: int) -> PathTerm:
    """R_G, with n = points. It takes a gradient for each class."""

    def term(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        by_class = jax.vmap(l1_norm)(path_attributions(lambda z: explain(z).logits, x, x_adv, points, chunk))
        return jnp.sum(soft_two_class(explain(x_adv).logits, label) * jnp.sum(by_class, axis=-1))

    return term


def at_both_ends(term: Term) -> PathTerm:
    """A term of two explanations as one of the explainer and the two images."""
    return lambda explain, x, x_adv, label: term(explain(x), explain(x_adv), label)


def from_path_terms(ascend: PathTerm, descend: PathTerm, gradients: int = 1, per_class: bool = False) -> Defense:
    """A defense from two terms `(explain, x, x', label) -> scalar`, which may differentiate the network. gradients, per_class: of `Defense`."""
    inner = lambda explain, x, label: lambda x_adv: ascend(explain, x, x_adv, label)  # noqa: E731
    return Defense(inner, descend, gradients=gradients, per_class=per_class)


def ig_norm(weight: float = 1.0, points: int = 5, *, chunk: int = 1) -> Defense:
    """IG-NORM (Chen et al. 2019, https://arxiv.org/abs/1905.09957, with the 5 points of the interpretability paper). chunk: points at a time."""
    change = scaled(weight, loss_attribution(points, chunk))
    return from_path_terms(change, total(at_both_ends(clean_loss), change), min(points, chunk))


def ig_sum_norm(weight: float = 1.0, points: int = 5, *, chunk: int = 1) -> Defense:
    """IG-SUM-NORM (Chen et al. 2019, https://arxiv.org/abs/1905.09957)."""
    both = total(at_both_ends(adversarial_loss), scaled(weight, loss_attribution(points, chunk)))
    return from_path_terms(both, both, min(points, chunk))


def int_ig(weight: float = 0.01, points: int = 5, *, chunk: int = 1) -> Defense:
    """Int on integrated gradients, class by class, as the interpretability paper defines it."""
    change = scaled(weight, class_attribution_change(points, chunk))
    return from_path_terms(change, total(at_both_ends(clean_loss), change), min(points, chunk), per_class=True)


def int_ig_adv(weight: float = 0.01, points: int = 5, *, chunk: int = 1) -> Defense:
    """Int-Adv on integrated gradients, with one attack on the sum."""
    both = total(at_both_ends(adversarial_loss), scaled(weight, class_attribution_change(points, chunk)))
    return from_path_terms(both, both, min(points, chunk), per_class=True)


def gradient_norm(weight: float = 1.0) -> Defense:
    """Input-gradient regularization (Ross & Doshi-Velez 2018, https://arxiv.org/abs/1711.09404)."""

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        loss, gradient = jax.value_and_grad(lambda z: cross_entropy(explain(z).logits, label))(x)
        return loss + weight * jnp.sum(gradient**2)

    return Defense(None, outer)


def saliency_norm(weight: float = 1.0) -> Defense:
    """A small saliency map of the true class: the magnitude term of interpretation regularization (Noack et al. 2019,
    https://arxiv.org/abs/1912.03430, who also align the map with a given one).
    """

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        logits, back = jax.vjp(lambda z: explain(z).logits, x)
        (gradient,) = back(is_class(label, len(logits)).astype(logits.dtype))
        return cross_entropy(logits, label) + weight * jnp.sum(gradient**2)

    return Defense(None, outer)


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
    "ig_norm": ig_norm,
    "ig_sum_norm": ig_sum_norm,
    "int_ig": int_ig,
    "int_ig_adv": int_ig_adv,
    "gradient_norm": gradient_norm,
    "saliency_norm": saliency_norm,
}
