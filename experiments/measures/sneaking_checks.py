"""The compiled checks of the sneaking measures: the smallest perturbation, the sneaking attack, and what is seen of an image under either."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import protocols
from experiments.data import to_unit
from experiments.evaluator import exact, prediction
from experiments.protocols import Sneaking
from irob import explainers
from irob.arrays import Array, Explanation, Image, Label, Maps, Params, Scalar
from irob.attacks.balls import BALLS
from irob.attacks.interpretability import Climb, isa
from irob.attacks.minimal import smallest_eps
from irob.discrepancy import all_class, discrepancy, kendall_tau, normalised, one_class, pearson, proposition_1_gap
from irob.losses import margin, pick
from irob.maps import READOUTS, complete
from irob.networks import CAMNetwork

KAPPA = 0.1  # logits beyond the decision that suffice (the authors')


@functools.lru_cache
def minimal_check(network: CAMNetwork, settings: Sneaking, norm: str, n: int, targeted: bool) -> Callable[..., Any]:
    """Pmapped `((params, key data), images, labels, indices, targets) -> eps, found, target, x_adv, distance, inside`."""
    limit = protocols.widest(norm, network.input_shape)

    def check(shared: tuple[Params, Array], images: Array, labels: Array, indices: Array, targets: Array) -> dict[str, Any]:
        params, key_data = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        explain = network.attack_form(params)

        def one(x: Image, label: Label, index: Array, target: Label) -> dict[str, Any]:
            def gain(logits: Array) -> Scalar:
                """How far an image has come, > 0 when it has arrived."""
                return -margin(logits, target) if targeted else margin(logits, label)

            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                come = gain(explain(x_adv).logits)
                return jnp.minimum(come, KAPPA), come

            def attack(eps: Scalar) -> Image:
                start = BALLS[norm](eps).random_point(jax.random.fold_in(key, index), x)
                return settings.climb(norm, eps, x, start, n)(objective).x_adv

            search = smallest_eps(
                attack,
                lambda z: gain(network.explain(params, z).logits) > 0.0,
                start=settings.eps * limit,
                limit=limit,
                rounds=settings.eps_rounds,
            )
            return {
                "eps": search.eps,
                "found": search.found,
                "target": target if targeted else prediction(network.explain(params, search.x_adv).logits),
                "x_adv": search.x_adv,
                "distance": protocols.length(search.x_adv - x, norm),
                "inside": jnp.all((search.x_adv >= 0.0) & (search.x_adv <= 1.0)),
            }

        return jax.vmap(one)(to_unit(images), labels, indices, targets)

    return exact(check)


@functools.lru_cache
def sneaking_check(network: CAMNetwork, settings: Sneaking, map_name: str, map_norm: str, norm: str, n: int) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices, targets, classes, eps, starts) -> x_adv, weight, found, distance, inside`."""

    def check(
        shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, classes: Array, eps: Array, starts: Array
    ) -> dict[str, Any]:
        form = explainers.for_attacks(shared[0])

        def one(x: Image, target: Label, classes: Array, eps: Scalar, start: Image) -> dict[str, Any]:
            explain = explainers.explainer(map_name, network, form, chosen(map_name, classes))

            def measure(clean: Explanation, attacked: Explanation) -> Scalar:
                return raw_discrepancy(map_name, map_norm, clean.maps, attacked.maps, settings)

            climb: Climb = settings.climb(norm, eps, x, start, n)
            found = isa(
                explain,
                x,
                target,
                measure,
                climb,
                rank=settings.rank,
                start=settings.weight,
                limit=settings.limit,
                rounds=settings.rounds,
                kappa=KAPPA,
            )
            return {
                "x_adv": found.x_adv,
                "weight": found.weight,
                "found": found.found,
                "distance": protocols.length(found.x_adv - x, norm),
                "inside": jnp.all((found.x_adv >= 0.0) & (found.x_adv <= 1.0)),
            }

        return jax.vmap(one)(to_unit(images), targets, classes, eps, starts)

    return exact(check)


def chosen(map_name: str, classes: Array) -> Array | None:
    """The classes whose maps count; of a representation, all units."""
    return None if map_name == "representation" else classes


def raw_discrepancy(map_name: str, map_norm: str, clean: Maps, attacked: Maps, settings: Sneaking) -> Scalar:
    """The D that an attack reduces; over the units of a representation a sum, over classes a mean."""
    count = clean.shape[-1]
    weights = all_class(count) * (count if map_name == "representation" else 1)
    if settings.complete and map_name in READOUTS:
        clean, attacked = complete(clean), complete(attacked)
    return discrepancy(clean, attacked, weights, norm=dict(settings.norms)[map_norm])


@functools.lru_cache
def look_check(network: CAMNetwork, map_name: str, map_norm: str, norm: str) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices, targets, classes, attacked) -> valid, eps, raw, normalised, tau, pearson`.

    valid: the target outranks the label on x' and does not on x. eps: the distance. raw: on raw maps, squared for l2, as the authors plot.
    """

    def check(
        shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, classes: Array, attacked: Array
    ) -> dict[str, Any]:
        form = explainers.plain(shared[0])

        def one(x: Image, label: Label, target: Label, classes: Array, x_adv: Image) -> dict[str, Any]:
            clean, moved = (explainers.explainer(map_name, network, form, chosen(map_name, classes))(z) for z in (x, x_adv))

            def averaged(correlation: Callable[[Array, Array], Scalar]) -> Scalar:
                """The mean over maps that are not constant; NaN if all are."""
                by_map = jax.lax.map(lambda pair: correlation(*pair), (jnp.moveaxis(clean.maps, -1, 0), jnp.moveaxis(moved.maps, -1, 0)))
                return jnp.nanmean(jnp.where(jnp.isfinite(by_map), by_map, jnp.nan))

            def ahead(logits: Array) -> Scalar:
                return pick(logits, target) - pick(logits, label)

            return {
                "valid": (ahead(moved.logits) >= 0.0) & (ahead(clean.logits) <= 0.0) & (target != label),
                "eps": protocols.length(x_adv - x, norm),
                "raw": raw_discrepancy(map_name, map_norm, clean.maps, moved.maps, protocols.PROTOCOLS["paper"].sneaking),
                "normalised": discrepancy(clean.maps, moved.maps, normalised(all_class(clean.maps.shape[-1]), clean.maps), norm=map_norm),
                "tau": averaged(kendall_tau),
                "pearson": averaged(pearson),
            }

        return jax.vmap(one)(to_unit(images), labels, targets, classes, attacked)

    return exact(check)


@functools.lru_cache
def bound_check(network: CAMNetwork) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices, targets, attacked) -> margin, two_class, one_class, tau, predictions, largest_logit`."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, attacked: Array) -> dict[str, Any]:
        def one(x: Image, label: Label, target: Label, x_adv: Image) -> dict[str, Any]:
            clean, moved = network.explain(shared[0], x), network.explain(shared[0], x_adv)
            sides = proposition_1_gap(clean, moved, label, target)
            alone = discrepancy(complete(clean.maps), complete(moved.maps), one_class(label, network.num_classes))
            return {
                "margin": sides.margin,
                "two_class": sides.discrepancy,
                "one_class": alone,
                "tau_label": kendall_tau(pick(clean.maps, label), pick(moved.maps, label)),
                "tau_target": kendall_tau(pick(clean.maps, target), pick(moved.maps, target)),
                "predictions": prediction(moved.logits),
                "largest_logit": jnp.maximum(jnp.max(jnp.abs(clean.logits)), jnp.max(jnp.abs(moved.logits))),
            }

        return jax.vmap(one)(to_unit(images), labels, targets, attacked)

    return exact(check)
