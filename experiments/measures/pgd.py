"""Accuracy against eps under projected gradient ascent.

Random starts come from (seed, objective, restart, index of the example in its split), so an example's result depends neither on the batch it is in
nor on the devices.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import protocols
from experiments.cli import UserError
from experiments.data import to_unit
from experiments.evaluator import Evaluator, exact, prediction
from experiments.measures.task import Measured, Task
from experiments.protocols import Attack, Protocol
from irob.arrays import Array, Explain, Image, Label, Logits, Params, Scalar
from irob.attacks.balls import BALLS, Ball
from irob.attacks.pgd import best_of_pgd, pgd
from irob.losses import cross_entropy, margin, pick
from irob.metrics import robust_accuracy
from irob.networks import CAMNetwork


def plain_cross_entropy(logits: Logits, label: Label) -> Scalar:
    """`logsumexp f - f_t`, the textbook form, as the authors ascend it.

    In float32 its gradient `softmax(f) - one_hot(t)` loses the true class where f_t leads by 17 and vanishes where it leads by 104: on a confident
    network the attack stalls. `losses.cross_entropy` does not.
    """
    return jax.nn.logsumexp(logits) - pick(logits, label)


LOSSES = {"margin": margin, "cross_entropy": cross_entropy, "plain_cross_entropy": plain_cross_entropy}


class Outcome(NamedTuple):
    """Of one eps: what each example is taken for under the whole attack (-1: nothing), and whether that is right, `[n]`."""

    eps: float
    predictions: np.ndarray
    correct: np.ndarray


def measure(task: Task) -> Measured:
    """Accuracy at every eps, for every number of steps."""
    records: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    indices = task.drawn("pgd").indices
    labels = task.evaluator.split.labels[indices]
    for steps in task.steps or (task.protocol.steps,):
        protocol = task.protocol._replace(steps=steps)
        outcomes = list(ladder(task.evaluator, protocol, task.norm, task.eps, indices))
        records += [record(protocol, task.norm, outcome) for outcome in outcomes if outcome.eps or not records]
        arrays[f"predictions_{steps}_steps"] = np.stack([outcome.predictions for outcome in outcomes])
    return Measured(records, {"indices": indices, "labels": labels, "eps": np.array(task.eps), **arrays})


def ladder(evaluator: Evaluator, protocol: Protocol, norm: str, eps_values: tuple[float, ...], indices: np.ndarray) -> Iterator[Outcome]:
    """The outcome at each eps, ascending. Within one eps, later attacks see only the examples that have withstood so far."""
    labels = evaluator.split.labels[indices]
    clean = standing = evaluator.map("clean", clean_check(evaluator.network), (), indices)["predictions"]
    for eps in sorted(eps_values):
        if eps > 0:
            predictions = (standing if protocol.nested else clean).copy()
            for objective in protocol.objectives:
                for restart in range(protocol.restarts):
                    left = np.flatnonzero(predictions == labels)
                    if len(left):
                        predictions[left] = attack(evaluator, protocol, norm, objective, restart, eps, indices[left])
            standing = predictions
        yield Outcome(eps, standing, standing == labels)


def attack(
    evaluator: Evaluator, protocol: Protocol, norm: str, objective: str, restart: int, eps: float, indices: np.ndarray
) -> np.ndarray:
    """What examples are taken for under one restart of one objective, `[n]`."""
    check = attack_check(evaluator.network, protocol.attack(norm, objective))
    start_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(evaluator.seed), zlib.crc32(objective.encode())), restart)
    shared = (np.float32(eps), np.asarray(jax.random.key_data(start_key)))
    name = f"pgd {objective} {protocol.steps} steps, restart {restart}, eps {eps:.9g}"
    found = evaluator.map(name, check, shared, indices)
    refuse_overflow(found["distance"], eps, objective)
    refuse_escape(found["distance"], found["inside"], eps, norm)
    return found["predictions"]


def refuse_overflow(distance: np.ndarray, eps: Any, objective: str) -> None:
    """A `UserError` if an attack went nowhere because its objective has no gradient."""
    if not np.isfinite(distance).all():
        raise UserError(
            f"the {objective} has no finite gradient for {np.sum(~np.isfinite(distance))} images at eps {eps}: its logits overflow"
        )


def refuse_escape(distance: np.ndarray, inside: np.ndarray, eps: Any, norm: str) -> None:
    """An error of ours if an attack is not in its ball and the box."""
    if not (inside.all() and (distance <= eps * (1 + 1e-5) + 1e-6).all()):
        raise RuntimeError(
            f"the {norm} attack left its ball of eps {eps}: largest distance {distance.max()}, all in [0, 1]: {inside.all()}"
        )


@functools.lru_cache
def clean_check(network: CAMNetwork) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices) -> predictions`."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        (params,) = shared
        return {"predictions": jax.vmap(lambda x: prediction(network.explain(params, x).logits))(to_unit(images))}

    return exact(check)


@functools.lru_cache
def attack_check(network: CAMNetwork, attack: Attack) -> Callable[..., Any]:
    """Pmapped `((params, eps, key data), images, labels, indices) -> predictions, distance, inside`.

    What the attack returns is judged again by the plain form of the network.
    """

    def check(shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        params, eps, key_data = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        ball = BALLS[attack.norm](eps)
        explain = network.attack_form(params)
        step_sizes = attack.step_sizes(eps, attack.steps)

        def one(x: Image, label: Label, index: Array) -> dict[str, Any]:
            start = ball.random_point(jax.random.fold_in(key, index), x) if attack.random_start else x
            x_adv = attacked_image(explain, LOSSES[attack.objective], ball, x, label, step_sizes, start, attack.best_iterate)
            inside = jnp.all((x_adv >= 0.0) & (x_adv <= 1.0))
            distance = protocols.length(x_adv - x, attack.norm)
            return {"predictions": prediction(network.explain(params, x_adv).logits), "distance": distance, "inside": inside}

        return jax.vmap(one)(to_unit(images), labels, indices)

    return exact(check)


def attacked_image(
    explain: Explain,
    loss: Callable[..., Scalar],
    ball: Ball,
    x: Image,
    label: Label,
    step_sizes: Array,
    start: Image,
    best_iterate: bool,
) -> Image:
    """PGD on a loss of the logits: the last iterate, or the one with the largest margin."""
    if not best_iterate:
        return pgd(lambda x_adv: loss(explain(x_adv).logits, label), ball, x, step_sizes=step_sizes, start=start)

    def scored(x_adv: Image) -> tuple[Scalar, Scalar]:
        logits = explain(x_adv).logits
        return loss(logits, label), margin(logits, label)

    return best_of_pgd(scored, ball, x, step_sizes=step_sizes, start=start).x_adv


def record(protocol: Protocol, norm: str, outcome: Outcome) -> dict[str, Any]:
    """One line of the results."""
    accuracy = robust_accuracy(outcome.correct)
    shared = {"n": accuracy.n, "value": accuracy.value, "ci95": [accuracy.low, accuracy.high]}
    if outcome.eps == 0:
        return {"metric": "clean_accuracy", "eps": 0.0, **shared}
    return {
        "metric": "robust_accuracy",
        "attack": "pgd",
        "norm": norm,
        "eps": outcome.eps,
        "objectives": list(protocol.objectives),
        "steps": protocol.steps,
        "restarts": protocol.restarts,
        **shared,
    }
