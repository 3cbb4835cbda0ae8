"""Interpretation maps. A map of class c is `[h, w]`, signed; maps of all classes are stacked last: `[h, w, C]`."""

import jax.numpy as jnp
from jaxtyping import Float

from irob.arrays import Array, Features, Maps


def cam(features: Features, head: Float[Array, "K C"]) -> Maps:
    """Class activation maps `M_c(u) = sum_k W_kc A_k(u)`, signed, neither rectified nor upsampled.

    For a network that ends in the spatial mean and this linear head, the mean of `M_c` over positions is the logit of class c.
    Zhou et al. 2016, https://arxiv.org/abs/1512.04150, eq. 2.

    >>> import jax.numpy as jnp
    >>> cam(jnp.array([[[1.0, 2.0]]]), jnp.array([[1.0, 0.0], [0.0, -1.0]])).tolist()
    [[[1.0, -2.0]]]
    """
    return features @ head


def complete(maps: Maps) -> Maps:
    """The maps on the complete scale, `M / (h w)`: each sums to its class's logit (the completeness axiom).

    Proposition 1 (Boopathy et al. 2020, https://arxiv.org/abs/2006.14748) holds on this scale.

    Args:
      maps: class activation maps `[h, w, C]`, whose means are the logits.
    """
    return maps / jnp.float32(maps.shape[0] * maps.shape[1])
