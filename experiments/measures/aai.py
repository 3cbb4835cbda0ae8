"""Kendall's tau of the true class's map, clean and under the top-k attack against interpretation."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import protocols
from experiments.data import to_unit
from experiments.evaluator import exact, prediction
from experiments.measures.pgd import clean_check, refuse_escape
from experiments.measures.task import Measured, Task, mean
from experiments.protocols import Drawn
from irob import explainers
from irob.arrays import Array, Image, Label, Params, Scalar
from irob.attacks.balls import BALLS
from irob.attacks.interpretability import aai
from irob.attacks.pgd import best_of_pgd, last_of_pgd
from irob.discrepancy import kendall_tau
from irob.networks import CAMNetwork


class TopK(NamedTuple):
    """What a compiled attack is made of."""

    map: str
    norm: str
    k: int
    steps: int
    step_sizes: Callable[[Scalar, int], Array]
    best_iterate: bool
    keeps_prediction: bool


def measure(task: Task) -> Measured:
    """Tau at every eps over three sets of images: prediction unchanged, all, still correct; for each map."""
    drawn = task.drawn("aai")
    by_map = {name: of_map(task, drawn, name) for name in task.maps or ("cam",)}
    arrays = {key: value for measured in by_map.values() for key, value in measured.arrays.items()}
    return Measured([record for measured in by_map.values() for record in measured.records], arrays)


def of_map(task: Task, drawn: Drawn, name: str) -> Measured:
    """The same for one map."""
    evaluator, protocol = task.evaluator, task.protocol
    labels = evaluator.split.labels[drawn.indices]
    clean = evaluator.map("clean", clean_check(evaluator.network), (), drawn.indices)["predictions"]
    noise = () if drawn.noise is None else (drawn.noise(evaluator.network.input_shape),)
    top_k = TopK(name, task.norm, task.k, protocol.steps, protocol.step_sizes, protocol.best_iterate, protocol.keeps_prediction)
    check = attack_check(evaluator.network, top_k)
    tau, predictions = evaluator.map(f"tau of the clean {name}", still_check(evaluator.network, name), (), drawn.indices)["tau"], clean
    records, taus, taken_for = [], [], []
    for eps in task.eps:
        if eps > 0:
            for restart in range(protocol.restarts):
                key = jax.random.key_data(
                    jax.random.fold_in(jax.random.fold_in(jax.random.key(evaluator.seed), zlib.crc32(b"aai")), restart)
                )
                found = evaluator.map(
                    f"aai {name}, k {task.k}, restart {restart}, eps {eps:.9g}",
                    check,
                    (np.float32(eps), np.asarray(key)),
                    drawn.indices,
                    *noise,
                )
                refuse_escape(found["distance"], found["inside"], eps, task.norm)
                anew = restart == 0 and not protocol.nested
                better = (found["tau"] < tau) | anew
                tau, predictions = np.where(better, found["tau"], tau), np.where(better, found["predictions"], predictions)
        taus.append(tau)
        taken_for.append(predictions)
        sets = {"unchanged": (predictions == clean) & (clean >= 0), "all": np.full(len(labels), True), "correct": predictions == labels}
        records += [
            {"metric": "kendall_tau", "attack": "aai", "map": name, "over": over, "norm": task.norm, "eps": eps, "k": task.k}
            | {"steps": protocol.steps, "restarts": protocol.restarts, **mean(tau[members])}
            for over, members in sets.items()
        ]
    arrays = {"indices": drawn.indices, "labels": labels, "clean_predictions": clean, "eps": np.array(task.eps)}
    return Measured(records, {**arrays, f"{name}/taus": np.stack(taus), f"{name}/predictions": np.stack(taken_for)})


@functools.lru_cache
def still_check(network: CAMNetwork, name: str) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices) -> tau` of the true class's map with itself: 1, or NaN where it is constant or not finite."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        def one(x: Image, label: Label) -> Scalar:
            of_label = explainers.explainer(name, network, explainers.plain(shared[0]), jnp.asarray(label)[None])(x).maps
            return jnp.where(jnp.all(jnp.isfinite(of_label)), kendall_tau(of_label, of_label), jnp.nan)

        return {"tau": jax.vmap(one)(to_unit(images), labels)}

    return exact(check)


@functools.lru_cache
def attack_check(network: CAMNetwork, attack: TopK) -> Callable[..., Any]:
    """Pmapped `((params, eps, key data), images, labels, indices[, noise]) -> tau, predictions, distance, inside`."""
    climb = best_of_pgd if attack.best_iterate else last_of_pgd

    def check(
        shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array, noise: Array | None = None
    ) -> dict[str, Any]:
        params, eps, key_data = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        ball = BALLS[attack.norm](eps)
        step_sizes = attack.step_sizes(eps, attack.steps)

        def one(x: Image, label: Label, index: Array, noise: Image | None) -> dict[str, Any]:
            start = ball.random_point(jax.random.fold_in(key, index), x) if noise is None else jnp.clip(x + eps * noise, 0.0, 1.0)
            plain, inside_loop = (
                explainers.explainer(attack.map, network, form(params), jnp.asarray(label)[None])
                for form in (explainers.plain, explainers.for_attacks)
            )
            clean = plain(x)
            kept = jnp.argmax(clean.logits) if attack.keeps_prediction else None
            climb_x = functools.partial(climb, ball=ball, x=x, step_sizes=step_sizes, start=start)
            x_adv = aai(inside_loop, x, jnp.zeros_like(label), attack.k, climb_x, kept)  # the label's map is the only one
            attacked = plain(x_adv)
            return {
                "tau": kendall_tau(clean.maps, attacked.maps),
                "predictions": prediction(attacked.logits),
                "distance": protocols.length(x_adv - x, attack.norm),
                "inside": jnp.all((x_adv >= 0.0) & (x_adv <= 1.0)),
            }

        return jax.vmap(one, in_axes=(0, 0, 0, None if noise is None else 0))(to_unit(images), labels, indices, noise)

    return exact(check)
