"""A network together with its parameters, as one value."""

from __future__ import annotations

import dataclasses

from jax.typing import DTypeLike

from irob.types import Explain, Explanation, Image, Model, Params


@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A network and its parameters: a function of one image. It is not hashed by its parameters: what is compiled for one serves others."""

    network: Model
    params: Params

    def __call__(self, x: Image) -> Explanation:
        """Maps and logits of one image `[H, W, c]`, differentiable."""
        return self.network.explain(self.params, x)

    def frozen(self, dtype: DTypeLike = "float32") -> Explain:
        """The form for repeated gradients with respect to the image."""
        return self.network.frozen(self.params, dtype=dtype)


def bind(network: Model, params: Params) -> BoundModel:
    """A network with its parameters.

    Raises:
      ValueError: if the first is no network.

    >>> import jax.numpy as jnp
    >>> from irob.models.cam_network import create
    >>> network = create("small", (8, 8, 1), 3)
    >>> bind(network, network.initial_params())(jnp.ones((8, 8, 1))).logits.shape
    (3,)
    """
    if not isinstance(network, Model):
        raise ValueError(f"bind(network, params) takes a model of irob.models first, got {type(network).__name__}")
    return BoundModel(network, params)
