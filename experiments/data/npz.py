"""Data of one's own in an .npz file: `npz:FILE` wherever the name of a data set is expected.

images   [n, H, W, c] or [n, H, W], uint8 or floats in [0, 1]
labels   [n], whole numbers in 0 .. C - 1
split    [n], optional: "train", "validation" or "test" of each example; else stratified 80 : 10 : 10 by a fixed seed
classes  [C], optional: their names; else the numbers
"""

import functools
import pathlib
import zipfile
from typing import Any

import numpy as np

from experiments.data.splits import Images, digest
from experiments.runtime.errors import UserError, one_line

SPLITS = ("train", "validation", "test")


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
        for c in np.setdiff1d(np.arange(len(classes)), labels[which == "train"]):
            raise ValueError(f"labels: class {c} ({classes[c]}) has no image in the train split")
    except ValueError as error:
        raise UserError(f"npz:{file}: {error}") from error
    source = {"name": pathlib.Path(file).stem, "from": f"npz {file}", "sha256": digest(images, labels)}
    return {split: Images(images[which == split], labels[which == split], source) for split in SPLITS}, classes


def checked(arrays: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images `[n, H, W, c]`, labels int32 `[n]` and names of classes, of the content of a file."""
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"there is no array {name!r}; the file has {', '.join(arrays) or 'none'}")
    images, labels = arrays["images"], arrays["labels"]
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must be [n, H, W] or [n, H, W, c], got shape {arrays['images'].shape}")
    if np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and images.min() >= 0.0 and images.max() <= 1.0):
            raise ValueError(f"images of floats must be in [0, 1], got {images.min():g} .. {images.max():g}: divide by 255, or store uint8")
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(images)} whole numbers, one for each image, got {labels.dtype} of shape {labels.shape}")
    classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else tuple(map(str, range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must be in 0 .. {len(classes) - 1}, got {labels.min()} .. {labels.max()}")
    if len(classes) < 2:
        raise ValueError(f"labels must name at least 2 classes, got {len(classes)}")
    return images, labels.astype(np.int32), classes


def given_splits(names: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The split of each example, as the file says."""
    if names.shape != labels.shape or set(names.tolist()) != set(SPLITS):
        raise ValueError(
            f"split must have one of {', '.join(SPLITS)} for each image, and each of them, got {sorted(set(names.ravel().tolist()))}"
        )
    return names


def stratified(labels: np.ndarray) -> np.ndarray:
    """The split of each example: 80 : 10 : 10 within every class, by a fixed seed."""
    random, which = np.random.default_rng(0), np.full(labels.shape, "validation")
    for c in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == c))
        if len(members) < 3:
            raise ValueError(f"labels: class {c} has {len(members)} images, too few for three splits: give an array split")
        tenth = max(round(len(members) / 10), 1)
        which[members[:tenth]], which[members[tenth:-tenth]] = "test", "train"
    return which
