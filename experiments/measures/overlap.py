"""How far two networks look at the same places: the share of the top k positions of the true class's map that they have in common."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.checkpoints import fingerprint
from experiments.cli import UserError
from experiments.data import to_unit
from experiments.evaluator import exact
from experiments.measures.task import Measured, Task, mean
from irob import explainers
from irob.arrays import Array, Image, Label, Params
from irob.discrepancy import top_k_overlap
from irob.networks import CAMNetwork


def measure(task: Task) -> Measured:
    """The mean overlap with another network's maps."""
    if task.other is None:
        raise UserError("the measure topk_overlap compares with another network: give --versus WORKDIR or --versus FILE.pkl")
    name, other, other_params = task.other
    refuse_strangers(task.evaluator.network, other, name)
    indices = task.drawn("topk_overlap").indices
    records, arrays = [], {"indices": indices, "labels": task.evaluator.split.labels[indices]}
    for of in task.maps or ("cam",):
        check = overlap_check(task.evaluator.network, other, of, task.k)
        kept_as = f"overlap of {of}, k {task.k} with {fingerprint(other_params)}"
        arrays[of] = task.evaluator.map(kept_as, check, (other_params,), indices)["overlap"]
        records.append({"metric": "topk_overlap", "map": of, "with": name, "k": task.k, **mean(arrays[of])})
    return Measured(records, arrays)


def refuse_strangers(network: CAMNetwork, other: CAMNetwork, name: str) -> None:
    """A `UserError` if the maps of two networks cannot be compared place by place."""
    ours, theirs = ((net.input_shape, net.num_classes, net.features_shape()[:2]) for net in (network, other))
    if ours != theirs:
        raise UserError(
            f"--versus {name}: its maps cannot be compared, being of images {theirs[0]}, {theirs[1]} classes and {theirs[2]} places, not"
            f" {ours[0]}, {ours[1]} and {ours[2]}"
        )


@functools.lru_cache
def overlap_check(network: CAMNetwork, other: CAMNetwork, name: str, k: int) -> Callable[..., Any]:
    """Pmapped `((params, other params), images, labels, indices) -> overlap`."""

    def check(shared: tuple[Params, Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        def one(x: Image, label: Label) -> Array:
            ours, theirs = (
                explainers.explainer(name, net, explainers.plain(params), jnp.asarray(label)[None])(x).maps
                for net, params in zip((network, other), shared, strict=True)
            )
            return top_k_overlap(ours, theirs, k)[0]

        return {"overlap": jax.vmap(one)(to_unit(images), labels)}

    return exact(check)
