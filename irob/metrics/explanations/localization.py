"""Whether a map lies on the object, where a mask `[H, W]` says what that is. Higher is better."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.types import Array, Scalar


def pointing_game(attribution: Float[Array, "H W"], mask: Bool[Array, "H W"]) -> Scalar:
    """Whether the largest value lies in the mask: 1 or 0; of equal ones the first position counts.

    Args:
      attribution: `[H, W]`, signed.
      mask: True on the object.

    Returns:
      1 or 0; NaN for a map that is NaN somewhere. The mean over images is the accuracy of the pointing game.

    References:
      Zhang et al. 2016, https://arxiv.org/abs/1608.00507, sec. 4 (without its tolerance of 15 pixels: widen the mask for that).

    >>> float(pointing_game(jnp.array([[0.0, 2.0]]), jnp.array([[False, True]])))
    1.0
    """
    hit = jnp.ravel(mask)[jnp.argmax(jnp.ravel(attribution))].astype(attribution.dtype)
    return jnp.where(jnp.any(jnp.isnan(attribution)), jnp.nan, hit)


def relevance_mass(attribution: Float[Array, "H W"], mask: Bool[Array, "H W"]) -> Scalar:
    """The share of the positive attribution that lies in the mask, `sum_{i in mask} max(A_i, 0) / sum_i max(A_i, 0)`.

    Args:
      attribution, mask: as in `pointing_game`.

    Returns:
      A scalar in [0, 1]; NaN for a map without a positive value.

    References:
      Arras et al. 2022, https://arxiv.org/abs/2003.07258.

    >>> float(relevance_mass(jnp.array([[1.0, 3.0, -5.0]]), jnp.array([[False, True, True]])))
    0.75
    """
    positive = jnp.maximum(attribution, 0.0)
    return jnp.sum(jnp.where(mask, positive, 0.0)) / jnp.sum(positive)


def relevance_rank(attribution: Float[Array, "H W"], mask: Bool[Array, "H W"]) -> Scalar:
    """The share of the K positions with the largest attributions that lie in the mask, K the positions of the mask.

    Args:
      attribution, mask: as in `pointing_game`.

    Returns:
      A scalar in [0, 1]; NaN for an empty mask, and for a map that is NaN somewhere.

    References:
      Arras et al. 2022, https://arxiv.org/abs/2003.07258.

    >>> float(relevance_rank(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([[True, True, False]])))
    0.5
    """
    flat, inside = jnp.ravel(attribution), jnp.ravel(mask)[jnp.argsort(-jnp.ravel(attribution))]
    count = jnp.sum(mask)
    share = jnp.sum(inside & (jnp.arange(flat.size) < count)) / count.astype(flat.dtype)
    return jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, share)
