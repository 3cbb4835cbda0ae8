"""Any image classification set of tfds: `tfds:NAME`, `tfds:NAME/CONFIG`, `tfds:NAME@64` to resize, wherever the name of a data set is expected.

It must be prepared in the random-access format (array_record). Splits: test, or validation where there is no test; validation, or a tenth of train.
"""

import functools
import hashlib
from typing import Any

import numpy as np

from experiments.data.array_cache import cached_arrays
from experiments.data.checks import stratified
from experiments.data.sizes import in_memory_or_streamed, place_and_size, resized
from experiments.data.splits import Split
from experiments.data.tfds_sets import Readable, open_tfds
from experiments.runtime.errors import UserError, one_line, refuse
from experiments.runtime.storage import cache_dir


def describe(text: str) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The shape of the images and the names of the classes, from the information of the data set.

    Raises:
      UserError: if tfds has no such set, or it is not of images with labels.
    """
    import tensorflow_datasets as tfds

    name, size = place_and_size(text)
    try:
        features = tfds.builder(name).info.features
    except Exception as error:  # whatever a builder raises
        raise UserError(f"tfds:{name}: {one_line(error)}") from error
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    for key, kind in wanted.items():
        found = features[key] if hasattr(features, "keys") and key in features.keys() else None  # noqa: SIM118
        refuse(not isinstance(found, kind), f"tfds:{name} has no feature {key!r} of the kind {kind.__name__}: it has {', '.join(features)}")
    height, width, channels = features["image"].shape
    refuse(
        size is None and (height is None or width is None),
        f"tfds:{name}: its images have several sizes: give one, as in tfds:{name}@64",
    )
    refuse(channels not in (1, 3), f"tfds:{name}: its images have {channels} channels, not 1 or 3")
    return (*(size or (height, width)), channels), tuple(features["label"].names)


def load_tfds(text: str, split: str, data_dir: str | None) -> Split:
    """A split, in memory where it fits."""
    import tensorflow_datasets as tfds

    (name, _), (shape, _) = place_and_size(text), describe(text)
    try:
        there = set(tfds.builder(name, data_dir=data_dir).info.splits)
    except Exception as error:  # whatever a builder raises
        raise UserError(f"tfds:{name}: {one_line(error)}") from error
    refuse("train" in there and not {"test", "validation"} & there, f"tfds:{name} has neither a test nor a validation split")
    held_out = not {"test", "validation"} <= there
    part = {"test": "test" if "test" in there else "validation", "validation": "train" if held_out else "validation"}.get(split, "train")
    source = open_tfds(name, part, data_dir, f"tfds:{name}")
    positions, labels = np.arange(len(source)), labels_of(name, part, data_dir, source)
    if held_out and part == "train":
        positions = np.flatnonzero(stratified(labels, ("validation",)) == split)
    info = source.dataset_info
    where = f"tfds {info.full_name} {part} at {info.data_dir}, {shape[0]} x {shape[1]}"
    key = hashlib.sha256(f"{where} {split} {len(source)}".encode()).hexdigest()
    record = {"name": name.replace("/", "_"), "from": where, "sha256": hashlib.sha256(labels.tobytes() + where.encode()).hexdigest()}
    read = functools.partial(read_image, source, shape)
    return in_memory_or_streamed(read, positions, labels[positions], shape, record, key)


def read_image(source: Any, shape: tuple[int, int, int], position: int) -> np.ndarray:
    """An image in the shape of its data set."""
    return resized(np.asarray(source[position]["image"]), shape)


def labels_of(name: str, part: str, data_dir: str | None, source: Any) -> np.ndarray:
    """The labels of a split, read once without decoding images."""
    import tensorflow_datasets as tfds

    info = source.dataset_info
    key = hashlib.sha256(f"{info.data_dir}|{part}|{len(source)}".encode()).hexdigest()[:24]

    def make() -> tuple[np.ndarray, np.ndarray]:
        builder = tfds.builder(name, data_dir=data_dir)
        bare = Readable(builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()}), source.what, source.advice)
        labels = np.array([int(bare[i]["label"]) for i in range(len(bare))], np.int32)
        return np.arange(len(labels)), labels

    labels = cached_arrays(cache_dir() / f"{name.replace('/', '_')}-labels-{key}.npz", make)[1]
    refuse(bool(np.any(labels < 0)), f"tfds:{name}: {part} has images without a label (-1)")
    return labels
