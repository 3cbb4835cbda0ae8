"""Files: written atomically, locked, cached."""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import filelock
import numpy as np

from experiments.runtime.errors import UserError, one_line


def cache_dir() -> pathlib.Path:
    """Where decoded data sets and compiled programs are kept: $IROB_CACHE, or ~/.cache/irob."""
    return pathlib.Path(os.path.expanduser(os.environ.get("IROB_CACHE") or "~/.cache/irob"))


def slug(text: str) -> str:
    """A text as part of a file name: every other character than letters and digits is `_`."""
    return "".join(c if c.isalnum() else "_" for c in text)


def save_atomically(path: pathlib.Path, write: Callable[[Any], None]) -> None:
    """Writes a file so that it is there completely or not at all.

    Args:
      path: of the file; its folder is made.
      write: writes the content to an open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def save_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    save_atomically(path, lambda file: file.write(text.encode()))


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file atomically."""
    save_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise UserError(f"{path} cannot be read ({one_line(error, 120)}): delete it to measure again") from error


MOST_JSON = 2**28  # bytes: more than any file of ours


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file.

    Raises:
      ValueError: if it is too large, no text or no JSON (the message says which).
      OSError: if there is no such file, or it cannot be read.
    """
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"{path.stat().st_size} bytes are more than any such file has")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def checksum(file: pathlib.Path) -> str:
    """SHA-256 of the bytes of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def lock(directory: pathlib.Path, busy: str) -> filelock.BaseFileLock:
    """Locks a directory, on every operating system, until the lock is released or the process ends.

    Args:
      directory: that exists; the lock is a file in it.
      busy: message of the error if another process holds the lock.

    Raises:
      UserError: if another process holds the lock.
      OSError: if the directory cannot be written.
    """
    held = filelock.FileLock(directory / ".lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(busy) from error
    return held
