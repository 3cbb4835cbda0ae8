"""Data sets as uint8 images (or floats in [0, 1]) and integer labels.

`load_split(name, split)` returns `Images`, wholly in memory, or a `Stream`, which reads what it is asked for. Splits are
"train", "validation" and "test"; validation is held out of the training part, as in the paper its first images.
"""

from collections.abc import Callable
from typing import NamedTuple

from experiments.data.digits import load_digits
from experiments.data.npz import read_npz
from experiments.data.restricted_imagenet import IMAGENET_GROUPS, load_restricted_imagenet
from experiments.data.splits import Images, Split, Stream, to_unit
from experiments.data.tfds_sets import in_memory
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


SOURCES: dict[str, Callable[[str], Dataset]] = {"npz": npz}  # kind:place, of data of one's own


def find_dataset(name: str) -> Dataset:
    """The row of a data set, by its name, by `npz:FILE`, or by `package.module:attribute`.

    Raises:
      UserError: if there is none; it lists them.
    """
    kind, _, place = name.partition(":")
    return SOURCES[kind](place) if kind in SOURCES and place else find(DATASETS, name, "data set")


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
