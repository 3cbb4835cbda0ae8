"""How parameters are updated: the optimizer and the schedules of a config. Another optimizer is added here."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from irob.types import Array, Scalar


def eps_at(config: ml_collections.ConfigDict, step: Array | np.integer) -> Scalar:
    """`eps clip((step - s0) / (s1 - s0), 0, 1)`, s0 and s1 being the two steps of `config.eps_ramp`."""
    start, end = config.eps_ramp
    return config.eps * jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def learning_rate_at(config: ml_collections.ConfigDict, step: Array | np.integer) -> Scalar:
    """The learning rate, divided by 10 after each of `config.learning_rate_drops`."""
    drops = sum((jnp.asarray(step > drop, jnp.float32) for drop in config.learning_rate_drops), start=jnp.float32(0.0))
    return config.learning_rate * 0.1**drops


def optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam with optax's defaults, which are the authors' (beta 0.9, 0.999; epsilon 1e-8)."""
    return optax.adam(lambda step: learning_rate_at(config, step))
