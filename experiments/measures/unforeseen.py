"""Accuracy under attacks that were not foreseen in training, each at every size, and UAR, which sums them up.

Random parts come from (seed, attack, index of the example in its split), and are the same at every size and for every objective.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import parallel
from experiments.cli import UserError
from experiments.data import to_unit
from experiments.evaluator import exact, prediction
from experiments.measures.pgd import LOSSES, clean_check
from experiments.measures.task import Measured, Task, mean, share
from experiments.protocols import Sizes, Unforeseen
from irob.arrays import Array, Image, Label, Params, PRNGKey, Scalar
from irob.attacks.pgd import best_of_pgd, last_of_pgd
from irob.attacks.unforeseen import UNFORESEEN
from irob.losses import margin
from irob.networks import CAMNetwork

SHOWN = 2  # examples whose pictures are kept


def measure(task: Task) -> Measured:
    """Accuracy at every size of every attack, and UAR where the sizes are calibrated: the sum of the accuracies over the sum of the ATAs."""
    evaluator, settings = task.evaluator, task.protocol.unforeseen
    drawn = task.drawn("unforeseen")
    labels = evaluator.split.labels[drawn.indices]
    targets = (labels + (0 if drawn.shifts is None else drawn.shifts)) % evaluator.network.num_classes
    clean = evaluator.map("clean", clean_check(evaluator.network), (), drawn.indices)["predictions"]
    records: list[dict[str, Any]] = [{"metric": "clean_accuracy", "attack": "none", "eps": 0.0, **share(clean == labels)}]
    arrays = {"indices": drawn.indices, "labels": labels, "clean_predictions": clean}
    arrays["shown/images"] = np.asarray(to_unit(evaluator.split.fetch(drawn.indices[:SHOWN])[0]))
    for attack in task.attacks or UNFORESEEN:
        sizes = settings.sizes(attack, task.dataset)
        if sizes is None:
            continue
        found = np.stack([predictions(task, attack, eps, drawn.indices, labels, targets, clean) for eps in sizes.eps])
        records += summary(found == labels, attack, sizes, settings)
        arrays |= {f"{attack}/eps": np.array(sizes.eps), f"{attack}/predictions": found}
        arrays |= {
            f"{attack}/{key}": value
            for key, value in pictures(task, attack, sizes.eps, drawn.indices[:SHOWN], labels[:SHOWN], targets[:SHOWN]).items()
        }
    return Measured(records, arrays)


def predictions(
    task: Task, attack: str, eps: float, indices: np.ndarray, labels: np.ndarray, targets: np.ndarray, clean: np.ndarray
) -> np.ndarray:
    """What examples are taken for under one attack, `[n]`. Later objectives see only those that have withstood so far, and none sees those that
    are taken for nothing as they are.
    """
    evaluator, settings = task.evaluator, task.protocol.unforeseen
    check = attack_check(evaluator.network, attack, settings)
    taken_for = np.where(clean < 0, -1, labels)
    for which, objective in enumerate(settings.objectives):
        left = np.flatnonzero(taken_for == labels)
        if len(left):
            shared = (np.float32(eps), np.asarray(jax.random.key_data(key_of(evaluator.seed, attack))), np.int32(which))
            name = f"{attack} {objective} {settings.steps} steps, eps {eps:.9g}"
            found = evaluator.map(name, check, shared, indices[left], targets[left].astype(np.int32))
            if not found["finite"].all():
                raise UserError(
                    f"the {objective} has no finite gradient for {np.sum(~found['finite'])} images under {attack} at eps {eps:g}"
                )
            if not found["inside"].all():
                raise RuntimeError(f"{attack} left the range of a pixel at eps {eps}")
            taken_for[left] = found["predictions"]
    return taken_for


def key_of(seed: int, attack: str) -> PRNGKey:
    """The key that those of all images are derived from."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(attack.encode()))


def attacked_image(
    network: CAMNetwork,
    params: Params,
    attack: str,
    settings: Unforeseen,
    x: Image,
    label: Label,
    target: Label,
    key: PRNGKey,
    eps: Scalar,
    which: Any,
) -> Image:
    """One attack on one image; `which` of the objectives is climbed."""
    explain = network.attack_form(params)
    variation = UNFORESEEN[attack].vary(key, x, eps)
    step_sizes = dict(settings.step_sizes).get(attack, UNFORESEEN[attack].step_sizes)
    climb = best_of_pgd if settings.best_iterate else last_of_pgd

    def scored(variable: Array) -> tuple[Scalar, Scalar]:
        logits = explain(variation.render(variable)).logits
        losses = jnp.stack([-LOSSES[o](logits, target) if settings.targeted else LOSSES[o](logits, label) for o in settings.objectives])
        return losses[which], margin(logits, label)

    found = climb(scored, variation.ball, variation.start, step_sizes=step_sizes(eps, settings.steps))
    return variation.render(found.x_adv)


@functools.lru_cache
def attack_check(network: CAMNetwork, attack: str, settings: Unforeseen) -> Callable[..., Any]:
    """Pmapped `((params, eps, key data, which objective), images, labels, indices, targets) -> predictions, finite, inside`."""

    def check(shared: tuple[Params, Array, Array, Array], images: Array, labels: Array, indices: Array, targets: Array) -> dict[str, Any]:
        params, eps, key_data, which = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))

        def one(x: Image, label: Label, index: Array, target: Label) -> dict[str, Any]:
            own = jax.random.fold_in(key, index)
            x_adv = attacked_image(network, params, attack, settings, x, label, target, own, eps, which)
            inside = jnp.all((x_adv >= 0.0) & (x_adv <= 1.0))
            finite = jnp.all(jnp.isfinite(x_adv))
            return {"predictions": prediction(network.explain(params, x_adv).logits), "finite": finite, "inside": inside}

        return jax.vmap(one)(to_unit(images), labels, indices, targets)

    return exact(check)


def summary(correct: np.ndarray, attack: str, sizes: Sizes, settings: Unforeseen) -> list[dict[str, Any]]:
    """Records of one attack from `correct [sizes, n]`."""
    about = {"attack": attack, "calibration": sizes.source}
    how = {"objectives": list(settings.objectives), "steps": settings.steps, "restarts": 1}
    records = []
    for i, eps in enumerate(sizes.eps):
        ata = {"ata": sizes.ata[i]} if sizes.ata else {}
        records.append({"metric": "robust_accuracy", **about, "eps": eps, **ata, **how, **share(correct[i])})
    if sizes.ata:
        records.append({"metric": "uar", **about, **how, **mean(correct.sum(axis=0) / sum(sizes.ata))})
    return records


def pictures(
    task: Task, attack: str, sizes: Sequence[float], indices: np.ndarray, labels: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Some images under the first objective at every size: shown `[sizes, images, H, W, c]`, and what each is taken for."""
    evaluator = task.evaluator
    images = to_unit(evaluator.split.fetch(indices)[0])
    draw = drawing(evaluator.network, attack, task.protocol.unforeseen)
    with jax.default_matmul_precision("highest"):
        keys = jax.vmap(lambda index: jax.random.fold_in(key_of(evaluator.seed, attack), index))(indices.astype(np.int32))
        shown, taken_for = draw(parallel.first(evaluator.params), images, labels, targets, keys, np.array(sizes, np.float32))
    return {"shown": np.asarray(shown), "shown_predictions": np.asarray(taken_for)}


@functools.lru_cache
def drawing(network: CAMNetwork, attack: str, settings: Unforeseen) -> Callable[..., Any]:
    """`(params, images [n, ...], labels, targets, keys, eps [k]) -> attacked [k, n, ...], predictions [k, n]`, one size at a time."""

    def draw(params: Params, images: Array, labels: Array, targets: Array, keys: Array, sizes: Array) -> tuple[Array, Array]:
        def of_size(eps: Scalar) -> tuple[Array, Array]:
            def one(x: Image, label: Label, target: Label, key: PRNGKey) -> tuple[Image, Array]:
                x_adv = attacked_image(network, params, attack, settings, x, label, target, key, eps, 0)
                return x_adv, prediction(network.explain(params, x_adv).logits)

            return jax.vmap(one)(images, labels, targets, keys)

        return jax.lax.map(of_size, sizes)

    return jax.jit(draw)
