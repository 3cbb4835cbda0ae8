"""Result files: one JSON with flat records and their provenance, and an .npz with arrays by example beside it. Whole or not there."""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from experiments import data
from experiments.cli import UserError

SCHEMA = 2
FIELDS = {
    *("method", "dataset", "measures", "protocol", "records", "n", "n_by_measure", "seed", "data"),
    *("arrays", "versions", "git_revision", "device", "seconds"),
}


def write(result: dict[str, Any], arrays: dict[str, np.ndarray], out: pathlib.Path) -> None:
    """Writes a result; `check_free` comes before the work. The JSON comes last: where it is, its arrays are."""
    try:
        data.save_arrays(arrays_beside(out), arrays)
        result = {**result, "arrays": {"file": arrays_beside(out).name, "sha256": checksum(arrays_beside(out))}}
        data.save_atomically(out, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error


def read(file: pathlib.Path) -> dict[str, Any]:
    """A result.

    Raises:
      UserError: if it cannot be read, is not whole, or is of another version of this format.
    """
    try:
        result = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is not a whole result file ({str(error)[:80]}): measure it again") from error
    if not isinstance(result, dict) or "schema" not in result:
        raise UserError(f"{file} is no result file of experiments.evaluate: it has no schema")
    if result["schema"] != SCHEMA:
        raise UserError(f"{file} has schema {result['schema']}, this version reads {SCHEMA}: measure it again with this version")
    if missing := FIELDS - set(result):
        raise UserError(f"{file} is not a whole result file ({sorted(missing)[0]} is missing): measure it again")
    return result


def read_arrays(file: pathlib.Path, result: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays beside a result; none where there is no such file.

    Raises:
      UserError: if they are not those that were written with it.
    """
    arrays = arrays_beside(file)
    if not arrays.exists():
        return {}
    if checksum(arrays) != result["arrays"]["sha256"]:
        raise UserError(f"{arrays} is not what was written with {file.name}: measure it again")
    return data.read_arrays(arrays)


def checksum(file: pathlib.Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def arrays_beside(out: pathlib.Path) -> pathlib.Path:
    """FILE.json -> FILE.npz."""
    return out.with_suffix(".npz")


def check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Refuses a file that exists, unless told to overwrite it, and a place that cannot be written."""
    for file in (out, arrays_beside(out)):
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists: give another --out, or --overwrite")
    if out.suffix != ".json":
        raise UserError(f"--out {out}: the name of a result ends in .json (its arrays go beside it, in .npz)")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UserError(f"--out {out} cannot be written: choose another")
