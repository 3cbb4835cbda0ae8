"""The seeds of one training as one row of a report: mean, lowest and highest."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reports.entries import Entry
from experiments.reports.records import OUTCOMES, Record

SEVERAL = "Of several seeds: the mean, and in brackets the lowest and the highest seed."  # a note below tables


def over_seeds(entries: Sequence[Entry]) -> list[Entry]:
    """Entries in which those of several seeds, measured alike, are one: records are means with the range in the place of the interval, arrays are
    those of the first seed.
    """
    groups: dict[str, list[Entry]] = {}
    for i, entry in enumerate(entries):
        how = [(name, info.n, info.settings) for name, info in entry.result.measures.items()]
        made = entry.result.provenance
        alike = [entry.images, entry.protocol, how, made.get("eps"), made.get("norm"), i if entry.training is None else entry.training]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(entry)
    return [entry for group in groups.values() for entry in ([_together(group)] if _several(group) else group)]


def _several(group: Sequence[Entry]) -> bool:
    """Whether these are several seeds, each of them once."""
    seeds = [entry.result.provenance["config"]["seed"] for entry in group if entry.training is not None]
    return 1 < len(seeds) == len(set(seeds))


def name_of_seeds(training: str, count: int) -> str:
    """What several seeds of a training are called together."""
    return f"{training} ({count} seeds)"


def _together(group: Sequence[Entry]) -> Entry:
    group = sorted(group, key=lambda entry: entry.result.provenance["config"]["seed"])
    first, count = group[0], len(group)
    same: dict[str, list[Record]] = {}
    for entry in group:
        for record in entry.records():
            same.setdefault(json.dumps(identifying(record), sort_keys=True), []).append(record)
    made = [entry.result.provenance for entry in group]
    seconds = [each["seconds"] for each in made if each["seconds"] is not None]
    provenance = {**made[0], "seeds": [each["config"]["seed"] for each in made], "seconds": sum(seconds) if seconds else None}
    records = [mean_over_seeds(records) for records in same.values()]
    result = dataclasses.replace(first.result, records=records, provenance=provenance)
    assert first.training is not None
    return Entry(name_of_seeds(first.training, count), result, first.arrays)


def identifying(record: Record) -> dict[str, Any]:
    """What records of several seeds have in common."""
    kept = {key: value for key, value in record.settings.items() if key not in OUTCOMES and not key.endswith("sha256")}
    return {"measure": record.measure, "metric": record.metric, **kept}


def mean_over_seeds(records: Sequence[Record]) -> Record:
    """The mean of records of several seeds; the lowest and the highest stand in the place of its interval, `seeds` says how many have a value."""
    first, values = records[0], [record.value for record in records if record.value is not None]
    settings = {**first.settings, **_mean_outcomes([record.settings for record in records]), "seeds": len(values)}
    n = min(record.n for record in records)
    if not values:
        return dataclasses.replace(first, n=n, settings=settings)
    span = (min(values), max(values)) if len(values) > 1 else None
    return dataclasses.replace(first, n=n, value=float(np.mean(values)), ci95=span, settings=settings)


def _mean_outcomes(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of what was measured beside a value, where it is a number of every seed."""
    found = {}
    for key in OUTCOMES:
        values = [each[key] for each in settings if isinstance(each.get(key), int | float)]
        if len(values) == len(settings):
            found[key] = max(values) if key == "without_gradient" else float(np.mean(values))
    return found
