"""How far two networks look at the same places: the share of the top k positions of the true class's map that they have in common."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from experiments.checkpoints import fingerprint
from experiments.cli import UserError
from experiments.data import to_unit
from experiments.evaluator import exact
from experiments.measures.task import Measured, Task, mean
from irob.arrays import Array, Image, Label, Params
from irob.discrepancy import top_k_overlap
from irob.losses import pick
from irob.networks import CAMNetwork


def measure(task: Task) -> Measured:
    """The mean overlap with another network's maps."""
    if task.other is None:
        raise UserError("the measure topk_overlap compares with another network: give --versus WORKDIR or --versus FILE.pkl")
    name, other, other_params = task.other
    if (other.input_shape, other.num_classes) != (task.evaluator.network.input_shape, task.evaluator.network.num_classes):
        raise UserError(
            f"--versus {name}: a network for images {other.input_shape} and {other.num_classes} classes cannot be compared with this one"
        )
    indices = task.drawn("topk_overlap").indices
    check = overlap_check(task.evaluator.network, other, task.k)
    overlap = task.evaluator.map(f"overlap k {task.k} with {fingerprint(other_params)}", check, (other_params,), indices)["overlap"]
    record = {"metric": "topk_overlap", "map": "cam", "with": name, "k": task.k, **mean(overlap)}
    return Measured([record], {"indices": indices, "labels": task.evaluator.split.labels[indices], "overlap": overlap})


@functools.lru_cache
def overlap_check(network: CAMNetwork, other: CAMNetwork, k: int) -> Callable[..., Any]:
    """Pmapped `((params, other params), images, labels, indices) -> overlap`."""

    def check(shared: tuple[Params, Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        def one(x: Image, label: Label) -> Array:
            ours, theirs = (net.explain(params, x).maps for net, params in zip((network, other), shared, strict=True))
            if ours.shape != theirs.shape:
                raise UserError(
                    f"the maps of the two networks differ in size, {ours.shape[:2]} and {theirs.shape[:2]}: their places cannot be compared"
                )
            return pick(top_k_overlap(ours, theirs, k), label)

        return {"overlap": jax.vmap(one)(to_unit(images), labels)}

    return exact(check)
