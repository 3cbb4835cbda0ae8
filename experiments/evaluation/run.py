"""Runs measures on a model, and makes a result of them."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation import examples, options
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.measure import Measure
from experiments.evaluation.measures import find_measure
from experiments.evaluation.presets import PROTOCOLS, options_of
from experiments.reports.records import Record, hidden_gradients
from experiments.reports.results import MeasureInfo, Result
from experiments.runtime import devices, provenance
from experiments.runtime.errors import refuse, warn
from experiments.runtime.names import find
from experiments.runtime.process import drop_old_programs


class Chosen(NamedTuple):
    """A measure with its options."""

    measure: Measure
    options: Any


def choose_measures(
    names: tuple[str, ...],
    protocol: str = "standard",
    given: Mapping[str, str] | None = None,
    num_examples: int | None = None,
    labels: np.ndarray | None = None,
    classes: tuple[int, ...] = (),
) -> dict[str, Chosen]:
    """Measures with their options, by name.

    Args:
      names: of measures, or `package.module:attribute`.
      protocol: a key of `PROTOCOLS`, or `package.module:attribute`.
      given: flag -> text, instead of the preset's values.
      num_examples: only so many of the first images.
      labels: of the test split, for `num_examples` and `classes`.
      classes: only images of these.

    Raises:
      UserError: for unknown names, and options that none of the measures has or that are not valid.
    """
    measures = {name: find_measure(name) for name in names}
    presets = {name: options_of(protocol, name, measure.presets) for name, measure in measures.items()}
    options.refuse_unused(tuple(given or ()), presets)
    chosen = {}
    for name, measure in measures.items():
        own = options.with_flags(presets[name], given or {})
        if labels is not None:
            own = dataclasses.replace(own, images=examples.choose_images(own.images, num_examples, labels, classes))
        chosen[name] = Chosen(measure, own)
    return chosen


def check_measures(evaluation: Evaluation, chosen: Mapping[str, Chosen], protocol: str) -> None:
    """Everything that can be refused before anything is measured."""
    norms = find(PROTOCOLS, protocol, "protocol").norms
    refuse(
        bool(norms) and evaluation.norm not in norms,
        f"the {protocol} protocol measures perturbations in {', '.join(norms)}, not in {evaluation.norm}: use --protocol standard",
    )
    for measure, own in chosen.values():
        measure.check(evaluation, own)


def run_measures(evaluation: Evaluation, chosen: Mapping[str, Chosen], protocol: str = "standard") -> tuple[Result, dict[str, np.ndarray]]:
    """Measures a model: the result, and arrays per example.

    Args:
      evaluation: the model with its test split.
      chosen: from `choose_measures`.
      protocol: for the record.
    """
    drop_old_programs()
    started, revision = time.monotonic(), provenance.git_revision()  # of the code that runs, whatever becomes of the checkout meanwhile
    check_measures(evaluation, chosen, protocol)
    records: list[Record] = []
    arrays: dict[str, np.ndarray] = {}
    measures: dict[str, MeasureInfo] = {}
    for name, (measure, own) in chosen.items():
        measured = measure.run(evaluation.sized_for(len(evaluation.indices(own.images))), own)
        records += [dataclasses.replace(record, measure=name) for record in measured.records]
        arrays |= {f"{name}/{key}": value for key, value in measured.arrays.items()}
        measures[name] = MeasureInfo(len(measured.arrays["indices"]), measure.describe(own), options.settings(own))
    for record in records:
        if record.get("without_gradient", 0) and devices.is_first_process():
            warn(f"{record.measure}, eps {record.get('eps', 0.0):g}: {hidden_gradients(record)}")
    model = evaluation.model
    made = {
        **model.provenance,
        "norm": evaluation.norm,
        "eps": list(evaluation.eps),
        "versions": provenance.versions(),
        "git_revision": revision,
        "command": provenance.command(),
        "device": devices.describe_devices(),
        "processes": devices.num_processes(),
        "seconds": round(time.monotonic() - started, 1),
    }
    result = Result(model.name, model.dataset, protocol, model.seed, measures, records, evaluation.split.source, made)
    return result, arrays
