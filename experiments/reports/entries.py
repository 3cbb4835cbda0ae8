"""Result files as a report sees them: which network, which data set, which protocol."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.configs import base
from experiments.reports import results
from experiments.reports.records import OUTCOMES, Record
from experiments.reports.results import Result
from experiments.runtime import storage
from experiments.runtime.errors import UserError, refuse


class Entry(NamedTuple):
    """One result file: the name of its network in the report, its content, and arrays per example."""

    label: str
    result: Result
    arrays: dict[str, np.ndarray]

    @property
    def dataset(self) -> str:
        """The name of its data set."""
        return self.result.dataset

    @property
    def images(self) -> str:
        """The name of its data set, and of the split where it is not test: results on other images are not compared."""
        return self.dataset if self.result.split == "test" else f"{self.dataset}, {self.result.split} split"

    @property
    def protocol(self) -> str:
        """The name of its protocol."""
        return self.result.protocol

    def of(self, measure: str) -> "Entry":
        """What it holds of one measure: its records, and its arrays without the name of the measure."""
        arrays = {key.removeprefix(f"{measure}/"): value for key, value in self.arrays.items() if key.startswith(f"{measure}/")}
        records = [record for record in self.result.records if record.measure == measure]
        return Entry(self.label, dataclasses.replace(self.result, records=records), arrays)

    def records(self, *metrics: str, **settings: Any) -> list[Record]:
        """The records of some metrics, or of all, with these settings."""
        return [record for record in self.result.records if (not metrics or record.metric in metrics) and record.has(**settings)]


def by_label(entries: Sequence[Entry]) -> list[Entry]:
    """Entries in the order of their names and protocols."""
    return sorted(entries, key=lambda entry: (entry.label, entry.protocol))


def read_entries(inputs: Sequence[str]) -> list[Entry]:
    """The results in files and directories, each network under a name of its own.

    Raises:
      UserError: for a file that is not a complete result, two results of the same measurement, or none at all.
    """
    files = [file for given in inputs for file in _result_files(pathlib.Path(given))]
    loaded = {pathlib.Path(os.path.realpath(file)): results.read_result(file) for file in files}
    refuse(
        not loaded, f"there are no result files in {', '.join(inputs) or 'nothing'}: give --inputs FILE.json or directories that hold some"
    )
    _refuse_duplicates(loaded)
    labels = _unique_labels(list(loaded.values()))
    return [Entry(labels[identity(result)], result, results.read_result_arrays(file, result)) for file, result in loaded.items()]


def _refuse_duplicates(loaded: dict[pathlib.Path, Result]) -> None:
    """Two files may hold the same clean accuracy, but not the same attack."""
    taken: dict[str, pathlib.Path] = {}
    for file, result in loaded.items():
        for record in result.records:
            if record.get("eps") != 0.0:
                settings = {key: value for key, value in record.settings.items() if key not in OUTCOMES}
                of_network = (identity(result), result.dataset, result.split, result.protocol, record.measure, record.metric, settings)
                first = taken.setdefault(json.dumps(of_network, sort_keys=True), file)
                if first != file:
                    raise UserError(
                        f"{first} and {file} both hold {record.measure} of the same network under the same protocol: give one of them"
                    )


def _result_files(given: pathlib.Path) -> list[pathlib.Path]:
    """A file, or the result files under a directory: every .json there that has a schema, or cannot be read."""
    if not given.is_dir():
        return [given]

    def is_result(file: pathlib.Path) -> bool:
        try:
            content = storage.read_json(file)
        except (ValueError, OSError):
            return True  # half written or unreadable: `results.read_result` will say so
        return isinstance(content, dict) and "schema" in content

    candidates = [
        file for file in sorted(given.rglob("*.json")) if not {"checkpoints"} & set(file.parts) and ".json.partial" not in str(file)
    ]
    return [file for file in candidates if is_result(file)]


def identity(result: Result) -> str:
    """What tells one row of a report from another: the checksums of the parameters, which of a checkpoint's, the seed of the attacks."""
    provenance = result.provenance
    checksums = (provenance.get("weights") or provenance.get("checkpoint") or {}).get("sha256", result.method)
    return json.dumps([checksums, provenance.get("parameters", "raw"), result.seed], sort_keys=True)


def _unique_labels(loaded: Sequence[Result]) -> dict[str, str]:
    """Identity -> method or file name; where several networks share one, with what tells them apart: fields of the config, the seed of the training,
    the workdir and step, then a number.
    """
    names = {identity(result): result for result in loaded}
    of_network = lambda key: json.loads(key)[:2]  # noqa: E731
    several = [key for key in names if sum(of_network(key) == of_network(other) for other in names) > 1]
    labels = {key: result.method for key, result in names.items()}
    for tells_apart in (_config_differences, _training_seeds):
        for label in set(labels.values()):
            sharing = {key: names[key] for key, other in labels.items() if other == label}
            labels |= {key: label + more for key, more in tells_apart(sharing).items()}
    labels = {key: label + (f", seed {names[key].seed}" if key in several else "") for key, label in labels.items()}
    for from_checkpoint in (True, False):
        shared = {label for label in labels.values() if list(labels.values()).count(label) > 1}
        for i, (key, label) in enumerate(labels.items()):
            if label in shared:
                checkpoint = names[key].provenance.get("checkpoint")
                workdir = f" ({pathlib.Path(checkpoint['workdir']).name} {checkpoint['step']})" if checkpoint else ""
                labels[key] = label + (workdir if from_checkpoint and workdir else f" #{i + 1}")
    return labels


MOST_DIFFERENCES = 3  # fields of a config in a label


def _config_differences(sharing: Mapping[str, Result]) -> dict[str, str]:
    """Identity -> the fields in which the configs of some networks differ, the seed excepted; nothing where these are too many."""
    configs = {key: base.flat(config) for key, result in sharing.items() if (config := result.provenance.get("config"))}
    fields = dict.fromkeys(field for config in configs.values() for field in config if base.decides(field) and field != "seed")
    differing = [field for field in fields if len({json.dumps(config.get(field)) for config in configs.values()}) > 1]
    if not 0 < len(differing) <= MOST_DIFFERENCES:
        return {}
    text = lambda value: json.dumps(value).replace('"', "")  # noqa: E731
    return {key: "".join(f", {field} {text(config.get(field))}" for field in differing) for key, config in configs.items()}


def _training_seeds(sharing: Mapping[str, Result]) -> dict[str, str]:
    """Identity -> the seed of the training, where these differ."""
    seeds = {key: config.get("seed") for key, result in sharing.items() if (config := result.provenance.get("config"))}
    return {key: f", seed {seed}" for key, seed in seeds.items()} if len(set(seeds.values())) > 1 else {}
