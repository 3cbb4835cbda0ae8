"""A discrepancy: the largest change of a map, instead of the sum of all changes."""

import jax.numpy as jnp


def largest(difference):
    """`max_u |d_c(u)|` for each class, `[h, w, C] -> [C]`."""
    return jnp.max(jnp.abs(difference), axis=(0, 1))
