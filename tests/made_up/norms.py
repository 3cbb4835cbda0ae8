"""A norm: l-inf on the lower half of the image; the upper half must not change."""

from typing import Any

import jax.numpy as jnp

from irob.attacks import LInf


class LowerHalf(LInf):
    """`max_i |x'_i - x_i| <= eps` in the lower half, `x' = x` in the upper one."""

    def project(self, x_adv: Any, x: Any) -> Any:
        """Clip the lower half, restore the upper one."""
        lower = jnp.arange(x.shape[0])[:, None, None] >= x.shape[0] // 2
        return jnp.where(lower, LInf(self.eps).project(x_adv, x), x)
