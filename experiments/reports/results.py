"""Result files: one JSON with flat records and their provenance, and an .npz with arrays per example beside it. Files are written atomically."""

import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.reports.old_results import from_schema_2, renamed_arrays
from experiments.reports.records import Record, record_from
from experiments.runtime import storage
from experiments.runtime.checkpoints import json_digest
from experiments.runtime.errors import UserError, refuse, warn

SCHEMA = 3


class MeasureInfo(NamedTuple):
    """How a measure was made. n: number of images. description: one sentence. settings: every option."""

    n: int
    description: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """The content of a result file.

    method: of the training, or the name of the weight file.
    dataset, protocol, seed: names and the seed of the attacks.
    measures: name -> how it was made.
    records: the numbers.
    data: source of the images, with its checksum, and their split where it is not test.
    provenance: network, checkpoint or weights, config, versions, git_revision, device, processes, seconds.
    schema: of the file that it was read from.
    """

    method: str
    dataset: str
    protocol: str
    seed: int
    measures: dict[str, MeasureInfo]
    records: list[Record]
    data: dict[str, Any]
    provenance: dict[str, Any]
    schema: int = SCHEMA

    @property
    def split(self) -> str:
        """The split whose images were measured."""
        return str(self.data.get("split", "test"))

    @property
    def n(self) -> int:
        """Number of images of the first measure."""
        return next(iter(self.measures.values())).n

    def as_dict(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "seed": self.seed,
            "measures": {name: info._asdict() for name, info in self.measures.items()},
            "records": [record.as_dict() for record in self.records],
            "data": self.data,
            **self.provenance,
        }


OWN_FIELDS = ("schema", "method", "dataset", "protocol", "seed", "measures", "records", "data")
KINDS: dict[str, Any] = {  # of fields, where they are there
    **dict.fromkeys(("method", "dataset", "protocol", "device"), str),
    **dict.fromkeys(("measures", "data", "versions", "checkpoint", "weights"), dict),
    "records": list,
    "seed": int,
    "seconds": (int, float),
}
PARTS = {"data": ("name",), "checkpoint": ("sha256", "step"), "weights": ("sha256", "file")}
PROVENANCE = ("versions", "git_revision", "device", "seconds")


def write_result(result: Result, arrays: dict[str, np.ndarray], out: pathlib.Path) -> None:
    """Writes a result; `check_free` comes before the work. The JSON comes last: where it is, its arrays are."""
    try:
        storage.save_arrays(arrays_beside(out), arrays)
        with_arrays = {**result.as_dict(), "arrays": {"file": arrays_beside(out).name, "sha256": storage.checksum(arrays_beside(out))}}
        storage.save_text(out, json.dumps({**with_arrays, "sha256": json_digest(with_arrays)}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error


def read_result(file: pathlib.Path) -> Result:
    """A result, of this schema or of schema 2, which is converted.

    Raises:
      UserError: if it cannot be read, is incomplete, or is of another schema.
    """
    try:
        content = storage.read_json(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is not a complete result file ({str(error)[:80]}): measure again") from error
    refuse(
        not isinstance(content, dict) or "schema" not in content, f"{file} is not a result file of experiments.evaluate: it has no schema"
    )
    written = content.pop("sha256", None)
    altered = written not in (None, json_digest(content))
    schema = content["schema"]
    refuse(schema not in (2, SCHEMA), f"{file} has schema {schema}; this version reads {SCHEMA} and converts 2: measure again")
    try:
        content = from_schema_2(content) if schema == 2 else content
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a complete result file of schema 2 ({error!r:.80}): measure again") from error
    missing = sorted({*OWN_FIELDS, *PROVENANCE} - set(content))
    refuse(bool(missing), f"{file} is not a complete result file ({', '.join(missing[:1])} is missing): measure again")
    for name, kind in KINDS.items():
        found, may_lack = content.get(name), name in ("checkpoint", "weights", "seconds", "device")
        wrong = not isinstance(found, kind) and not (may_lack and found is None)
        refuse(wrong, f"{file} is not a complete result file ({name} is {found!r:.40}): measure again")
    for name, parts in PARTS.items():
        lacking = [part for part in parts if content.get(name) is not None and part not in content[name]]
        refuse(bool(lacking), f"{file} is not a complete result file ({name} has no {lacking[:1]}): measure again")
    try:
        measures = {name: _measure_info(name, info) for name, info in content["measures"].items()}
        records = [record_from(flat) for flat in content["records"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a complete result file (a record or a measure lacks {error}): measure again") from error
    refuse(not measures or not records, f"{file} is not a complete result file (it holds no measure or no record): measure again")
    refuse(isinstance(content["seed"], bool), f"{file} is not a complete result file (seed is {content['seed']}): measure again")
    refuse(altered, f"{file} is not as it was written (its checksum differs): measure again")
    provenance = {key: value for key, value in content.items() if key not in OWN_FIELDS}
    names = {key: content[key] for key in ("method", "dataset", "protocol", "seed")}
    return Result(**names, measures=measures, records=records, data=content["data"], provenance=provenance, schema=schema)


def _measure_info(name: str, info: Any) -> MeasureInfo:
    """How a measure was made.

    Raises:
      TypeError: if a field is missing, or not what it must be.
    """
    kinds = {"n": int, "description": str, "settings": dict}
    if not isinstance(info, dict) or set(info) != set(kinds) or not all(isinstance(info[key], kind) for key, kind in kinds.items()):
        raise TypeError(f"the n, description and settings of {name}")
    return MeasureInfo(**info)


def read_result_arrays(file: pathlib.Path, result: Result) -> dict[str, np.ndarray]:
    """The arrays beside a result; empty where there is no such file.

    Raises:
      UserError: if they are not those that were written with it.
    """
    arrays = arrays_beside(file)
    written = (result.provenance.get("arrays") or {}).get("sha256")
    if not arrays.exists():
        if written:
            warn(f"{arrays} is missing: what the report shows of single images is left out")
        return {}
    refuse(storage.checksum(arrays) != written, f"{arrays} is not what was written with {file.name}: measure again")
    found = storage.read_arrays(arrays)
    return renamed_arrays(found) if result.schema == 2 else found


def arrays_beside(out: pathlib.Path) -> pathlib.Path:
    """The file of arrays, FILE.npz, of a result FILE.json."""
    return out.with_suffix(".npz")


def check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Refuses a file that exists, unless told to overwrite it, and a place that cannot be written."""
    refuse(out.suffix != ".json", f"--out {out}: the name of a result ends in .json (its arrays go beside it, in .npz)")
    for file in (out, arrays_beside(out)):
        refuse(file.exists() and not overwrite, f"{file} exists: give another --out, or --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error
    for file in (out, arrays_beside(out)):
        refuse(file.is_dir(), f"--out {out}: {file} is a folder: choose another")
    refuse(not os.access(out.parent, os.W_OK), f"--out {out} cannot be written: choose another")
