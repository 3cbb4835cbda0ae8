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
    mart           CE(x')                CE(x') + U(x') + beta (1 - p_t(x)) KL,    U = -log(1 - max_{i != t} p_i)
    alp            CE(x')                (CE(x) + CE(x')) / 2 + lambda ||f(x) - f(x')||_2^2

and of terms that differentiate on the way from x to x', z_k = x + k/n (x' - x), k = 1..n:

    G   = || (x' - x) * mean_k d CE(z_k) / d z ||_1                    the integrated gradients of the loss
    R_G = ||a_t||_1 + sum_{i != t} w_i ||a_i||_1,    a_c = (x' - x) * mean_k d f_c(z_k) / d z

    ig_norm        lambda G              CE(x) + lambda G
    ig_sum_norm    CE(x') + lambda G     CE(x') + lambda G
    int_ig         lambda R_G            CE(x) + lambda R_G
    int_ig_adv     CE(x') + lambda R_G   CE(x') + lambda R_G
    gradient_norm  (no attack)           CE(x) + lambda ||d CE(x) / dx||_2^2
    saliency_norm  (no attack)           CE(x) + lambda ||d f_t(x) / dx||_2^2

Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748), in the form that the authors trained: raw sums over positions, no factor 1/2,
gradient through the softmax weights, lambda = 0.01. On the paper's scale (complete maps, halved terms) that weight is 0.02 h w.
G is that of Chen et al. 2019 (https://arxiv.org/abs/1905.09957), by image and with lambda = 1. The code of Boopathy et al. differentiates the mean
loss of a batch of N, so their networks have lambda = 1 / N; and what they call Int-IG is not class-wise there, but on grey images ig_norm
(ig_sum_norm) with lambda = 0.02 / N.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.arrays import Array, Explain, Explanation, Image, Label, Objective, Scalar
from irob.convolutions import on_cpu
from irob.discrepancy import discrepancy, l1_norm, one_class, soft_two_class
from irob.losses import cross_entropy, is_class, kl_divergence, pick

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
    """A defense from two functions of (explanation of x, explanation of x', label); what training descends should look at both images."""

    def inner(explain: Explain, x: Image, label: Label) -> Objective:
        assert ascend is not None
        clean = explain(x)
        return lambda x_adv: ascend(clean, explain(x_adv), label)

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        # Both at once: gradients in parameters take fewer and larger products.
        both = jax.vmap(explain)(jnp.stack([x, x_adv]))
        clean, adversarial = (jax.tree.map(lambda leaf: leaf[i], both) for i in range(2))  # noqa: B023
        return descend(clean, adversarial, label)

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
    """`(1 - p_t(x)) KL(p(x) || p(x'))`."""
    return (1.0 - pick(jax.nn.softmax(clean.logits), label)) * kl_divergence(clean.logits, adversarial.logits)


def scaled(weight: float, term: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """`weight * term`."""
    return lambda *arguments: weight * term(*arguments)


def total(*terms: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """The sum of terms."""
    return lambda *arguments: sum((term(*arguments) for term in terms), start=0.0)


def normal() -> Defense:
    """Cross-entropy on clean images."""
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


def mart(beta: float = 5.0) -> Defense:
    """MART (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS, eq. 11; beta, their lambda, as in their code)."""
    return from_terms(adversarial_loss, total(adversarial_loss, runner_up_loss, scaled(beta, misclassification_aware_change)))


def alp(weight: float = 0.5) -> Defense:
    """Adversarial logit pairing (Kannan et al. 2018, https://arxiv.org/abs/1803.06373, sec. 4, on a mixture of clean and attacked images)."""
    return from_terms(adversarial_loss, total(scaled(0.5, clean_loss), scaled(0.5, adversarial_loss), scaled(weight, logit_pairing)))


PathTerm = Callable[[Explain, Image, Image, Label], Scalar]


def points_at_once() -> int:
    """Points of a path that are computed together: five, but on CPU, where one at a time takes less time, one."""
    return 1 if on_cpu() else 5


def path_attributions(function: Callable[[Image], Any], x: Image, x_adv: Image, points: int) -> Array:
    """`(x' - x) * mean_k d function(z_k) / d z` with `z_k = x + k/n (x' - x)`, k = 1..n: `[..., H, W, c]` for a function to `[...]`.

    `points_at_once()`, and if there are more their gradients are computed again when differentiated: memory does not grow with the others.
    """
    groups = -(-points // points_at_once())
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


def loss_attribution(points: int) -> PathTerm:
    """G, with n = points."""

    def term(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        return jnp.sum(l1_norm(path_attributions(lambda z: cross_entropy(explain(z).logits, label), x, x_adv, points)))

    return term


def class_attribution_change(points: int) -> PathTerm:
    """R_G, with n = points. It takes a gradient for each class."""

    def term(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        by_class = jax.vmap(l1_norm)(path_attributions(lambda z: explain(z).logits, x, x_adv, points))
        return jnp.sum(soft_two_class(explain(x_adv).logits, label) * jnp.sum(by_class, axis=-1))

    return term


def at_both_ends(term: Term) -> PathTerm:
    """A term of two explanations as one of the explainer and the two images."""
    return lambda explain, x, x_adv, label: term(explain(x), explain(x_adv), label)


def from_path_terms(ascend: PathTerm, descend: PathTerm) -> Defense:
    """A defense from two functions of (explain, x, x', label)."""
    return Defense(lambda explain, x, label: lambda x_adv: ascend(explain, x, x_adv, label), descend)


def ig_norm(weight: float = 1.0, points: int = 5) -> Defense:
    """IG-NORM (Chen et al. 2019, https://arxiv.org/abs/1905.09957, with the 5 points of the interpretability paper)."""
    change = scaled(weight, loss_attribution(points))
    return from_path_terms(change, total(at_both_ends(clean_loss), change))


def ig_sum_norm(weight: float = 1.0, points: int = 5) -> Defense:
    """IG-SUM-NORM (Chen et al. 2019, https://arxiv.org/abs/1905.09957)."""
    both = total(at_both_ends(adversarial_loss), scaled(weight, loss_attribution(points)))
    return from_path_terms(both, both)


def int_ig(weight: float = 0.01, points: int = 5) -> Defense:
    """Robust interpretation by integrated gradients, class by class, as the interpretability paper means it."""
    change = scaled(weight, class_attribution_change(points))
    return from_path_terms(change, total(at_both_ends(clean_loss), change))


def int_ig_adv(weight: float = 0.01, points: int = 5) -> Defense:
    """The same and adversarial training, one attack on their sum."""
    both = total(at_both_ends(adversarial_loss), scaled(weight, class_attribution_change(points)))
    return from_path_terms(both, both)


def gradient_norm(weight: float = 1.0) -> Defense:
    """Input-gradient regularisation (Ross & Doshi-Velez 2018, https://arxiv.org/abs/1711.09404)."""

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        loss, gradient = jax.value_and_grad(lambda z: cross_entropy(explain(z).logits, label))(x)
        return loss + weight * jnp.sum(gradient**2)

    return Defense(None, outer)


def saliency_norm(weight: float = 1.0) -> Defense:
    """A small saliency map of the true class: the magnitude part of interpretation regularisation (Noack et al. 2019,
    https://arxiv.org/abs/1912.03430), which also turns the map towards a given one.
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
