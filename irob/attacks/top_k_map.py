"""The top-k attack against interpretation (AAI in the paper): it changes a map and may keep the prediction."""

from __future__ import annotations

import jax.numpy as jnp

from irob.attacks.attack import Ascent
from irob.discrepancies import top_k_pixels
from irob.losses import margin_loss, pick
from irob.types import Explain, Image, Label, Scalar


def top_k_map_attack(explain: Explain, x: Image, label: Label, k: int, ascend: Ascent, prediction: Label | None = None) -> Image:
    """The top-k attack against interpretation (AAI): x' whose map of the label is low where the clean map was highest.

        ascend over x'    - sum_{u in top_k(M_t(x))} M_t(x')(u)

    Args:
      explain: `x -> (maps, logits)`.
      x: the clean image `[H, W, c]`.
      label: t, whose map is attacked.
      k: number of positions, in 1 .. h w.
      ascend: an attack with everything but the objective filled in; the score is the objective.
      prediction: the class that x' must keep. While x' is not of that class, the attack ascends its logits instead, and such images do not count;
        if no other is found the result is x. None leaves the prediction free, as the authors do.

    Returns:
      The attacked image `[H, W, c]`.

    Raises:
      ValueError: unless 1 <= k <= h w.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547; as Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748) use it, with k = 8.

    >>> import functools
    >>> from irob.attacks.balls import LInf
    >>> from irob.attacks.projected_gradient import best_of_pgd, constant_steps
    >>> from irob.types import Explanation
    >>> explain = lambda x: Explanation(x, jnp.mean(x, axis=(0, 1)))  # the maps are the channels of the image
    >>> x = jnp.array([[[0.9, 0.5], [0.3, 0.5]]])
    >>> attack = functools.partial(best_of_pgd, ball=LInf(0.25), x=x, step_sizes=constant_steps(0.25, 1))
    >>> [round(float(pixel), 2) for pixel in top_k_map_attack(explain, x, 0, 1, attack)[0, :, 0]]
    [0.65, 0.3]
    """
    clean = explain(x)
    highest = pick(top_k_pixels(clean.maps, k).astype(x.dtype), label)

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        attacked = explain(x_adv)
        damage = -jnp.sum(highest * pick(attacked.maps, label))
        if prediction is None:
            return damage, damage
        lost_by = margin_loss(attacked.logits, prediction)
        kept = lost_by < 0.0
        return jnp.where(kept, damage, -lost_by), jnp.where(kept, damage, -jnp.inf)

    result = ascend(objective)
    return jnp.where(result.score > -jnp.inf, result.x_adv, x)
