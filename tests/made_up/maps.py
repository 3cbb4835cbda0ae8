"""A map: the size of the gradient on every pixel, rather than its sign."""

import jax.numpy as jnp

from irob.maps import on_pixels, saliency

GRADIENT_SIZE = on_pixels(lambda score, x: jnp.abs(saliency(score, x)))
