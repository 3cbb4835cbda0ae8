"""The interpretability sneaking attack (ISA): it changes the prediction and hides from a discrepancy of the maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from irob.attacks.attack import Ascent, AttackResult
from irob.attacks.minimal import bisect, lower_end
from irob.losses import margin_loss
from irob.types import Array, Explain, Explanation, Image, Label, Scalar


class SneakingResult(NamedTuple):
    """x_adv: the attacked image. discrepancy: its D(x, x'). weight: of D in the objective that found it. found: whether it reached the target."""

    x_adv: Image
    discrepancy: Scalar
    weight: Scalar
    found: Bool[Array, ""]


def smallest_discrepancy(weight: Scalar, discrepancy: Scalar) -> Scalar:
    """Ranks the successful trials by what the attacker wants."""
    return -discrepancy


def sneaking_attack(
    explain: Explain,
    x: Image,
    target: Label,
    discrepancy: Callable[[Explanation, Explanation], Scalar],
    ascend: Ascent,
    *,
    rank: Callable[[Scalar, Scalar], Scalar] = smallest_discrepancy,
    start: float = 1.0,
    limit: float = 1e6,
    rounds: int = 10,
    kappa: float = 0.1,
) -> SneakingResult:
    """The interpretability sneaking attack (ISA): x' of the target class, whose maps have changed as little as possible.

        ascend over x'    -( max( max_{i != t'} f_i(x') - f_t'(x'), -kappa ) + weight D(x, x') ),    weight by bisection

    While the target is reached the weight of the discrepancy grows, otherwise it shrinks.

    Args:
      explain: the network, `x -> (maps, logits)`; its frozen form is fastest. Any maps, on any scale.
      x: the clean image `[H, W, c]`.
      target: t'.
      discrepancy: `(explanation of x, explanation of x') -> D >= 0`.
      ascend: an attack with everything but the objective filled in, e.g. a partial `best_of_pgd`. The score is -D where t' is reached, else -inf.
      rank: `(weight, D) -> number`, the largest of which picks one of the successful trials.
      start, limit, rounds: of `minimal.bisect`, for the weight. The authors: 5e-5, 1, 10, with D on raw maps.
      kappa: how far beyond the decision is far enough, in logits (the authors' 0.1).

    Returns:
      The picked trial. If none succeeded: the trial with weight 0, and found False.

    References:
      Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, sec. 3 (who write the reciprocal weight before the margin; their code has it before
      D, as here).

    Raises:
      ValueError: without a round, or unless 0 < start <= limit (of `minimal.bisect`).

    >>> import functools
    >>> from irob.attacks.balls import LInf
    >>> from irob.attacks.projected_gradient import best_of_pgd, constant_steps
    >>> explain = lambda x: Explanation(x, jnp.mean(x, axis=(0, 1)))  # the maps are the channels of the image
    >>> moved = lambda clean, attacked: jnp.sum(jnp.abs(attacked.maps - clean.maps))
    >>> x = jnp.array([[[0.6, 0.4]]])
    >>> attack = functools.partial(best_of_pgd, ball=LInf(0.2), x=x, step_sizes=constant_steps(0.02, 10))
    >>> found = sneaking_attack(explain, x, 1, moved, attack, start=0.1, rounds=3)
    >>> bool(found.found), bool(found.discrepancy >= 0.2)
    (True, True)
    """
    clean = explain(x)

    def trial(weight: Scalar) -> tuple[Array, AttackResult]:
        def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
            attacked = explain(x_adv)
            # At x itself D is least: 0 is its subgradient, where the rounding of two equal maps would give noise.
            moved = jnp.any(x_adv != x)
            from_target, changed = margin_loss(attacked.logits, target), jnp.where(moved, discrepancy(clean, attacked), 0.0)
            return -(jnp.maximum(from_target, -kappa) + weight * changed), jnp.where(from_target < 0.0, -changed, -jnp.inf)

        result = ascend(objective)
        return jnp.isfinite(result.score), result

    search = bisect(trial, start, limit, rounds, lower_end)
    images, scores = search.outcomes.x_adv, search.outcomes.score
    reached = jnp.isfinite(scores)
    ranks = jnp.where(reached, jax.vmap(rank)(search.values, -scores), -jnp.inf)
    picked = jnp.where(jnp.any(reached), jnp.argmax(ranks), rounds)
    x_adv = images[picked]
    return SneakingResult(x_adv, discrepancy(clean, explain(x_adv)), search.values[picked], jnp.any(reached))
