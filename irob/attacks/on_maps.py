"""Attacks on a map: what is done to it, and what must happen to the prediction meanwhile.

    damage  `maps of x' -> scalar`, larger = more of what the attacker wants:    must  `logits of x' -> scalar`, negative where it is fulfilled:

    top_k_mass(maps, label, k)   lowers the k largest positions                  keeps(label)     the prediction stays
    away(maps)                   moves the map                                   leaves(label)    it is another class
    mass_center(maps)            moves its center of mass                        reaches(target)  it is the target
    region(mask)                 brings mass into a region
    copying(maps)                makes it another map; the map of the target a copy of the clean one: an attack that hides

`map_attack` ascends the damage where the demand is fulfilled, and the demand where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from irob.attacks.attack import Ascent, AttackResult
from irob.discrepancies import top_k_pixels
from irob.losses import margin_loss, pick
from irob.types import Array, Explain, Image, Label, Logits, Maps, Scalar

Damage = Callable[[Maps], Scalar]
Demand = Callable[[Logits], Scalar]


def map_attack(
    explain: Explain, damage: Damage, ascend: Ascent, must: Demand | None = None, judged: Callable[[Image], Scalar] | None = None
) -> AttackResult:
    """Ascends the damage of the maps among the points where a demand on the logits is fulfilled:

        ascend over x'    damage(M(x')) where must(f(x')) < 0,    otherwise -must(f(x'))

    Args:
      explain: `x -> (maps, logits)`.
      damage: of the maps of x'; larger = better for the attacker.
      ascend: an attack with everything but the objective filled in, such as a partial `best_of_pgd`.
      must: of the logits of x'; None demands nothing.
      judged: of x', what is the score instead of the damage, such as the damage of the network's own map where another network's is ascended.

    Returns:
      What the attack found; its score is the damage, or what `judged` says, and -inf where no point fulfills the demand.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547; Dombrowski et al. 2019, https://arxiv.org/abs/1906.07983 (who weigh both terms);
      Zhang et al. 2020, https://arxiv.org/abs/1812.00891 (`reaches` a target, whose map is `copying` the clean one).

    >>> import functools
    >>> from irob.attacks.balls import LInf
    >>> from irob.attacks.projected_gradient import best_of_pgd, constant_steps
    >>> from irob.types import Explanation
    >>> explain = lambda x: Explanation(x, jnp.mean(x, axis=(0, 1)))  # the maps are the channels of the image
    >>> x = jnp.array([[[0.6, 0.5]]])
    >>> attack = functools.partial(best_of_pgd, ball=LInf(0.2), x=x, step_sizes=constant_steps(0.05, 10))
    >>> found = map_attack(explain, copying(jnp.array([[[0.2, 0.5]]])), attack, keeps(0))
    >>> bool(found.x_adv[0, 0, 0] > found.x_adv[0, 0, 1]), bool(found.x_adv[0, 0, 0] < 0.6)
    (True, True)
    """

    def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
        attacked = explain(x_adv)
        done = damage(attacked.maps)
        score = done if judged is None else judged(x_adv)
        if must is None:
            return done, score
        short = must(attacked.logits)
        fulfilled = short < 0.0
        return jnp.where(fulfilled, done, -short), jnp.where(fulfilled, score, -jnp.inf)

    return ascend(objective)


# --- what must happen to the prediction -----------------------------------------------------------------------------------------------------


def keeps(label: Label) -> Demand:
    """The label stays the largest logit."""
    return lambda logits: margin_loss(logits, label)


def leaves(label: Label) -> Demand:
    """Another logit than that of the label is the largest."""
    return lambda logits: -margin_loss(logits, label)


def reaches(target: Label) -> Demand:
    """The largest logit is that of the target."""
    return keeps(target)


# --- what is done to the map ----------------------------------------------------------------------------------------------------------------


def top_k_mass(clean_maps: Maps, label: Label, k: int) -> Damage:
    """`-sum_{u in top_k(M_t(x))} M_t(x')(u)`: the largest positions of the clean map of the label become small.

    Args:
      clean_maps: `[h, w, C]`.
      label: t.
      k: number of positions, in 1 .. h w; raises a `ValueError` otherwise.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547, sec. 3.
    """
    highest = pick(top_k_pixels(clean_maps, k).astype(clean_maps.dtype), label)
    return lambda maps: -jnp.sum(highest * pick(maps, label))


def away(clean_maps: Maps) -> Damage:
    """`||M(x') - M(x)||_2^2`: the maps move as far as they can."""
    return lambda maps: jnp.sum((maps - clean_maps) ** 2)


def copying(given_maps: Maps) -> Damage:
    """`-||M(x') - G||_2^2`: the maps become those given.

    References:
      Dombrowski et al. 2019, https://arxiv.org/abs/1906.07983.
    """
    return lambda maps: -jnp.sum((maps - given_maps) ** 2)


def center_of_mass(maps: Maps) -> Float[Array, " 2"]:
    """Row and column, `sum_u |M(u)| u / sum_u |M(u)|`, maps summed over their last axis; NaN for a map of zeros.

    >>> center_of_mass(jnp.array([[[1.0], [-3.0]]])).tolist()
    [0.0, 0.75]
    """
    sizes = jnp.sum(jnp.abs(maps), axis=-1)
    height, width = sizes.shape
    rows, columns = jnp.sum(sizes, axis=1) @ jnp.arange(height), jnp.sum(sizes, axis=0) @ jnp.arange(width)
    return jnp.stack([rows, columns]) / jnp.sum(sizes)


def mass_center(clean_maps: Maps) -> Damage:
    """`||C(M(x')) - C(M(x))||_2^2` of the centers of mass C, in positions.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547, sec. 3 (who ascend the distance itself).
    """
    clean = center_of_mass(clean_maps)
    return lambda maps: jnp.sum((center_of_mass(maps) - clean) ** 2)


def region(mask: Bool[Array, "h w"]) -> Damage:
    """`sum_{u in R} |M(x')(u)| / sum_u |M(x')(u)|`, the share of the map's size in a region R.

    References:
      Ghorbani et al. 2019, https://arxiv.org/abs/1710.10547, sec. 3 (targeted).
    """

    def share(maps: Maps) -> Scalar:
        sizes = jnp.sum(jnp.abs(maps), axis=-1)
        return jnp.sum(jnp.where(mask, sizes, 0.0)) / jnp.sum(sizes)

    return share


# --- the top-k attack of the paper ----------------------------------------------------------------------------------------------------------


def top_k_map_attack(explain: Explain, x: Image, label: Label, k: int, ascend: Ascent, prediction: Label | None = None) -> Image:
    """The top-k attack against interpretation (AAI in the paper): x' whose map of the label is low where the clean map was highest.

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
    damage = top_k_mass(explain(x).maps, label, k)
    result = map_attack(explain, damage, ascend, None if prediction is None else keeps(prediction))
    return jnp.where(result.score > -jnp.inf, result.x_adv, x)


# --- by name --------------------------------------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """What the rows of `MAP_ATTACKS` use.

    maps: the clean map of the predicted class `[h, w, 1]`. other: a map to copy, likewise. k: of `top_k_mass`.
    ranked: the map that positions are chosen by, where it is not `maps`: the network's own, where that of a softplus network is ascended.
    """

    maps: Maps
    other: Maps
    k: int
    ranked: Maps | None = None

    def ranking(self) -> Maps:
        """The map that positions are chosen by."""
        return self.maps if self.ranked is None else self.ranked


class MapAttack(NamedTuple):
    """An attack on the map of the class that x' must be predicted as: what a user is shown.

    damage: what is given -> `Damage`. to_other: whether success is likeness to `other`, not unlikeness to the clean map.
    of_target: whether that class is a target, other than the class of x.
    """

    damage: Callable[[Given], Damage]
    to_other: bool = False
    of_target: bool = False


MAP_ATTACKS: dict[str, MapAttack] = {
    "top_k": MapAttack(lambda given: top_k_mass(given.ranking(), 0, given.k)),
    "away": MapAttack(lambda given: away(given.maps)),
    "mass_center": MapAttack(lambda given: mass_center(given.maps)),
    "region": MapAttack(lambda given: region(emptiest_quarter(given.ranking()))),
    "manipulation": MapAttack(lambda given: copying(given.other), to_other=True),
    "joint": MapAttack(lambda given: copying(given.maps), of_target=True),
}


def emptiest_quarter(maps: Maps) -> Bool[Array, "h w"]:
    """The quarter of the positions, upper left, upper right, lower left or lower right, where a map is smallest."""
    sizes = jnp.sum(jnp.abs(maps), axis=-1)
    height, width = sizes.shape
    upper, left = (jnp.arange(height) < (height + 1) // 2)[:, None], (jnp.arange(width) < (width + 1) // 2)[None]
    quarters = jnp.stack([rows & columns for rows in (upper, ~upper) for columns in (left, ~left)])
    return quarters[jnp.argmin(jnp.sum(jnp.where(quarters, sizes, 0.0), axis=(1, 2)))]
