"""Result files as a report sees them: which network, which data set, which protocol."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import results, tables
from experiments.cli import UserError


class Entry(NamedTuple):
    """One result file: the network's name in the report, its data set, protocol, content, and arrays by example."""

    label: str
    dataset: str
    protocol: str
    result: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def records(self, *metrics: str, attack: str | None = None) -> list[dict[str, Any]]:
        """Its records of some metrics, and of one attack if given."""
        return [r for r in self.result["records"] if r["metric"] in metrics and attack in (None, r.get("attack"))]

    def measured(self, measure: str) -> dict[str, np.ndarray]:
        """The arrays of one measure, without its prefix."""
        return {key.removeprefix(f"{measure}/"): value for key, value in self.arrays.items() if key.startswith(f"{measure}/")}


def read(inputs: Sequence[str]) -> list[Entry]:
    """The results in files and directories, each network under a name of its own.

    Raises:
      UserError: for a file that is no whole result, two results of the same measurement, or none at all.
    """
    files = [file for given in inputs for file in found(pathlib.Path(given))]
    loaded = {file.resolve(): results.read(file) for file in files}
    if not loaded:
        raise UserError(
            f"there are no result files in {', '.join(inputs) or 'nothing'}: give --inputs FILE.json or directories that hold some"
        )
    labels = unique_labels(list(loaded.values()))
    taken: dict[tuple[Any, ...], pathlib.Path] = {}
    for file, result in loaded.items():
        for measure, map_name in measured_in(result):
            key = (identity(result), result["dataset"], result["protocol"]["name"], measure, map_name)
            if key in taken:
                raise UserError(
                    f"{taken[key]} and {file} both hold {measure} of the same network under the same protocol: give one of them"
                )
            taken[key] = file
    return [
        Entry(labels[identity(result)], result["dataset"], result["protocol"]["name"], result, results.read_arrays(file, result))
        for file, result in loaded.items()
    ]


def measured_in(result: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(measure, map or unforeseen attack) of everything that a result holds; None where a measure has neither."""
    key = {"unforeseen": "attack"}
    found = {(measure, r.get(key.get(measure, "map"))): None for measure in result["measures"] for r in tables.records_of(result, measure)}
    return [pair for pair in found if pair != ("unforeseen", "none")]


def found(given: pathlib.Path) -> list[pathlib.Path]:
    """A file, or the result files under a directory: every .json there that has a schema, or cannot be read."""
    if not given.is_dir():
        return [given]

    def is_result(file: pathlib.Path) -> bool:
        try:
            content = json.loads(file.read_text())
        except (ValueError, OSError):
            return True  # half written or not to be read: `results.read` will say so
        return isinstance(content, dict) and "schema" in content

    candidates = [
        file for file in sorted(given.rglob("*.json")) if not {"checkpoints"} & set(file.parts) and ".json.partial" not in str(file)
    ]
    return [file for file in candidates if is_result(file)]


def identity(result: dict[str, Any]) -> str:
    """What tells one network from another: the checksums of its parameters."""
    return json.dumps(result["weights"]["sha256"] if "weights" in result else result["checkpoint"]["sha256"], sort_keys=True)


def unique_labels(loaded: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Identity -> method or file name; where two networks share one, with the workdir and step, then with a number."""
    names = {identity(result): result for result in loaded}
    labels = {key: str(result["method"]) for key, result in names.items()}
    for again in (lambda result: f" ({pathlib.Path(result['checkpoint']['workdir']).name} {result['checkpoint']['step']})", None):
        shared = {label for label in labels.values() if list(labels.values()).count(label) > 1}
        for i, (key, label) in enumerate(labels.items()):
            if label in shared:
                result = names[key]
                labels[key] = label + (again(result) if again and "checkpoint" in result else f" #{i + 1}")
    return labels
