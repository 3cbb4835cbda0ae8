"""How far two networks look at the same positions: the share of the top k positions of the true class's map that they have in common."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.data import to_unit
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.maps import MAPS, check_k, check_maps
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports.entries import Entry
from experiments.reports.records import mean_record
from experiments.reports.tables import Table, table_of_columns
from experiments.runtime import devices
from experiments.runtime.checkpoints import fingerprint
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.flags import place
from experiments.runtime.models import EvaluatedModel, from_path
from experiments.runtime.names import find
from experiments.runtime.values import integer, nonempty_text, optional
from irob.maps import EXPLAINERS, differentiable, explainer, shape_of_maps
from irob.paper import PaperDraw
from irob.similarities import top_k_overlap
from irob.types import Array, Image, Label, Model, Params


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """Which maps of which two networks are compared."""

    map: tuple[str, ...] = option(("cam",), MAPS, "maps that are compared", in_name=True)
    k: int = option(8, integer(1, limit=10**6), "number of most salient positions of a map")
    versus: str | None = option(None, optional(nonempty_text()), "a second network: a workdir or a file of weights")


class Pair(NamedTuple):
    """What a compiled comparison is made of."""

    map: str
    k: int
    other: Model


def other_model(evaluation: Evaluation, options: Options) -> EvaluatedModel:
    """The second network, from its workdir or file."""
    if options.versus is None:
        raise UserError("the measure topk_overlap compares two networks: give --versus WORKDIR or --versus FILE.pkl")
    return _read_once(place(options.versus, "versus"), evaluation.dataset)


_read_once = functools.lru_cache(from_path)  # what was checked is what is measured, though another checkpoint is written meanwhile


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses maps that cannot be compared position by position, and k beyond them."""
    check_maps(evaluation, options.map)
    check_k(evaluation, options.map, options.k)
    check_comparable(evaluation.model, other_model(evaluation, options), str(options.versus))


def check_comparable(model: EvaluatedModel, other: EvaluatedModel, name: str) -> None:
    """A `UserError` if the maps of two networks cannot be compared position by position."""
    ours, theirs = (
        (each.network.input_shape, each.network.num_classes, shape_of_maps("cam", each.network, each.params)[:2]) for each in (model, other)
    )
    refuse(
        ours != theirs,
        f"--versus {name}: its maps cannot be compared, being of images {theirs[0]}, {theirs[1]} classes and {theirs[2]} positions, not"
        f" {ours[0]}, {ours[1]} and {ours[2]}",
    )


def run(evaluation: Evaluation, options: Options) -> Measured:
    """The mean overlap with the other network's maps."""
    other, indices = other_model(evaluation, options), evaluation.indices(options.images)
    records, arrays = [], {"indices": indices, "labels": evaluation.split.labels[indices]}
    for name in options.map:
        pair, label = Pair(name, options.k, other.network), f"overlap of {name}, k {options.k}"
        arrays[name] = evaluation.map_examples(label, overlap_check, pair, (other.params,), indices)["overlap"]
        compared = {"with": other.name, "with_sha256": fingerprint(other.params)[:12]}
        records.append(mean_record("topk_overlap", arrays[name], map=name, **compared, k=options.k))
    return Measured(records, arrays)


@functools.lru_cache
def overlap_check(network: Model, pair: Pair) -> Check:
    """Pmapped `((params, other params), images, labels, indices) -> overlap`."""
    row = find(EXPLAINERS, pair.map, "map")

    def check(shared: tuple[Params, Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        def one(x: Image, label: Label) -> Array:
            ours, theirs = (
                explainer(row, net, differentiable(params), jnp.asarray(label)[None])(x).maps
                for net, params in zip((network, pair.other), shared, strict=True)
            )
            return top_k_overlap(ours, theirs, pair.k)[0]

        return {"overlap": jax.vmap(one)(to_unit(images), labels)}

    return devices.pmap_full_precision(check)


COLUMNS = (("with", "with"), ("map", "map"), ("k", "k"), *VALUE)


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """A row per network and map."""
    table = table_of_columns("topk_overlap", title, COLUMNS, entries)
    note = "Mean over images, for the true class's map. No attack is involved, so the protocols differ in their images alone."
    return [table._replace(notes=[note])]


MEASURE = Measure(
    title="Share of the k most salient positions in common with another network",
    presets={"standard": Options(), "paper": Options(images=PaperDraw(99, 0, 200))},
    run=run,
    columns=COLUMNS,
    check=check,
    tables=tables,
    reads=(),
)
