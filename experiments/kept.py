"""Per-example results of an evaluation under way, on disk, so that an interrupted one goes on where it was."""

import contextlib
import fcntl
import json
import pathlib
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
            self.known[file.stem] = data.read_arrays(file)

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a name; empty if nothing is known."""
        return self.known.get(name, {})

    def add(self, name: str, arrays: dict[str, np.ndarray], last: bool) -> None:
        """Adds examples to a name; writes them at the last, and in between now and then."""
        before = self.read(name)
        self.known[name] = {key: np.concatenate([before[key], array]) if before else array for key, array in arrays.items()}
        if self.directory and parallel.is_first_process() and (last or time.monotonic() - self.written > INTERVAL):
            data.save_arrays(self.directory / f"{name}.npz", self.known[name])
            self.written = time.monotonic()


@contextlib.contextmanager
def beside(out: pathlib.Path, settings: dict[str, Any]) -> Iterator[Kept]:
    """Keeps what is measured in `OUT.partial/` until the block ends without an error, that is, until the result is written.

    Raises:
      UserError: if what lies there was measured with other settings, or another process is at it.
    """
    directory = out.with_name(out.name + ".partial")
    file = directory / "settings.json"
    settings = json.loads(json.dumps(settings))
    with contextlib.ExitStack() as held:
        if parallel.is_first_process():
            directory.mkdir(exist_ok=True)
            lock = held.enter_context((directory / ".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another evaluation is writing to {directory}: wait for it, or give another --out") from error
            if file.exists():
                if differences := common.changes(json.loads(file.read_text()), settings, ""):
                    raise UserError(
                        f"{directory} holds an unfinished evaluation with other settings ({differences[0]}): delete it, or give another --out"
                    )
            else:
                text = json.dumps(settings, indent=1)
                data.save_atomically(file, lambda f: f.write(text.encode()))
        parallel.wait("partial results are there")
        kept = Kept(directory)
        parallel.wait("partial results are read")
        yield kept
        if parallel.is_first_process():
            shutil.rmtree(directory)
