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
from experiments.runtime.checkpoints import json_digest
from experiments.runtime.errors import UserError, refuse


class Entry(NamedTuple):
    """One result file: the name of its network in the report, its content, arrays per example, and the name of its training without the seed."""

    label: str
    result: Result
    arrays: dict[str, np.ndarray]
    training: str | None = None

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
    names = _unique_names(list(loaded.values()))
    return [
        Entry(names[identity(result)].label, result, results.read_result_arrays(file, result), names[identity(result)].training)
        for file, result in loaded.items()
    ]


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
    """What tells one row of a report from another: the checksums of the parameters, which of a checkpoint's, the config, the seed of the attacks."""
    provenance = result.provenance
    checksums = (provenance.get("weights") or provenance.get("checkpoint") or {}).get("sha256", result.method)
    return json.dumps([checksums, provenance.get("parameters", "raw"), config_of(result), result.seed], sort_keys=True)


def config_of(result: Result) -> dict[str, Any] | None:
    """The fields of its config that decide a training, flat; None of a network that has none."""
    config = result.provenance.get("config")
    return {field: value for field, value in base.flat(config).items() if base.decides(field)} if isinstance(config, dict) else None


class Names(NamedTuple):
    """label: of a network. training: what the seeds of its training are called together; None where there are no seeds."""

    label: str
    training: str | None


MOST_DIFFERENCES = 3  # fields of a config in a label


def _unique_names(loaded: Sequence[Result]) -> dict[str, Names]:
    """Identity -> names. A network is called by its method or file; where several share that, also by what tells them apart: fields of the config,
    the seed of the attacks, that of the training, at last the workdir and step, and a number.
    """
    found = {identity(result): result for result in loaded}
    trainings = {key: result.method for key, result in found.items()}
    for tells_apart in (_config_differences, _attack_seeds):
        for name in set(trainings.values()):
            sharing = {key: found[key] for key, other in trainings.items() if other == name}
            trainings |= {key: name + more for key, more in tells_apart(sharing).items()}
    labels = dict(trainings)
    seeds = {key: (config_of(result) or {}).get("seed") for key, result in found.items()}
    for name in set(trainings.values()):
        sharing_seeds = [seeds[key] for key, other in trainings.items() if other == name]
        if len(set(sharing_seeds)) > 1:
            labels |= {key: f"{name}, seed {seeds[key]}" for key, other in trainings.items() if other == name}
    once = {key for key in found if list(labels.values()).count(labels[key]) == 1}
    for from_checkpoint in (True, False):
        shared = {label for label in labels.values() if list(labels.values()).count(label) > 1}
        for i, (key, label) in enumerate(labels.items()):
            if label in shared:
                checkpoint = found[key].provenance.get("checkpoint")
                workdir = f" ({pathlib.Path(checkpoint['workdir']).name} {checkpoint['step']})" if checkpoint else ""
                labels[key] = label + (workdir if from_checkpoint and workdir else f" #{i + 1}")
    named = lambda key: trainings[key] if key in once and seeds[key] is not None else None  # noqa: E731
    return {key: Names(labels[key], named(key)) for key in found}


def _config_differences(sharing: Mapping[str, Result]) -> dict[str, str]:
    """Identity -> the fields in which some configs differ, the seed excepted; where these are too many, their checksum."""
    configs = {
        key: {name: v for name, v in config.items() if name != "seed"} for key, result in sharing.items() if (config := config_of(result))
    }
    fields = dict.fromkeys(field for config in configs.values() for field in config)
    differing = [field for field in fields if len({json.dumps(config.get(field)) for config in configs.values()}) > 1]
    text = lambda value: json.dumps(value).replace('"', "")  # noqa: E731
    if len(differing) > MOST_DIFFERENCES:
        return {key: f", config {json_digest({name: config.get(name) for name in differing})[:6]}" for key, config in configs.items()}
    return {key: "".join(f", {field} {text(config.get(field))}" for field in differing) for key, config in configs.items()}


def _attack_seeds(sharing: Mapping[str, Result]) -> dict[str, str]:
    """Identity -> the seed of the attacks, where there are attacks with the seed of the training and others, or others with several seeds.

    A seed that several trainings were attacked with was given; one of a single training, the same as its own, was not.
    """
    own = {key: (config_of(result) or {}).get("seed") for key, result in sharing.items()}
    trained_by_attack: dict[int, set[Any]] = {}
    for key, result in sharing.items():
        trained_by_attack.setdefault(result.seed, set()).add(own[key])
    given = {
        key: None if result.seed == own[key] and len(trained_by_attack[result.seed]) == 1 else result.seed
        for key, result in sharing.items()
    }
    if len(set(given.values())) < 2:
        return {}
    return {key: "" if seed is None else f", attack seed {seed}" for key, seed in given.items()}
