"""Certified training: the loss at the worst logits that bounds allow."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from irob.attacks import LInf
from irob.certify import box_around, interval_bounds, linear_lower_bounds
from irob.defenses.terms import Defense
from irob.discrepancies import one_class
from irob.losses import cross_entropy, is_class, pick
from irob.types import Array, Explain, Image, Label, Objective, Scalar


def outward(explain: Explain, x: Image, label: Label) -> Objective:
    """What the attack ascends: the distance of every pixel from x, towards where it has room, so that x' is one radius away. No network is in it; x'
    only tells training the radius of this step.
    """
    side = jnp.where(x < 0.5, 1.0, -1.0)
    return lambda x_adv: jnp.sum(side * (x_adv - x))


def interval_margins(explain: Explain, x: Image, eps: Scalar, label: Label) -> Array:
    """Lower bounds of `f_t - f_j` `[C]` by interval bounds, 0 for t itself."""
    logits = interval_bounds(explain, box_around(x, eps)).logits
    return jnp.where(is_class(label, logits.lower.shape[0]), 0.0, pick(logits.lower, label) - logits.upper)


def linear_margins(explain: Explain, x: Image, eps: Scalar, label: Label) -> Array:
    """The same by linear bounds."""
    count = jax.eval_shape(explain, x).logits.shape[0]
    weights = one_class(label, count).astype(x.dtype) - jnp.eye(count, dtype=x.dtype)
    return linear_lower_bounds(lambda z: explain(z).logits, weights, LInf(eps), x)


def from_margins(margins: Callable[..., Array], clean: float) -> Defense:
    """`clean CE(x) + (1 - clean) CE(-margins)`, the loss at the worst logits relative to that of the label. The radius is that of x', in l-inf."""

    def outer(explain: Explain, x: Image, x_adv: Image, label: Label) -> Scalar:
        eps = jax.lax.stop_gradient(jnp.max(jnp.abs(x_adv - x)))
        worst = cross_entropy(-margins(explain, x, eps, label), label)
        return clean * cross_entropy(explain(x).logits, label) + (1.0 - clean) * worst

    return Defense(outward, outer, gradients=2, norms=("linf",))


def ibp(clean: float = 0.5) -> Defense:
    """Training by interval bounds, in l-inf (Gowal et al. 2018, https://arxiv.org/abs/1810.12715, at the end of their schedule). Let the
    radius rise from 0 (`config.eps_ramp`), or it learns nothing.
    """
    return from_margins(interval_margins, clean)


def crown_ibp(clean: float = 0.0, linear: float = 0.5) -> Defense:
    """CROWN-IBP: the margins are a mix of linear and interval bounds (Zhang et al. 2020, https://arxiv.org/abs/1906.06316), here a constant one;
    theirs goes from linear ones to intervals as the radius grows.
    """

    def mixed(*arguments: object) -> Array:
        return linear * linear_margins(*arguments) + (1.0 - linear) * interval_margins(*arguments)  # type: ignore[arg-type]

    return from_margins(mixed, clean)
