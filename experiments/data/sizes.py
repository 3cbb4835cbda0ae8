"""Names of data with a size, `folder:DIR@64`: every image is resized to it; and which splits are held in memory."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.data.array_cache import cached_arrays
from experiments.data.splits import Images, Split, Stream
from experiments.runtime.errors import refuse
from experiments.runtime.storage import cache_dir

MOST_IN_MEMORY = 2**30  # bytes of decoded images; larger splits are read from disk, batch by batch


def place_and_size(text: str) -> tuple[str, tuple[int, int] | None]:
    """`DIR@64` or `DIR@64x96` as (DIR, (height, width)); None without a size."""
    found = re.fullmatch(r"(.+)@(\d+)(?:x(\d+))?", text)
    if found is None:
        return text, None
    size = int(found[2]), int(found[3] or found[2])
    refuse(min(size) < 1, f"{text}: images of size {size[0]} x {size[1]} have no pixels")
    return found[1], size


def resized(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """An image of Pillow, or an array `[H, W, c]`, as uint8 of a shape: bilinear with antialiasing, aspect not kept."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray(np.round(np.asarray(image, np.float32) / 257.0).astype(np.uint8))
    refuse(image.mode in ("I", "F"), f"an image has pixels of mode {image.mode}, of unknown range: store 8 or 16 bits")
    mode = "L" if shape[2] == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    image = image if image.size == (shape[1], shape[0]) else image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def in_memory_or_streamed(
    read: Callable[[int], np.ndarray],
    positions: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, int, int],
    source: dict[str, Any],
    key: str,
) -> Split:
    """A split of images that are read one by one: decoded once and kept under $IROB_CACHE where they fit, else read when they are needed.

    Args:
      read: position -> uint8 `[H, W, c]`.
      positions, labels: `[n]`.
      shape: (H, W, c).
      source: for the record; `sha256` is that of what identifies the images on disk, or of the pixels where they are in memory.
      key: what identifies the images.
    """
    stream = Stream(read, positions, labels, source)
    if len(labels) * int(np.prod(shape)) > MOST_IN_MEMORY:
        return stream
    images, labels, sha256 = cached_arrays(cache_dir() / f"{source['name']}-{key[:24]}.npz", lambda: stream.fetch(np.arange(len(labels))))
    return Images(images, labels, source | {"sha256": sha256})
