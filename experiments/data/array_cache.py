"""Decoded arrays, kept in the cache directory with their checksum."""

import pathlib
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from experiments.data.splits import digest
from experiments.runtime.errors import warn
from experiments.runtime.storage import save_atomically


def cached_arrays(path: pathlib.Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, str]:
    """Two arrays and their digest from a file, which is made first if it is missing or damaged."""
    try:
        with np.load(path) as stored:
            first, labels = stored["first"], stored["labels"]
            if (sha256 := digest(first, labels)) == stored["sha256"]:
                return first, labels, sha256
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    first, labels = make()
    sha256 = digest(first, labels)
    try:
        save_atomically(path, lambda file: np.savez(file, sha256=sha256, first=first, labels=labels))
    except OSError as error:
        warn(
            f"{path.parent} cannot be written ({error.strerror or error}): the data are decoded anew each time; set IROB_CACHE to another folder"
        )
    return first, labels, sha256
