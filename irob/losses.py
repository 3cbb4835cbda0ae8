"""Classification losses of one example. Larger = worse for the classifier: an attack ascends them, training descends them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.types import Array, Label, Logits, Scalar, checked_label, checked_logits


def is_class(label: Label, num_classes: int) -> Bool[Array, " C"]:
    """Mask `[C]`, True at `label`. (A mask, not a gather: the gradient of a gather is a scatter, which is slow inside loops on CPU.)

    Raises:
      ValueError: for a label that is no integer scalar, or, where its value is known, no class. Where it is traced, what is made of it is NaN.
    """
    return jnp.arange(num_classes) == checked_label(label, num_classes)


def pick(values: Float[Array, "*shape C"], label: Label) -> Float[Array, "*shape"]:
    """`values[..., label]`, with a fast gradient; NaN where the label is no class."""
    true = is_class(label, values.shape[-1])
    return jnp.where(jnp.any(true), jnp.sum(jnp.where(true, values, 0.0), axis=-1), jnp.nan)


def cross_entropy(logits: Logits, label: Label) -> Scalar:
    """Cross-entropy of the softmax, in nats:

        CE = -log softmax(f)_t = softplus( logsumexp_{i != t} f_i - f_t ) >= 0

    The second form keeps its gradient in float32 where softmax(f)_t rounds to 1, that is on confident networks, up to a logit gap of 87. Beyond that
    the gradient underflows to 0; `log_cross_entropy`, `margin_loss` and `dlr` keep theirs.

    Args:
      logits: f `[C]`, any real numbers.
      label: t, in 0 .. C - 1.

    Returns:
      A scalar; larger = worse for the classifier.

    >>> round(float(cross_entropy(jnp.array([0.0, 0.0, 0.0]), 1)), 4)
    1.0986
    """
    others = jnp.where(is_class(label, len(checked_logits(logits))), -jnp.inf, logits)
    return jax.nn.softplus(jax.nn.logsumexp(others) - pick(logits, label))


def log_cross_entropy(logits: Logits, label: Label) -> Scalar:
    """Logarithm of the cross-entropy,

        log CE = log softplus(g),    g = logsumexp_{i != t} f_i - f_t,    -> g where g -> -inf

    It has the maxima of the cross-entropy, and its gradient has the same direction: a step along the sign of the gradient, or of fixed length, is the
    same. But it does not underflow, however confident the network is.

    Args:
      logits: f `[C]`, C >= 2.
      label: t.

    Returns:
      A scalar; larger = worse for the classifier.

    >>> round(float(log_cross_entropy(jnp.array([1000.0, 0.0]), 0)), 4)
    -1000.0
    """
    others = jnp.where(is_class(label, len(checked_logits(logits))), -jnp.inf, logits)
    gap = jax.nn.logsumexp(others) - pick(logits, label)
    tiny = gap < -10.0  # log log(1 + e^g) = g - e^g / 2 + O(e^2g)
    return jnp.where(tiny, gap - 0.5 * jnp.exp(jnp.where(tiny, gap, -10.0)), jnp.log(jax.nn.softplus(jnp.where(tiny, 0.0, gap))))


def kl_divergence(logits_p: Logits, logits_q: Logits) -> Scalar:
    """Kullback-Leibler divergence of two softmax distributions, in nats:

        KL(p || q) = sum_i p_i (log p_i - log q_i),    p = softmax(logits_p),    q = softmax(logits_q)

    Args:
      logits_p: `[C]`; TRADES takes those of the clean image.
      logits_q: `[C]`; TRADES takes those of the attacked image.

    Returns:
      A scalar >= 0, up to rounding; 0 for equal distributions. Its gradient with respect to logits_q, q - p, keeps its digits where both are sure
      of one class, up to a logit gap of 87; beyond that it underflows to 0.

    References:
      Zhang et al. 2019, https://arxiv.org/abs/1901.08573, eq. 5.

    >>> float(kl_divergence(jnp.zeros(2), jnp.zeros(2)))
    0.0
    """
    if checked_logits(logits_p).shape != checked_logits(logits_q).shape:
        raise ValueError(f"both logits must have one shape, got {logits_p.shape} and {logits_q.shape}")
    # Logits relative to that of the class that q is sure of, whose own gradient, q - p, would be the difference of two numbers that round to 1.
    sure = is_class(jnp.argmax(logits_q), len(logits_q))
    relative = jnp.where(sure, 0.0, logits_q - jnp.sum(jnp.where(sure, logits_q, 0.0)))
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(relative)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def margin_loss(logits: Logits, label: Label) -> Scalar:
    """Logit margin `max_{i != t} f_i - f_t`.

    Args:
      logits: f `[C]`.
      label: t.

    Returns:
      A scalar: positive where t is not the prediction, negative where it is, 0 at a tie.

    >>> float(margin_loss(jnp.array([1.0, 3.0, 0.0]), 1))
    -2.0
    """
    others = jnp.where(is_class(label, len(checked_logits(logits))), -jnp.inf, logits)
    return jnp.max(others) - pick(logits, label)


def half_logit_gap(logits: Logits, label: Label, target: Label) -> Scalar:
    """Half of the lead of the label t over the target t', `(f_t - f_t') / 2`: the right side of Proposition 1.

    Args:
      logits: f `[C]`.
      label, target: t and t', in 0 .. C - 1.

    Returns:
      A scalar; unlike the losses, larger = better for the classifier.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, Proposition 1.

    >>> float(half_logit_gap(jnp.array([1.0, 3.0]), 1, 0))
    1.0
    """
    return 0.5 * (pick(checked_logits(logits), label) - pick(logits, target))


def dlr(logits: Logits, label: Label) -> Scalar:
    """Difference-of-logits ratio, which shifting and scaling the logits does not change:

        DLR = ( max_{i != t} f_i - f_t ) / ( f_(1) - f_(3) + 1e-12 ),    f_(k) the k-th largest logit

    Args:
      logits: f `[C]`, C >= 3.
      label: t.

    Returns:
      A scalar with the sign of `margin_loss`; in [-1, 1] while t ranks first or second.

    Raises:
      ValueError: with fewer than three classes, where it is undefined.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/2003.01690, eq. 6 (the constant is that of the authors' code).

    >>> round(float(dlr(jnp.array([3.0, 1.0, 0.0, -1.0]), 0)), 4)
    -0.6667
    """
    if len(checked_logits(logits)) < 3:
        raise ValueError(f"dlr needs at least 3 classes, got {logits.shape[-1]}: use margin_loss instead")
    descending = -jnp.sort(-logits)
    return margin_loss(logits, label) / (descending[0] - descending[2] + 1e-12)


def dlr_to(logits: Logits, label: Label, other: Label) -> Scalar:
    """Difference-of-logits ratio towards a class t',

        DLR_t' = ( f_t' - f_t ) / ( f_(1) - (f_(3) + f_(4)) / 2 + 1e-12 ),    f_(k) the k-th largest logit

    Args:
      logits: f `[C]`, C >= 4.
      label, other: t and t'.

    Returns:
      A scalar; positive where t' is ahead of t.

    Raises:
      ValueError: with fewer than four classes, where it is undefined.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/2003.01690, eq. 8 (the constant is that of the authors' code).

    >>> round(float(dlr_to(jnp.array([3.0, 1.0, 0.0, -1.0]), 0, 1)), 4)
    -0.5714
    """
    if len(checked_logits(logits)) < 4:
        raise ValueError(f"dlr_to needs at least 4 classes, got {logits.shape[-1]}: use the difference of the two logits instead")
    descending = -jnp.sort(-logits)
    return (pick(logits, other) - pick(logits, label)) / (descending[0] - 0.5 * (descending[2] + descending[3]) + 1e-12)


LOSSES: dict[str, Callable[[Logits, Label], Scalar]] = {
    "cross_entropy": cross_entropy,
    "log_cross_entropy": log_cross_entropy,
    "margin": margin_loss,
    "dlr": dlr,
}
