"""Data of one's own in an .npz file: `npz:FILE` wherever the name of a data set is expected.

images   [n, H, W, c] or [n, H, W], uint8 or floats in [0, 1]
labels   [n], whole numbers in 0 .. C - 1
split    [n], optional: "train", "validation" or "test" of each example; else stratified 80 : 10 : 10 by a fixed seed
classes  [C], optional: their names; else the numbers
"""

import functools
import pathlib
import zipfile

import numpy as np

from experiments.data.checks import SPLITS, checked, given_splits, refuse_empty_classes, stratified
from experiments.data.splits import Images, digest
from experiments.runtime.errors import UserError, one_line


def read_npz(file: str) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The splits of a file, and the names of the classes. What is read is kept, until the file changes.

    Raises:
      UserError: if the file cannot be read, or its content is not as above; it names the array and what it must be.
    """
    try:
        return _read(file, pathlib.Path(file).stat().st_mtime_ns)
    except OSError as error:
        raise UserError(f"npz:{file} cannot be read: {error.strerror or error}") from error


@functools.lru_cache(maxsize=2)
def _read(file: str, changed: int) -> tuple[dict[str, Images], tuple[str, ...]]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f"npz:{file} is not an .npz file of arrays ({one_line(error, 120)})") from error
    try:
        images, labels, classes = checked(arrays)
        which = stratified(labels) if "split" not in arrays else given_splits(arrays["split"], labels)
        refuse_empty_classes(labels[which == "train"], classes)
    except ValueError as error:
        raise UserError(f"npz:{file}: {error}") from error
    source = {"name": pathlib.Path(file).stem, "from": f"npz {file}", "sha256": digest(images, labels)}
    return {split: Images(images[which == split], labels[which == split], source) for split in SPLITS}, classes
