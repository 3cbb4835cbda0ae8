"""Data sets as uint8 images (or floats in [0, 1]) and integer labels.

`load_split(name, split)` returns `Images`, wholly in memory, or a `Stream`, which reads what it is asked for. Splits are
"train", "validation" and "test"; validation is held out of the training part, as in the paper its first images.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.data import tfds_any
from experiments.data.checks import checked, refuse_empty_classes
from experiments.data.digits import load_digits
from experiments.data.folder import read_folder
from experiments.data.npz import read_npz
from experiments.data.restricted_imagenet import IMAGENET_GROUPS, load_restricted_imagenet
from experiments.data.splits import Images, Split, Stream, digest, to_unit
from experiments.data.tfds_sets import in_memory
from experiments.runtime.errors import UserError, one_line, refuse
from experiments.runtime.names import find

__all__ = ["DATASETS", "Dataset", "Images", "Split", "Stream", "find_dataset", "load_split", "to_unit"]


class Dataset(NamedTuple):
    """A row of `DATASETS`. load: `(split, data_dir) -> Split`, split in train, validation, test."""

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    load: Callable[[str, str | None], Split]


DIGITS = tuple("0123456789")
FASHION = ("top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATASETS = {
    "digits": Dataset((28, 28, 1), DIGITS, load_digits),
    "mnist": Dataset((28, 28, 1), DIGITS, in_memory("mnist", (28, 28, 1))),
    "fashion_mnist": Dataset((28, 28, 1), FASHION, in_memory("fashion_mnist", (28, 28, 1))),
    "cifar10": Dataset((32, 32, 3), CIFAR10, in_memory("cifar10", (32, 32, 3))),
    "restricted_imagenet": Dataset((224, 224, 3), tuple(IMAGENET_GROUPS), load_restricted_imagenet),
}


def npz(file: str) -> Dataset:
    """The data set in an .npz file (see `experiments.data.npz`)."""
    splits, classes = read_npz(file)
    height, width, channels = splits["train"].images.shape[1:]
    return Dataset((height, width, channels), classes, lambda split, data_dir: read_npz(file)[0][split])


def folder(text: str) -> Dataset:
    """The data set in folders of classes (see `experiments.data.folder`)."""
    shape, classes, loaders = read_folder(text)
    return Dataset(shape, classes, lambda split, data_dir: loaders[split](data_dir))


def tfds(text: str) -> Dataset:
    """A data set of tfds (see `experiments.data.tfds_any`)."""
    return Dataset(*tfds_any.describe(text), functools.partial(tfds_any.load_tfds, text))


SOURCES: dict[str, Callable[[str], Dataset]] = {"npz": npz, "folder": folder, "tfds": tfds}  # kind:place, of data of one's own


def find_dataset(name: str) -> Dataset:
    """The row of a data set, by its name, by `npz:FILE`, `folder:DIR`, `tfds:NAME`, or by `package.module:attribute`.

    The attribute is a `Dataset`, or a function `split -> (images, labels)` or `split -> (images, labels, classes)` of arrays as in an .npz file.

    Raises:
      UserError: if there is none; it lists them.
    """
    kind, _, place = name.partition(":")
    if kind in SOURCES and name != kind:
        refuse(not place, f"data set {name!r}: say which, as in {kind}:{'NAME' if kind == 'tfds' else 'PATH'}")
        return SOURCES[kind](place if kind == "tfds" else os.path.expanduser(place))
    found = find(DATASETS, name, "data set")
    return found if isinstance(found, Dataset) else of_function(name, found)


@functools.lru_cache(maxsize=4)
def arrays_of(
    name: str, function: Callable[[str], Any], split: str, classes: tuple[str, ...] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """What a function of one's own returns of a split, checked. classes: of the training split, where it is another one."""
    try:
        arrays = function(split)
    except UserError:
        raise
    except Exception as error:  # whatever one's own function raises
        what = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"data set {name!r}: calling it with {split!r} raised {what}; it must be a function of the name of a split"
        ) from error
    refuse(
        not isinstance(arrays, tuple) or len(arrays) not in (2, 3),
        f"data set {name!r}: of a split it must return (images, labels) or (images, labels, classes), got {type(arrays).__name__}",
    )
    named = dict(zip(("images", "labels", "classes"), arrays, strict=False))
    try:
        images, labels, classes = checked(named if classes is None else named | {"classes": classes})
        if split == "train":
            refuse_empty_classes(labels, classes)
    except ValueError as error:
        raise UserError(f"data set {name!r}, {split}: {error}") from error
    return images, labels, classes


def of_function(name: str, function: Any) -> Dataset:
    """The data set of a function `split -> (images, labels)` of one's own."""
    refuse(not callable(function), f"data set {name!r}: it must be an experiments.data.Dataset, or a function of the name of a split")
    images, _, classes = arrays_of(name, function, "train")
    shape = images.shape[1:]

    def load(split: str, data_dir: str | None) -> Images:
        images, labels, _ = arrays_of(name, function, split, None if split == "train" else classes)
        refuse(images.shape[1:] != shape, f"data set {name!r}: images of {split} are {images.shape[1:]}, of train {shape}")
        return Images(images, labels, {"name": name.rpartition(":")[2], "from": name, "sha256": digest(images, labels)})

    return Dataset((shape[0], shape[1], shape[2]), classes, load)


def load_split(name: str, split: str, data_dir: str | None = None) -> Split:
    """A split of a named data set.

    Args:
      name: as `find_dataset` takes it.
      split: "train", "validation" or "test".
      data_dir: where tfds data sets lie; None for tfds's default, which $TFDS_DATA_DIR sets.

    Raises:
      UserError: for an unknown name, or data that is not there.
    """
    return find_dataset(name).load(split, data_dir)
