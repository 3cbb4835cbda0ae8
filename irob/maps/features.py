"""Maps of the last feature map A `[h, w, K]`. A map of class c is `[h, w]`, signed; maps of all classes are stacked last: `[h, w, C]`.

Maps that are linear in A, `M = A V`, differ only in the matrix V that reads them off; `READOUTS` has it for each by name:

    cam                    V = W, the head                maps [h, w, C]
    grad_cam_plus_plus     V = max(W, 0)                  maps [h, w, C], h w times Grad-CAM++
    representation         V = 1                          maps [h, w, K], A itself

Grad-CAM of a network that ends in the spatial mean and a linear head is its class activation map over h w, that is, on the scale of the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from irob.types import Array, Features, Head, Logits, Maps, Readout


def cam(features: Features, head: Head) -> Maps:
    """Class activation maps `M_c(u) = sum_k W_kc A_k(u)`, signed, neither rectified nor upsampled.

    For a network that ends in the spatial mean and this linear head, the mean of `M_c` over positions is the logit of class c.

    Args:
      features: A `[h, w, K]`, the last feature map.
      head: W `[K, C]`.

    Returns:
      `[h, w, C]`; positive where a position speaks for the class.

    References:
      Zhou et al. 2016, https://arxiv.org/abs/1512.04150, eq. 2.

    >>> import jax.numpy as jnp
    >>> cam(jnp.array([[[1.0, 2.0]]]), jnp.array([[1.0, 0.0], [0.0, -1.0]])).tolist()
    [[[1.0, -2.0]]]
    """
    return features @ head


def grad_cam(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """Grad-CAM before its final rectification (signed, neither upsampled nor normalized):

        M_c(u) = sum_k alpha_kc A_k(u),    alpha_kc = mean over u of  d f_c / d A_k(u)

    For the spatial mean and a linear head it is `scale_to_logits(cam(...))`.

    Args:
      features: A `[h, w, K]`.
      score: the rest of the network, A -> logits `[C]`.

    Returns:
      `[h, w, C]`.

    References:
      Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, eq. 1 and 2.
    """
    return cam(features, jnp.mean(_gradients(features, score), axis=(1, 2)).T)


def grad_cam_plus_plus(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """Grad-CAM++ before its final rectification:

        M_c(u) = sum_k w_kc A_k(u),    w_kc = sum_u a_kc(u) max(g, 0),    g = d f_c / d A_k(u)
        a_kc(u) proportional to g^2 / (2 g^2 + g^3 sum_v A_k(v)), its sum over the positions where g > 0 being 1

    With `exp f_c` as the score, whose factor `exp f_c`, common to all k, is dropped; normalized as in its authors' code. For the spatial mean
    and a linear head W it is `cam(A, max(W, 0)) / (h w)`.

    Args:
      features, score: as in `grad_cam`.

    References:
      Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, eq. 5 and 19.
    """
    g = _gradients(features, score)
    positive = g > 0.0
    curvature = 2.0 + g * jnp.sum(features, axis=(0, 1))  # the denominator over g^2
    a = jnp.where(positive & (curvature != 0.0), 1.0 / jnp.where(curvature == 0.0, 1.0, curvature), 0.0)
    whole = jnp.sum(a, axis=(1, 2), keepdims=True)
    a = a / jnp.where(whole == 0.0, 1.0, whole)
    return cam(features, jnp.sum(a * jnp.maximum(g, 0.0), axis=(1, 2)).T)


def layer_cam(features: Features, score: Callable[[Features], Logits]) -> Maps:
    """LayerCAM before its final rectification: `M_c(u) = sum_k max(d f_c / d A_k(u), 0) A_k(u)`.

    For the spatial mean and a linear head W it is Grad-CAM++, `cam(A, max(W, 0)) / (h w)`.

    Args:
      features, score: as in `grad_cam`.

    References:
      Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943, eq. 5 and 6.
    """
    return jnp.einsum("chwk,hwk->hwc", jnp.maximum(_gradients(features, score), 0.0), features)


def _gradients(features: Features, score: Callable[[Features], Logits]) -> Float[Array, "C h w K"]:
    return jax.jacrev(score)(features)


READOUTS: dict[str, Readout] = {
    "cam": lambda head: head,
    "grad_cam_plus_plus": lambda head: jnp.maximum(head, 0.0),
    "representation": lambda head: jnp.eye(head.shape[0], dtype=head.dtype),
}


def scale_to_logits(maps: Maps) -> Maps:
    """Maps on the scale of the logits, `M / (h w)`: each map sums to the logit of its class (the completeness axiom).

    Proposition 1 (Boopathy et al. 2020, https://arxiv.org/abs/2006.14748) holds on this scale.

    Args:
      maps: class activation maps `[h, w, C]`, whose means over positions are the logits.

    Returns:
      `[h, w, C]`.

    >>> import jax.numpy as jnp
    >>> scale_to_logits(jnp.full((2, 2, 1), 3.0)).sum().tolist()
    3.0
    """
    return maps / jnp.float32(maps.shape[0] * maps.shape[1])


def heatmap(attributions: Float[Array, "h w c"], size: tuple[int, int] | None = None) -> Float[Array, "H W"]:
    """A map for display: summed over channels, resized bilinearly to `size`, divided by the largest absolute value.

    Args:
      attributions: `[h, w, c]`, e.g. one class activation map as `[h, w, 1]`, or a map on the pixels.
      size: (H, W) of the picture; None keeps (h, w).

    Returns:
      `[H, W]` in [-1, 1]; 0 stays 0.
    """
    flat = jnp.sum(attributions, axis=-1)
    resized = flat if size is None else jax.image.resize(flat, size, "bilinear")
    largest = jnp.max(jnp.abs(resized))
    return resized / jnp.where(largest > 0.0, largest, 1.0)
