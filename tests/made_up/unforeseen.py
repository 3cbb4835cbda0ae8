"""An unforeseen attack: one gray veil over the whole image, whose strength is the variable."""

import jax.numpy as jnp

from irob.attacks import UnforeseenAttack, Variation
from irob.attacks.unforeseen.variation import Range


def vary(key, x, eps):
    """eps: the largest strength. The image `(1 - v) x + v / 2`."""
    return Variation(lambda v: (1.0 - v) * x + 0.5 * v, Range(0.0, eps), jnp.zeros((), x.dtype))


VEIL = UnforeseenAttack(vary, "eps/4", eps=(0.1, 0.9))
