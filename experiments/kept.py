"""Per-example results of an evaluation under way, on disk, so that an interrupted one goes on where it was."""

import contextlib
import fcntl
import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments import data, parallel
from experiments.cli import UserError
from experiments.configs import common

INTERVAL = 10.0  # seconds between writes


class Kept:
    """What is known already: name -> arrays whose first axis runs over examples, one of them `indices`. In memory only, without a directory."""

    def __init__(self, directory: pathlib.Path | None = None):
        self.directory, self.known = directory, dict[str, dict[str, np.ndarray]]()
        self.written = time.monotonic()
        for file in sorted(directory.glob("*.npz")) if directory else ():
            arrays = data.read_arrays(file)
            self.known[str(arrays.pop("name"))] = arrays

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a name; empty if nothing is known."""
        return self.known.get(name, {})

    def add(self, name: str, arrays: dict[str, np.ndarray], last: bool) -> None:
        """Adds examples to a name; writes them at the last, and in between now and then."""
        before = self.read(name)
        self.known[name] = {key: np.concatenate([before[key], array]) if before else array for key, array in arrays.items()}
        if self.directory and parallel.is_first_process() and (last or time.monotonic() - self.written > INTERVAL):
            try:
                data.save_arrays(self.directory / file_name(name), {"name": np.array(name), **self.known[name]})
            except OSError as error:
                raise UserError(f"{self.directory} cannot be written ({error.strerror or error}): give another --out") from error
            self.written = time.monotonic()


def file_name(name: str) -> str:
    """A legal one, of bounded length."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"


@contextlib.contextmanager
def beside(out: pathlib.Path, settings: dict[str, Any]) -> Iterator[Kept]:
    """Keeps what is measured in `OUT.partial/` until the block ends without an error, that is, until the result is written.

    Several processes must see the same directory; the first one writes.

    Raises:
      UserError: in every process, if what lies there was measured with other settings, or another evaluation is at it.
    """
    directory = out.with_name(out.name + ".partial")
    with contextlib.ExitStack() as held:
        mistake = None
        if parallel.is_first_process():
            try:
                claim(directory, json.loads(json.dumps(settings)), held)
            except UserError as error:
                mistake = str(error)
            except OSError as error:
                mistake = f"{directory} cannot be written ({error.strerror or error}): give another --out"
        if mistake := parallel.word_of_the_first(mistake):
            raise UserError(mistake)
        kept = Kept(directory)
        if not parallel.same_everywhere(repr(sorted(kept.known))):
            raise UserError(f"the processes do not see the same {directory}: give an --out on a file system that all share")
        try:
            yield kept
        except BaseException:
            if parallel.is_first_process() and not list(directory.glob("*.npz")):
                shutil.rmtree(directory)  # nothing was measured
            raise
        if parallel.is_first_process():
            shutil.rmtree(directory)


def claim(directory: pathlib.Path, settings: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Locks a directory of partial results while `held` is open, and writes down the settings or compares them with those there."""
    directory.mkdir(exist_ok=True)
    lock = held.enter_context((directory / ".lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another evaluation is writing to {directory}: wait for it, or give another --out") from error
    file = directory / "settings.json"
    if not file.exists():
        data.save_atomically(file, lambda f: f.write(json.dumps(settings, indent=1).encode()))
        return
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} cannot be read: delete {directory}, or give another --out") from error
    if differences := common.changes(found, settings, ""):
        raise UserError(
            f"{directory} holds an unfinished evaluation with other settings ({differences[0]}): delete it, or give another --out"
        )
