"""Results per example of an evaluation under way, on disk, so that an interrupted one continues where it was."""

import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.configs import base
from experiments.runtime import devices, storage
from experiments.runtime.errors import UserError, refuse

INTERVAL = 10.0  # seconds between writes


class ResultCache:
    """Known results: name -> arrays whose first axis runs over examples, one of them `indices`. In memory only, without a directory."""

    def __init__(self, directory: pathlib.Path | None = None):
        self.directory, self.known = directory, dict[str, dict[str, np.ndarray]]()
        self.written = time.monotonic()
        for file in sorted(directory.glob("*.npz")) if directory else ():
            arrays = storage.read_arrays(file)
            lengths = {array.shape[:1] for name, array in arrays.items() if name != "name"}
            refuse(
                not {"name", "indices"} <= set(arrays) or len(lengths) != 1,
                f"{file} is not what this command writes: delete {directory}, or give another --out",
            )
            self.known[str(arrays.pop("name"))] = arrays

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a name; empty if nothing is known."""
        return self.known.get(name, {})

    def add(self, name: str, arrays: dict[str, np.ndarray], last: bool) -> None:
        """Adds examples to a name; writes them with the last ones, and before that every `INTERVAL` seconds."""
        before = self.read(name)
        self.known[name] = {key: np.concatenate([before[key], array]) if before else array for key, array in arrays.items()}
        if self.directory and devices.is_first_process() and (last or time.monotonic() - self.written > INTERVAL):
            try:
                storage.save_arrays(self.directory / file_name(name), {"name": np.array(name), **self.known[name]})
            except OSError as error:
                raise UserError(f"{self.directory} cannot be written ({error.strerror or error}): give another --out") from error
            self.written = time.monotonic()


def file_name(name: str) -> str:
    """A legal file name of bounded length."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"


@contextlib.contextmanager
def resumable(out: pathlib.Path, settings: dict[str, Any]) -> Iterator[ResultCache]:
    """A cache in `OUT.partial/`, deleted when the block ends without an error, that is, when the result is written.

    Several processes must see the same directory; the first one writes.

    Raises:
      UserError: in every process, if the results there were made with other settings, or another evaluation is using them.
    """
    directory = out.with_name(out.name + ".partial")
    with contextlib.ExitStack() as held:
        plain = json.loads(json.dumps(settings))
        devices.on_first_process(lambda: _lock(directory, plain, held), str(directory), "give another --out")
        cache = ResultCache(directory)
        if not devices.all_processes_agree(repr(sorted(cache.known))):
            raise UserError(f"the processes do not see the same {directory}: give an --out on a file system that all share")
        try:
            yield cache
        except BaseException:
            if devices.is_first_process() and not list(directory.glob("*.npz")):
                _remove(directory, held)  # nothing was measured
            raise
        if devices.is_first_process():
            _remove(directory, held)


def _remove(directory: pathlib.Path, held: contextlib.ExitStack) -> None:
    held.close()  # Windows does not delete a file that is locked
    shutil.rmtree(directory)


def _lock(directory: pathlib.Path, settings: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Locks a directory of partial results while `held` is open, and stores the settings or compares them with those there."""
    directory.mkdir(exist_ok=True)
    busy = f"another evaluation is using {directory}: wait for it, or give another --out"
    held.callback(storage.lock(directory, busy).release)
    file = directory / "settings.json"
    if not file.exists():
        storage.save_text(file, json.dumps(settings, indent=1))
        return
    try:
        found = storage.read_json(file)
        refuse(not isinstance(found, dict), f"{file} is not what this command writes: delete {directory}, or give another --out")
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read: delete {directory}, or give another --out") from error
    if differences := base.changes(found, settings, ""):
        raise UserError(
            f"{directory} holds an unfinished evaluation with other settings ({differences[0]}): delete it, or give another --out"
        )
