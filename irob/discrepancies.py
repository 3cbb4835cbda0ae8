"""Discrepancies: how far two interpretations of an image are apart.

    D(x, x') = sum_c w_c || (M_c(x') - M_c(x))[P_c] ||_p

The three choices are separate values: class weights `w [C]` (`one_class`, `two_class`, `all_class`, `top_k_classes`, `soft_two_class`), a pixel set
`P [h, w, C]` (None for all positions, or `top_k_pixels` of the clean maps) and a norm (`NORMS`). The scale is that of the maps given: raw, or on
the logit scale after `maps.scale_to_logits`. A discrepancy is >= 0, and 0 for equal maps, where its gradient is 0, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from irob.losses import half_logit_gap, is_class
from irob.maps.features import scale_to_logits
from irob.types import ClassWeights, Explanation, Label, Logits, Maps, PixelSet, Scalar, checked_logits

# --- class weights --------------------------------------------------------------------------------------------------------------------------


def one_class(label: Label, num_classes: int) -> ClassWeights:
    """Weight 1 on the true class, 0 elsewhere.

    Args:
      label: t.
      num_classes: C.

    Returns:
      `[C]`.

    >>> one_class(1, 3).tolist()
    [0.0, 1.0, 0.0]
    """
    true = is_class(label, num_classes)
    return jnp.where(jnp.any(true), true.astype(jnp.float32), jnp.nan)


def two_class(label: Label, target: Label, num_classes: int) -> ClassWeights:
    """Weight 1/2 on the true class t and 1/2 on the target class t': the weights of Proposition 1.

    Args:
      label: t.
      target: t'.
      num_classes: C.

    Returns:
      `[C]`; they sum to 1.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748.

    >>> two_class(0, 2, 3).tolist()
    [0.5, 0.0, 0.5]
    """
    return 0.5 * (one_class(label, num_classes) + one_class(target, num_classes))


def all_class(num_classes: int) -> ClassWeights:
    """Weight 1/C on every class."""
    return jnp.full(num_classes, 1.0 / num_classes, jnp.float32)


def top_k_classes(logits: Logits, k: int) -> ClassWeights:
    """Weight 1/k on the k classes with the largest logits (ties: the lower index), 0 elsewhere.

    Raises:
      ValueError: unless 1 <= k <= C.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k must be in 1..{logits.shape[-1]} (the number of classes), got {k}")
    _, largest = jax.lax.top_k(logits, k)
    return jnp.sum(jax.nn.one_hot(largest, logits.shape[-1]), axis=0) / k


def soft_two_class(adversarial_logits: Logits, label: Label) -> ClassWeights:
    """Weight 1 on the true class and the softmax of the adversarial logits over the others:

        w_t = 1,    w_i = exp f_i(x') / sum_{j != t} exp f_j(x')   for i != t

    These are the training weights of the Int methods as their authors compute them (their paper halves both terms). They are differentiable in
    the logits, and computed as a masked log-softmax, which is finite however large the logit of the true class.

    Args:
      adversarial_logits: f(x') `[C]`.
      label: t.

    Returns:
      `[C]`; they sum to 2.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, code.

    >>> soft_two_class(jnp.zeros(3), 0).tolist()
    [1.0, 0.5, 0.5]
    """
    true = is_class(label, len(checked_logits(adversarial_logits)))
    others = jnp.exp(jax.nn.log_softmax(jnp.where(true, -jnp.inf, adversarial_logits)))
    return jnp.where(jnp.any(true), jnp.where(true, 1.0, others), jnp.nan)


def normalized(class_weights: ClassWeights, clean_maps: Maps) -> ClassWeights:
    """`w_c / (max_u M_c(u) - min_u M_c(u))`: weights that measure the change of each class against the range of its clean map.

    The scale of the paper's tables of the sneaking attack. A constant map has range 0; its change is not counted.
    """
    spread = jnp.max(clean_maps, axis=(0, 1)) - jnp.min(clean_maps, axis=(0, 1))
    return jnp.where(spread > 0.0, class_weights / jnp.where(spread > 0.0, spread, 1.0), 0.0)


# --- pixel sets -----------------------------------------------------------------------------------------------------------------------------


def top_k_pixels(clean_maps: Maps, k: int) -> PixelSet:
    """The k largest positions of each class's clean map (ties: the earlier position), True there.

    Args:
      clean_maps: `[h, w, C]`.
      k: number of positions, in 1 .. h w.

    Returns:
      `[h, w, C]`, True at k positions of each class.

    Raises:
      ValueError: unless 1 <= k <= h w.

    >>> top_k_pixels(jnp.array([[[3.0], [1.0], [2.0]]]), 2).ravel().tolist()
    [True, False, True]
    """
    h, w, num_classes = clean_maps.shape
    if not 1 <= k <= h * w:
        raise ValueError(f"k must be in 1..{h * w} (the positions of a map), got {k}")
    flat = jnp.where(clean_maps == 0.0, 0.0, clean_maps).reshape(h * w, num_classes)  # top_k ranks -0 below 0
    _, largest = jax.lax.top_k(flat.T, k)
    chosen = jnp.any(jnp.arange(h * w)[:, None, None] == largest[None], axis=-1)
    return chosen.reshape(h, w, num_classes)


# --- norms ----------------------------------------------------------------------------------------------------------------------------------


def l1_norm(difference: Maps) -> ClassWeights:
    """`sum_u |d_c(u)|` for each class; its gradient at 0 is 0 (that of `jnp.abs` is 1)."""
    return jnp.sum(difference * jnp.sign(difference), axis=(0, 1))


def l2_norm(difference: Maps) -> ClassWeights:
    """`sqrt(sum_u d_c(u)^2)` for each class; its gradient at 0 is 0."""
    squared = squared_l2_norm(difference)
    positive = squared > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def squared_l2_norm(difference: Maps) -> ClassWeights:
    """`sum_u d_c(u)^2` for each class: what the paper's authors ascend and plot as l2."""
    return jnp.sum(difference**2, axis=(0, 1))


Norm = Callable[[Maps], ClassWeights]
NORMS: dict[str, Norm] = {"l1": l1_norm, "l2": l2_norm, "squared_l2": squared_l2_norm}


def discrepancy(
    clean_maps: Maps,
    adversarial_maps: Maps,
    class_weights: ClassWeights,
    pixels: PixelSet | None = None,
    norm: str | Norm = "l1",
) -> Scalar:
    """The discrepancy of two interpretations, on the scale of the maps:

        D(x, x') = sum_c w_c || (M_c(x') - M_c(x))[P_c] ||_p

    Args:
      clean_maps: `[h, w, C]`, the maps of x.
      adversarial_maps: `[h, w, C]`, the maps of x'.
      class_weights: w `[C]`, >= 0.
      pixels: P `[h, w, C]`, True where a position counts; None counts all.
      norm: "l1", "l2" or "squared_l2" (the keys of `NORMS`), or a function of the difference `[h, w, C] -> [C]`.

    Returns:
      A scalar >= 0; larger = further apart.

    Raises:
      ValueError: for an unknown norm, and shapes that do not fit.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748.

    >>> float(discrepancy(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2)), two_class(0, 1, 2)))
    2.0
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: choose one of {sorted(NORMS)}")
    by_class = NORMS[norm] if isinstance(norm, str) else norm
    for name, found, wanted in (
        ("adversarial_maps", adversarial_maps, clean_maps.shape),
        ("class_weights", class_weights, clean_maps.shape[-1:]),
        ("pixels", pixels, clean_maps.shape),
    ):
        if found is not None and jnp.shape(found) != wanted:
            raise ValueError(f"{name} must have shape {wanted} for clean_maps of shape {clean_maps.shape}, got {jnp.shape(found)}")
    difference = adversarial_maps - clean_maps
    if pixels is not None:
        difference = jnp.where(pixels, difference, 0.0)
    return jnp.sum(class_weights * by_class(difference))


# --- Proposition 1 --------------------------------------------------------------------------------------------------------------------------


class Proposition1(NamedTuple):
    """Both sides of Proposition 1, which says `discrepancy >= half_gap`."""

    discrepancy: Scalar
    half_gap: Scalar


def proposition_1_sides(clean: Explanation, adversarial: Explanation, label: Label, target: Label) -> Proposition1:
    """Both sides of the lower bound of Proposition 1:

        1/2 ( ||M_t(x) - M_t(x')||_1 + ||M_t'(x) - M_t'(x')||_1 ) / (h w)  >=  1/2 ( f_t(x) - f_t'(x) )

    It holds for maps whose means are the logits and every x' with `f_t'(x') >= f_t(x')`, that is, for every attack that reaches its target t'.

    Args:
      clean: explanation of x with class activation maps, raw (the division by h w is done here).
      adversarial: explanation of x', likewise.
      label: t, the class of x.
      target: t', the class of x'.

    Returns:
      The two-class l1 discrepancy on the logit scale, and half of the clean logit gap.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, Proposition 1.

    >>> clean = Explanation(jnp.array([[[2.0, 0.0]]]), jnp.array([2.0, 0.0]))
    >>> attacked = Explanation(jnp.array([[[1.0, 1.0]]]), jnp.array([1.0, 1.0]))
    >>> [float(side) for side in proposition_1_sides(clean, attacked, 0, 1)]
    [1.0, 1.0]
    """
    weights = two_class(label, target, clean.logits.shape[-1])
    two_class_l1 = discrepancy(scale_to_logits(clean.maps), scale_to_logits(adversarial.maps), weights)
    return Proposition1(two_class_l1, half_logit_gap(clean.logits, label, target))
