"""Splits of a data set: uint8 images and integer labels, wholly in memory or read from disk. Both have labels and `fetch(indices)`."""

import concurrent.futures
import hashlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Images(NamedTuple):
    """A split in memory: images `[n, H, W, c]`, uint8 or float32 in [0, 1], labels int32 `[n]`, source: where it comes from, for the record."""

    images: np.ndarray
    labels: np.ndarray
    source: dict[str, Any]

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at these indices."""
        return self.images[indices], self.labels[indices]

    def first(self, n: int) -> "Images":
        """A copy of the first n examples."""
        return Images(self.images[:n].copy(), self.labels[:n].copy(), self.source)


class Stream(NamedTuple):
    """A split on disk: `read(position) -> uint8 [H, W, c]` for one of `positions [n]`, labels int32 `[n]`."""

    read: Callable[[int], np.ndarray]
    positions: np.ndarray
    labels: np.ndarray
    source: dict[str, Any]

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels at these indices, decoded by one thread per core."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            images = list(threads.map(self.read, self.positions[indices].tolist()))
        return np.stack(images), self.labels[indices]

    def first(self, n: int) -> "Stream":
        """The first n examples, still on disk."""
        return self._replace(positions=self.positions[:n], labels=self.labels[:n])


Split = Images | Stream


def to_unit(images: jax.Array | np.ndarray) -> jax.Array:
    """Pixels as float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    return jnp.asarray(images) if jnp.issubdtype(images.dtype, jnp.floating) else jnp.asarray(images, jnp.float32) / 255.0


def hold_out(whole: Images, split: str, validation: int) -> Images:
    """The validation split is the first `validation` images of the training part, train the rest."""
    kept = slice(0, validation) if split == "validation" else slice(validation, None)
    return Images(whole.images[kept], whole.labels[kept], whole.source)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the pixels and labels."""
    hasher = hashlib.sha256(images.tobytes())
    hasher.update(labels.tobytes())
    return hasher.hexdigest()
