"""The authors' attacks, where they differ from ours."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from irob.attacks.balls import LInf
from irob.attacks.projected_gradient import PGD
from irob.losses import pick
from irob.types import Label, Logits, Point, PRNGKey, Scalar

# Steps of 0.01 from the image itself, last iterate.
PAPER_PGD = PGD("constant 0.01", random_start=False, best_iterate=False)


def logsumexp_cross_entropy(logits: Logits, label: Label) -> Scalar:
    """Cross-entropy as `logsumexp f - f_t`, which the authors ascend.

    In float32 its gradient `softmax(f) - one_hot(t)` loses the true class where f_t leads by 17: on a confident network the attack stalls.
    `losses.cross_entropy` keeps its gradient.
    """
    return jax.nn.logsumexp(logits) - pick(logits, label)


class ClippedLInf(NamedTuple):
    """`LInf` with steps along the clipped gradient instead of its sign, as in the authors' sneaking attack.

    gain: they take 1000 / N, because their gradient is that of the mean over N images.
    """

    eps: Scalar
    gain: Scalar

    def project(self, x_adv: Point, x: Point) -> Point:
        """The projection of `LInf`: clip to [x - eps, x + eps], then to [0, 1]."""
        return LInf(self.eps).project(x_adv, x)

    def ascend(self, x_adv: Point, gradient: Point, step_size: Scalar) -> Point:
        """`x' + step_size clip(gain g, -1, 1)`."""
        return x_adv + step_size * jnp.clip(self.gain * gradient, -1.0, 1.0)

    def random_point(self, key: PRNGKey, x: Point) -> Point:
        """A random point of `LInf`: uniform in the cube."""
        return LInf(self.eps).random_point(key, x)


def largest_weight(weight: Scalar, discrepancy: Scalar) -> Scalar:
    """Ranks the successful trials of the sneaking attack as the authors do."""
    return weight


def right_riemann(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes k / n, k = 1..n, of weight 1 / n: their rule of integrated gradients (n = 100)."""
    return np.arange(1, points + 1) / points, np.full(points, 1.0 / points)
