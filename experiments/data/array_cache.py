"""Decoded arrays, kept in the cache directory with their checksum."""

import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from experiments.data.splits import digest
from experiments.runtime.storage import save_atomically


def cached_arrays(path: pathlib.Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, str]:
    """Two arrays and their digest from a file, which is made first if it is missing or damaged."""
    try:
        with np.load(path) as stored:
            first, labels = stored["first"], stored["labels"]
            if (sha256 := digest(first, labels)) == stored["sha256"]:
                return first, labels, sha256
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    first, labels = make()
    sha256 = digest(first, labels)
    save_atomically(path, lambda file: np.savez(file, sha256=sha256, first=first, labels=labels))
    return first, labels, sha256
