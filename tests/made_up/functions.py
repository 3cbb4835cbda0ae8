"""A network without maps: a linear classifier of the pixels, a plain function."""

import math

import jax

from irob.models import from_function


def linear(input_shape, num_classes):
    """For `config.network`."""

    def init(seed):
        return 0.01 * jax.random.normal(jax.random.key(seed), (math.prod(input_shape), num_classes))

    return from_function(lambda weights, x: x.reshape(-1) @ weights, init, input_shape, num_classes)
