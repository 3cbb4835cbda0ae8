"""The compiled checks of the sneaking measures: the smallest perturbation, the sneaking attack, and the discrepancies of an attacked image."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.data import to_unit
from experiments.evaluation.attacks import or_nan, perturbation
from experiments.evaluation.engine import Check
from experiments.runtime import devices
from experiments.runtime.names import find
from irob.attacks import BALLS, AttackResult, best_of_pgd, last_of_pgd, smallest_discrepancy, smallest_eps, sneaking_attack, step_rule
from irob.attacks.attack import Ascent
from irob.batches import predicted_class
from irob.discrepancies import NORMS, all_class, discrepancy, normalized
from irob.losses import margin_loss, pick
from irob.maps import EXPLAINERS, READOUTS, differentiable, explainer, frozen, scale_to_logits
from irob.paper import ClippedLInf, largest_weight
from irob.similarities import kendall_tau, pearson
from irob.types import Array, Explanation, Image, Label, Maps, Model, Params, Scalar

KAPPA = 0.1  # logits beyond the decision that suffice (the authors')
RANKS = {"smallest discrepancy": smallest_discrepancy, "largest weight": largest_weight}


class MinimalAttack(NamedTuple):
    """What the search of the smallest perturbation is compiled from. settings: `SneakingOptions`. gain: of clipped steps. targeted: whether the class
    to reach is given.
    """

    norm: str
    settings: Any
    gain: float | None
    targeted: bool


class SneakingAttack(NamedTuple):
    """What the sneaking attack is compiled from. spec: `DiscrepancySpec`."""

    norm: str
    settings: Any
    gain: float | None
    spec: Any


class DiscrepancyCheck(NamedTuple):
    """What the discrepancies of attacked images are compiled from."""

    norm: str
    spec: Any


def ascent(norm: str, settings: Any, gain: float | None, eps: Scalar, x: Image, start: Image) -> Ascent:
    """How an objective is ascended within eps of x."""
    ball = find(BALLS, norm, "norm")(eps) if gain is None else ClippedLInf(eps, gain)
    step_sizes = step_rule(settings.step_sizes)(eps, settings.num_steps)
    attack = best_of_pgd if settings.best_iterate else last_of_pgd
    first = start if settings.warm_start else x
    return lambda objective: or_nan(attack(objective, ball=ball, x=x, step_sizes=step_sizes, start=first))


@functools.lru_cache
def minimal_check(network: Model, attack: MinimalAttack) -> Check:
    """Pmapped `((params, key data), images, labels, indices, targets) -> eps, found, target, x_adv, distance, inside`."""
    ball_of, settings, targeted = find(BALLS, attack.norm, "norm"), attack.settings, attack.targeted
    limit = ball_of.diameter(network.input_shape)

    def check(shared: tuple[Params, Array], images: Array, labels: Array, indices: Array, targets: Array) -> dict[str, Any]:
        params, key_data = shared
        key, explain = jax.random.wrap_key_data(jnp.asarray(key_data)), network.frozen(params)

        def one(x: Image, label: Label, index: Array, target: Label) -> dict[str, Any]:
            def gain(logits: Array) -> Scalar:
                """How far beyond the decision an image is; > 0 where the attack has succeeded."""
                return -margin_loss(logits, target) if targeted else margin_loss(logits, label)

            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                reached = gain(explain(x_adv).logits)
                return jnp.minimum(reached, KAPPA), reached

            def attacked(eps: Scalar) -> Image:
                start = ball_of(eps).random_point(jax.random.fold_in(key, index), x)
                return ascent(attack.norm, settings, attack.gain, eps, x, start)(objective).x_adv

            search = smallest_eps(
                attacked,
                lambda z: gain(network.explain(params, z).logits) > 0.0,
                start=settings.eps_start * limit,
                limit=limit,
                rounds=settings.eps_rounds,
            )
            reached = target if targeted else predicted_class(network.explain(params, search.x_adv).logits)
            found = {"eps": search.eps, "found": search.found, "target": reached, "x_adv": search.x_adv}
            return {**found, **perturbation(ball_of, x, AttackResult(search.x_adv, 0.0))}

        return jax.vmap(one)(to_unit(images), labels, indices, targets)

    return devices.pmap_full_precision(check)


@functools.lru_cache
def sneaking_check(network: Model, attack: SneakingAttack) -> Check:
    """Pmapped `((params,), images, labels, indices, targets, classes, eps, starts) -> x_adv, weight, found, distance, inside`."""
    ball_of, settings = find(BALLS, attack.norm, "norm"), attack.settings
    measure = attacked_discrepancy(attack.spec, settings.on_logit_scale, settings.ascended_norms)

    def check(
        shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, classes: Array, eps: Array, starts: Array
    ) -> dict[str, Any]:
        forward = frozen(shared[0])

        def one(x: Image, target: Label, classes: Array, eps: Scalar, start: Image) -> dict[str, Any]:
            explain = explain_classes(attack.spec.map, network, forward, classes)
            found = sneaking_attack(
                explain,
                x,
                target,
                lambda clean, moved: measure(clean.maps, moved.maps),
                ascent(attack.norm, settings, attack.gain, eps, x, start),
                rank=RANKS[settings.keep],
                start=settings.weight_start,
                limit=settings.weight_limit,
                rounds=settings.weight_rounds,
                kappa=KAPPA,
            )
            result = {"x_adv": found.x_adv, "weight": found.weight, "found": found.found}
            return {**result, **perturbation(ball_of, x, AttackResult(found.x_adv, 0.0))}

        return jax.vmap(one)(to_unit(images), targets, classes, eps, starts)

    return devices.pmap_full_precision(check)


def explain_classes(map_name: str, network: Model, forward: Any, classes: Array) -> Callable[[Image], Explanation]:
    """The maps of the classes that count; of a representation, all units."""
    row = find(EXPLAINERS, map_name, "map")
    return explainer(row, network, forward, classes if row.by_class else None)


def attacked_discrepancy(spec: Any, on_logit_scale: bool, ascended_norms: tuple[tuple[str, str], ...]) -> Callable[[Maps, Maps], Scalar]:
    """`(clean maps, attacked maps) -> D`: a mean over classes; over the units of a representation a sum."""
    by_class = find(EXPLAINERS, spec.map, "map").by_class
    norm = find(NORMS, dict(ascended_norms).get(spec.norm, spec.norm), "norm of maps")

    def measure(clean: Maps, moved: Maps) -> Scalar:
        count = clean.shape[-1]
        weights = all_class(count) * (1 if by_class else count)
        if on_logit_scale and spec.map in READOUTS:
            clean, moved = scale_to_logits(clean), scale_to_logits(moved)
        return discrepancy(clean, moved, weights, norm=norm)

    return measure


@functools.lru_cache
def discrepancy_check(network: Model, of: DiscrepancyCheck) -> Check:
    """Pmapped `((params,), images, labels, indices, targets, classes, attacked) -> valid, eps, raw, normalized, tau, pearson`.

    valid: the target outranks the label on x' and does not on x. eps: the distance. raw: on raw maps, squared for l2, as the authors plot.
    """
    ball_of, norm = find(BALLS, of.norm, "norm"), find(NORMS, of.spec.norm, "norm of maps")
    raw = attacked_discrepancy(of.spec, on_logit_scale=False, ascended_norms=(("l2", "squared_l2"),))

    def check(
        shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, classes: Array, attacked: Array
    ) -> dict[str, Any]:
        forward = differentiable(shared[0])

        def one(x: Image, label: Label, target: Label, classes: Array, x_adv: Image) -> dict[str, Any]:
            clean, moved = (explain_classes(of.spec.map, network, forward, classes)(z) for z in (x, x_adv))

            def averaged(correlation: Callable[[Array, Array], Scalar]) -> Scalar:
                """The mean over maps that are not constant; NaN if all are."""
                by_map = jax.lax.map(lambda pair: correlation(*pair), (jnp.moveaxis(clean.maps, -1, 0), jnp.moveaxis(moved.maps, -1, 0)))
                return jnp.nanmean(jnp.where(jnp.isfinite(by_map), by_map, jnp.nan))

            def lead(logits: Array) -> Scalar:
                return pick(logits, target) - pick(logits, label)

            return {
                "valid": (lead(moved.logits) >= 0.0) & (lead(clean.logits) <= 0.0) & (target != label),
                "eps": ball_of.length(x_adv - x),
                "raw": raw(clean.maps, moved.maps),
                "normalized": discrepancy(clean.maps, moved.maps, normalized(all_class(clean.maps.shape[-1]), clean.maps), norm=norm),
                "tau": averaged(kendall_tau),
                "pearson": averaged(pearson),
            }

        return jax.vmap(one)(to_unit(images), labels, targets, classes, attacked)

    return devices.pmap_full_precision(check)
