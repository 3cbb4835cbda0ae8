"""Restricted ImageNet: tfds's imagenet2012 through nine groups of classes, streamed."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from experiments.data.array_cache import cached_arrays
from experiments.data.splits import Stream
from experiments.data.tfds_sets import Readable, open_tfds
from experiments.runtime.storage import cache_dir

# Group -> ImageNet classes, first and last (Tsipras et al. 2019, https://arxiv.org/abs/1805.12152).
IMAGENET_GROUPS = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "primate": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}
HELD_OUT_IMAGENET = 5_000


def imagenet_group(label: int) -> int:
    """Index of the group of an ImageNet class, -1 outside of all."""
    return next((i for i, (first, last) in enumerate(IMAGENET_GROUPS.values()) if first <= label <= last), -1)


def load_restricted_imagenet(split: str, data_dir: str | None) -> Stream:
    """Tfds imagenet2012 through the nine groups, resized to 224 x 224 by Pillow (bilinear, antialiased), aspect not kept.

    Test is ImageNet's validation split; validation is held out of the training split (at most a fifth of it).
    """
    source = open_tfds("imagenet2012", "validation" if split == "test" else "train", data_dir)
    info = source.dataset_info
    positions, labels, sha256 = _group_index(source)
    if split != "test":
        held_out = min(HELD_OUT_IMAGENET, len(positions) // 5)
        part = slice(0, held_out) if split == "validation" else slice(held_out, None)
        positions, labels = positions[part], labels[part]

    def read(position: int) -> np.ndarray:
        from PIL import Image

        image = Image.fromarray(source[position]["image"]).convert("RGB")
        return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))

    where = {
        "name": "restricted_imagenet",
        "from": f"tfds {info.full_name} at {info.data_dir}, nine groups, 224 x 224 bilinear",
        "sha256": sha256,
    }
    return Stream(read, positions, labels, where)


def _group_index(source: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions and group labels of the examples in a group, and their digest; one pass over the labels, then cached."""
    import tensorflow_datasets as tfds

    info, split = source.dataset_info, source.split
    key = hashlib.sha256(f"{info.data_dir}|{len(source)}".encode()).hexdigest()[:16]
    path = cache_dir() / f"restricted_imagenet-{info.version}-{split}-{key}.npz"

    def make() -> tuple[np.ndarray, np.ndarray]:
        builder = tfds.builder("imagenet2012", data_dir=pathlib.Path(info.data_dir).parent.parent)
        bare = Readable(builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}), source.what, source.advice)
        groups = np.array([imagenet_group(int(bare[i]["label"])) for i in range(len(bare))], np.int32)
        positions = np.flatnonzero(groups >= 0)
        return positions, groups[positions]

    return cached_arrays(path, make)
