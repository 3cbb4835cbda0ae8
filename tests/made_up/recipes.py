"""A recipe: an optimizer, a schedule of the learning rate, an augmentation."""

import jax
import jax.numpy as jnp
import optax


def sign_momentum(learning_rate, decay=0.9):
    """Steps of the learning rate along the sign of a running mean of the gradient."""
    return optax.chain(optax.trace(decay), optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate))


def halved(init_value, at=16):
    """The rate, and half of it from a step on."""
    return lambda step: jnp.where(step < at, init_value, init_value / 2)


def brightness(key, x, most=0.1):
    """The image, brighter or darker."""
    return jnp.clip(x + jax.random.uniform(key, (), x.dtype, -most, most), 0.0, 1.0)
