"""Classification losses of one example. Larger = worse for the classifier, so an attack ascends them and training descends them."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.arrays import Array, Label, Logits, Scalar


def is_class(label: Label, num_classes: int) -> Bool[Array, " C"]:
    """Mask `[C]`, True at `label`. (A mask, not a gather: its gradient is no scatter, which is slow inside loops on CPU.)"""
    return jnp.arange(num_classes) == label


def pick(values: Float[Array, "*shape C"], label: Label) -> Float[Array, "*shape"]:
    """`values[..., label]`."""
    return jnp.sum(jnp.where(is_class(label, values.shape[-1]), values, 0.0), axis=-1)


def cross_entropy(logits: Logits, label: Label) -> Scalar:
    """Cross-entropy `-log softmax(f)_t = softplus(logsumexp_{i != t} f_i - f_t)` in nats, >= 0.

    In the second form the gradient survives in float32 where softmax_t rounds to 1, that is on confident networks.
    """
    others = jnp.where(is_class(label, logits.shape[-1]), -jnp.inf, logits)
    return jax.nn.softplus(jax.nn.logsumexp(others) - pick(logits, label))


def kl_divergence(logits_p: Logits, logits_q: Logits) -> Scalar:
    """Kullback-Leibler divergence `KL(softmax(logits_p) || softmax(logits_q))` in nats, >= 0 up to rounding.

    TRADES uses `p` = natural, `q` = adversarial (Zhang et al. 2019, https://arxiv.org/abs/1901.08573, eq. 5).
    """
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def margin(logits: Logits, label: Label) -> Scalar:
    """Logit margin `max_{i != t} f_i - f_t`: positive when `t` is not the prediction, negative when it is, 0 at a tie."""
    others = jnp.where(is_class(label, logits.shape[-1]), -jnp.inf, logits)
    return jnp.max(others) - pick(logits, label)


def dlr(logits: Logits, label: Label) -> Scalar:
    """Difference-of-logits ratio `(max_{i != t} f_i - f_t) / (f_(1) - f_(3) + 1e-12)`, with `f_(k)` the k-th largest logit.

    Invariant to shifting and scaling the logits; of the sign of `margin`; in [-1, 1] while `t` ranks first or second.
    Croce & Hein 2020, https://arxiv.org/abs/2003.01690, eq. 6 (the constant is that of the authors' code).

    Raises:
      ValueError: with fewer than three classes, where it is undefined (use `margin`).
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, got {logits.shape[-1]}: use margin instead")
    descending = -jnp.sort(-logits)
    return margin(logits, label) / (descending[0] - descending[2] + 1e-12)
