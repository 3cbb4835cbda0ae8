"""What bounds say of a network on an image: its margins, and how far its interpretation can move."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from irob.attacks import Ball
from irob.certify.intervals import Interval, box_around, interval_bounds
from irob.certify.linear import linear_lower_bounds
from irob.discrepancies import one_class
from irob.losses import is_class, pick
from irob.maps.features import scale_to_logits
from irob.types import Array, Explain, Image, Label, Maps


def margin_bounds(explain: Explain, ball: Ball, x: Image, label: Label) -> Float[Array, " C"]:
    """Lower bounds of `f_t(x') - f_j(x')` for every class j, over all x' of a ball: the prediction is certified where all others than
    that of t itself are positive. The larger of linear bounds and interval bounds.

    Args:
      explain: the network, `x -> (maps, logits)`, of convolutions, dense layers, rectifiers, sums and pooling.
      ball: `LInf`, `L2` or `L1`.
      x: the image.
      label: t.

    Returns:
      `[C]`; 0 for t itself.

    Raises:
      NotImplementedError: as `interval_bounds`.

    References:
      Zhang et al. 2018, https://arxiv.org/abs/1811.00866; Gowal et al. 2019, https://arxiv.org/abs/1810.12715.
    """
    logits: Interval = interval_bounds(explain, box_around(x, ball.eps)).logits
    count = logits.lower.shape[0]
    differences = one_class(label, count).astype(logits.lower.dtype) - jnp.eye(count, dtype=logits.lower.dtype)
    linear = linear_lower_bounds(lambda z: explain(z).logits, differences, ball, x)
    by_intervals = pick(logits.lower, label) - logits.upper
    return jnp.where(is_class(label, count), 0.0, jnp.maximum(linear, by_intervals))


def certified(margins: Float[Array, " C"], label: Label) -> Array:
    """Whether all margins of `margin_bounds` but that of the label itself are positive."""
    true = is_class(label, len(margins))
    return jnp.all((margins > 0.0) | true) & jnp.any(true)


def map_bounds(explain: Explain, ball: Ball, x: Image) -> Interval:
    """Bounds of every entry of the maps, over all x' of a ball: the tighter of linear and interval bounds.

    Args:
      explain, ball, x: as in `margin_bounds`, which says what is raised.

    Returns:
      `[h, w, C]` each, on the scale of the maps.
    """
    by_intervals: Interval = interval_bounds(explain, box_around(x, ball.eps)).maps
    shape = by_intervals.lower.shape
    entries = jnp.eye(int(np.prod(shape)), dtype=by_intervals.lower.dtype)
    flat = lambda z: explain(z).maps.reshape(-1)  # noqa: E731
    lower, upper = linear_lower_bounds(flat, entries, ball, x), -linear_lower_bounds(flat, -entries, ball, x)
    return Interval(jnp.maximum(by_intervals.lower, lower.reshape(shape)), jnp.minimum(by_intervals.upper, upper.reshape(shape)))


class DiscrepancyBound(NamedTuple):
    """by_class: U_c `[C]`. two_class: the largest of 1/2 (U_t + U_j) over j. certified: whether it is below half of the clean gap for every j."""

    by_class: Array
    two_class: Array
    certified: Array


def discrepancy_bound(clean_maps: Maps, bounds: Interval, logits: Array, label: Label) -> DiscrepancyBound:
    """How far the class activation maps can move, on the scale of the logits, the counterpart of Proposition 1:

        || M_c(x') - M_c(x) ||_1 / (h w)  <=  U_c = sum_u max(upper - M_c(x), M_c(x) - lower)(u) / (h w)

    Proposition 1 says that an attack that reaches class j moves the maps of t and j by at least half of the gap `f_t(x) - f_j(x)`. Where
    `1/2 (U_t + U_j)` is less, for every j, no attack of the ball does: the prediction is certified by the interpretation alone.

    Args:
      clean_maps: M(x), raw: their means over positions must be the logits, up to a constant. If they are not, nothing is certified; where rounding
        parts them, the smaller gap counts.
      bounds: of `map_bounds`.
      logits: f(x).
      label: t.

    Returns:
      A `DiscrepancyBound`.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, Proposition 1.

    >>> maps = jnp.array([[[2.0, 0.0]]])
    >>> found = discrepancy_bound(maps, Interval(maps - 0.5, maps + 0.25), jnp.array([2.0, 0.0]), 0)
    >>> found.by_class.tolist(), float(found.two_class), bool(found.certified)
    ([0.5, 0.5], 0.5, True)
    """
    by_class = jnp.sum(scale_to_logits(jnp.maximum(bounds.upper - clean_maps, clean_maps - bounds.lower)), axis=(0, 1))
    others = ~is_class(label, len(logits))
    moved, gaps = 0.5 * (pick(by_class, label) + by_class), pick(logits, label) - logits
    means = jnp.mean(clean_maps, axis=(0, 1))
    of_means = pick(means, label) - means
    complete = jnp.all(jnp.abs(of_means - gaps) <= 1e-3 * (1.0 + jnp.max(jnp.abs(logits))))
    certain = complete & jnp.all(jnp.where(others, moved < 0.5 * jnp.minimum(gaps, of_means), True)) & ~jnp.all(others)
    return DiscrepancyBound(by_class, jnp.max(jnp.where(others, moved, -jnp.inf)), certain)
