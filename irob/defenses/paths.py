"""Methods with gradients of the network: on the path from x to x', or at x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from irob.defenses.terms import Defense, Term, adversarial_loss, clean_loss, scaled, total
from irob.discrepancies import l1_norm, soft_two_class
from irob.losses import cross_entropy, is_class
from irob.types import Array, Explain, Image, Label, Scalar

PathTerm = Callable[[Explain, Image, Image, Label], Scalar]


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
