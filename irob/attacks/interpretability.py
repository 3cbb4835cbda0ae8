"""Attacks that know of the interpretation: one changes the prediction and hides from the map, the other changes the map behind the prediction.

Both are handed a `climb`, which is how an objective is ascended: `pgd.best_of_pgd` or `pgd.last_of_pgd` with ball, steps and start filled in.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from irob.arrays import Array, Explain, Explanation, Image, Label, Scalar
from irob.attacks.minimal import bisect, lower_end
from irob.attacks.pgd import AttackResult, ScoredObjective
from irob.discrepancy import top_k_pixels
from irob.losses import margin, pick

Climb = Callable[[ScoredObjective], AttackResult]
Measure = Callable[[Explanation, Explanation], Scalar]


class Sneaked(NamedTuple):
    """x_adv: the attacked image. discrepancy: its D(x, x'). weight: of D in the objective that found it. found: whether it reached the target."""

    x_adv: Image
    discrepancy: Scalar
    weight: Scalar
    found: Bool[Array, ""]


def smallest_discrepancy(weight: Scalar, discrepancy: Scalar) -> Scalar:
    """Ranks the successful trials of `isa` by what the attacker wants."""
    return -discrepancy


def largest_weight(weight: Scalar, discrepancy: Scalar) -> Scalar:
    """Ranks them as the paper's authors do."""
    return weight


def isa(
    explain: Explain,
    x: Image,
    target: Label,
    measure: Measure,
    climb: Climb,
    *,
    rank: Callable[[Scalar, Scalar], Scalar] = smallest_discrepancy,
    start: float = 1.0,
    limit: float = 1e6,
    rounds: int = 10,
    kappa: float = 0.1,
) -> Sneaked:
    """The interpretability sneaking attack: x' taken for the target, with a map as little changed as can be.

        ascend over x'    -( max( max_{i != t'} f_i(x') - f_t'(x'), -kappa ) + weight D(x, x') ),    weight by bisection

    While the target is reached the weight of the discrepancy grows, else it shrinks. Boopathy et al. 2020,
    https://arxiv.org/abs/2006.14748, sec. 3 (who write the reciprocal weight before the margin; their code has it before D, as here).

    Args:
      explain: of the network, `x -> (maps, logits)`; its attack form is fastest. Any maps, complete or not.
      x: the clean image `[H, W, c]`.
      target: t'.
      measure: `(explanation of x, explanation of x') -> D >= 0`.
      climb: `best_of_pgd` or `last_of_pgd` with everything but the objective filled in. The score is -D where t' is reached, else -inf.
      rank: `(weight, D) -> number`, the largest of which picks one of the successful trials.
      start, limit, rounds: of `minimal.bisect`, for the weight. The authors: 5e-5, 1, 10, with D on raw maps.
      kappa: how far beyond the decision is far enough, in logits (the authors' 0.1).

    Returns:
      The trial picked; where none succeeded, what the climb with weight 0 returned, and found False.
    """
    clean = explain(x)

    def trial(weight: Scalar) -> tuple[Array, AttackResult]:
        def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
            attacked = explain(x_adv)
            # At x itself D is least: 0 is its subgradient, and the rounding of two equal maps would make noise of it.
            moved = jnp.any(x_adv != x)
            from_target, changed = margin(attacked.logits, target), jnp.where(moved, measure(clean, attacked), 0.0)
            return -(jnp.maximum(from_target, -kappa) + weight * changed), jnp.where(from_target < 0.0, -changed, -jnp.inf)

        result = climb(objective)
        return jnp.isfinite(result.score), result

    search = bisect(trial, start, limit, rounds, lower_end)
    images, scores = search.outcomes
    reached = jnp.isfinite(scores)
    ranks = jnp.where(reached, jax.vmap(rank)(search.values, -scores), -jnp.inf)
    picked = jnp.where(jnp.any(reached), jnp.argmax(ranks), rounds)
    x_adv = images[picked]
    return Sneaked(x_adv, measure(clean, explain(x_adv)), search.values[picked], jnp.any(reached))


def aai(explain: Explain, x: Image, label: Label, k: int, climb: Climb, prediction: Label | None = None) -> Image:
    """The top-k attack against interpretation: x' whose map of the label is low where it was highest.

        ascend over x'    - sum_{u in top_k(M_t(x))} M_t(x')(u)

    Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547, as Boopathy et al. 2020 (https://arxiv.org/abs/2006.14748) use it with k = 8.

    Args:
      explain: `x -> (maps, logits)`.
      x: the clean image `[H, W, c]`.
      label: t, whose map is attacked.
      k: how many positions.
      climb: as in `isa`. The score is the objective.
      prediction: the class that x' must still be taken for. Where it is not, the climb goes back to it instead, such images do not count,
        and where no other was found the result is x. None leaves the prediction free, as the authors do.

    Raises:
      ValueError: unless 1 <= k <= h w.
    """
    clean = explain(x)
    highest = pick(top_k_pixels(clean.maps, k).astype(x.dtype), label)

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        attacked = explain(x_adv)
        damage = -jnp.sum(highest * pick(attacked.maps, label))
        if prediction is None:
            return damage, damage
        escaped = margin(attacked.logits, prediction)
        kept = escaped < 0.0
        return jnp.where(kept, damage, -escaped), jnp.where(kept, damage, -jnp.inf)

    result = climb(objective)
    return jnp.where(result.score > -jnp.inf, result.x_adv, x)
