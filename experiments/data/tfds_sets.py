"""Data sets of tensorflow_datasets (tfds) that fit in memory, in their original order."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.data.array_cache import cached_arrays
from experiments.data.splits import Images, hold_out
from experiments.runtime.errors import UserError, one_line_errors
from experiments.runtime.storage import cache_dir


class Original(NamedTuple):
    """The first labels of a data set in its original order, to check that it was restored."""

    train: tuple[int, ...]
    test: tuple[int, ...]


ORIGINAL_LABELS = {
    "mnist": Original((5, 0, 4, 1, 9, 2, 1, 3, 1, 4), (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)),
    "fashion_mnist": Original((9, 0, 0, 3, 0, 2, 7, 2, 5, 5), (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)),
    "cifar10": Original((6, 9, 9, 4, 1, 1, 2, 7, 8, 3), (3, 8, 8, 0, 6, 6, 1, 6, 3, 1)),
}


def in_memory(name: str, image_shape: tuple[int, int, int]) -> Callable[[str, str | None], Images]:
    """Loader of a tfds data set that fits in memory, validation = the first 5,000 training images as in the paper.

    Raises:
      ValueError: for a set whose original order is not known here; `tfds:NAME` takes any.
    """
    if name not in ORIGINAL_LABELS:
        raise ValueError(f"the original order is known of {', '.join(ORIGINAL_LABELS)}, not of {name}: use tfds:{name}")

    def load_split(split: str, data_dir: str | None) -> Images:
        if split == "test":
            return whole_split(name, image_shape, "test", data_dir)
        return hold_out(whole_split(name, image_shape, "train", data_dir), split, 5_000)

    return load_split


def whole_split(name: str, image_shape: tuple[int, int, int], split: str, data_dir: str | None) -> Images:
    """A whole tfds split in its original order, decoded once and kept under $IROB_CACHE (default ~/.cache/irob) with its checksum."""
    source = open_tfds(name, split, data_dir)
    info = source.dataset_info
    files = [str(info.data_dir), *(f"{p.name}:{p.stat().st_size}" for p in sorted(pathlib.Path(info.data_dir).iterdir()) if p.is_file())]
    path = cache_dir() / f"{name}-{info.version}-{split}-{hashlib.sha256('|'.join(files).encode()).hexdigest()[:16]}.npz"
    images, labels, sha256 = cached_arrays(path, lambda: _decode(source, name, split, image_shape))
    return Images(images, labels, {"name": name, "from": f"tfds {info.full_name} at {info.data_dir}", "sha256": sha256})


def open_tfds(name: str, split: str, data_dir: str | None, asked: str | None = None) -> Any:
    """The random-access source of a prepared tfds split. asked: the name of the data set in commands, where it is another."""
    asked = asked or name
    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        advice = f"run python -m experiments.prepare_data --dataset {asked} --data_dir {data_dir}"
        raise UserError(f"there is no folder {data_dir} (--data_dir): {advice}")
    import tensorflow_datasets as tfds

    place = "" if data_dir is None else f" --data_dir {data_dir}"
    advice = f"if it is damaged, move it away and run python -m experiments.prepare_data --dataset {asked}{place}"
    with one_line_errors(f"the data set {asked} cannot be read", advice):
        builder = tfds.builder(name, data_dir=data_dir)
    if builder.is_prepared() and builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, which has no random access: prepare {name} in another --data_dir"
        )
    if not builder.is_prepared():
        raise UserError(
            f"there is no prepared {name} in {builder.data_path.parent.parent}: run python -m experiments.prepare_data --dataset {asked}{place}"
            " (or point --data_dir or $TFDS_DATA_DIR to where it is)"
        )
    what = f"the data set {asked} in {builder.data_path} cannot be read"
    with one_line_errors(what, advice):
        return Readable(builder.as_data_source(split=split), what, advice)


class Readable:
    """A tfds source. What cannot be read of it is a `UserError` that says so. what, advice: of the message."""

    def __init__(self, source: Any, what: str, advice: str):
        self.source, self.what, self.advice = source, what, advice
        self.dataset_info, self.split = source.dataset_info, source.split
        expected = source.dataset_info.splits[source.split].num_examples
        if len(self) != expected:
            raise UserError(f"{what}: {source.split} has {len(self)} examples where its description has {expected}; {advice}")

    def __len__(self) -> int:
        with one_line_errors(self.what, self.advice):
            return len(self.source)

    def __getitem__(self, position: Any) -> Any:
        with one_line_errors(self.what, self.advice):
            return self.source[position]

    def __getitems__(self, positions: Any) -> Any:
        with one_line_errors(self.what, self.advice):
            return self.source.__getitems__(positions)


def original_order(n: int, split: str) -> list[int]:
    """Position j on disk holds example `original_order[j]`: tfds shuffles by a hash of the key, and these builders' keys are indices."""
    from tensorflow_datasets.core.hashing import Hasher

    return sorted(range(n), key=Hasher(split).hash_key)


def _decode(source: Any, name: str, split: str, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    n = len(source)
    images = np.empty((n, *image_shape), np.uint8)
    labels = np.empty(n, np.int32)
    order = original_order(n, split)
    for start in range(0, n, 1_000):
        rows = range(start, min(start + 1_000, n))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            images[order[row]], labels[order[row]] = example["image"], example["label"]
    expected = getattr(ORIGINAL_LABELS[name], split)
    if tuple(labels[: len(expected)].tolist()) != expected[: len(labels)]:
        raise UserError(f"{name} {split} is not in the order of the released data set: its first labels are {labels[:10].tolist()}")
    return images, labels
