"""What images and labels must be, and how they are divided where nobody has divided them."""

from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")


def checked(arrays: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images `[n, H, W, c]`, labels int32 `[n]` and names of classes.

    Args:
      arrays: images `[n, H, W, c]` or `[n, H, W]`, uint8 or floats in [0, 1]; labels `[n]` in 0 .. C - 1; optionally classes `[C]`.

    Raises:
      ValueError: names the array and what it must be.
    """
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"there is no array {name!r}; the file has {', '.join(arrays) or 'none'}")
    images, labels = np.asarray(arrays["images"]), np.asarray(arrays["labels"])
    shape = images.shape
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must be [n, H, W] or [n, H, W, c], got shape {shape}")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(f"images look like [n, c, H, W], got shape {shape}: transpose them to [n, H, W, c]")
    if np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all():
            raise ValueError("images of floats must be in [0, 1], some are not finite")
        if images.max() <= 1.001 / 255:
            raise ValueError(f"images of floats must be in [0, 1], the largest here is {images.max():g}: divided by 255 twice?")
        if not (np.isfinite(images).all() and images.min() >= 0.0 and images.max() <= 1.0):
            raise ValueError(f"images of floats must be in [0, 1], got {images.min():g} .. {images.max():g}: divide by 255, or store uint8")
        images = images.astype(np.float32)
    elif images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(images)} whole numbers, one for each image, got {labels.dtype} of shape {labels.shape}")
    if int(labels.max(initial=0)) >= max(10_000, 10 * len(labels)):
        raise ValueError(f"labels must be in 0 .. C - 1, got {labels.max()} among {len(labels)} of them: number the classes without gaps")
    if "classes" in arrays and np.ndim(arrays["classes"]) != 1:
        raise ValueError(f"classes must be names [C], got shape {np.shape(arrays['classes'])}")
    classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else tuple(map(str, range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must be in 0 .. {len(classes) - 1}, got {labels.min()} .. {labels.max()}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes must have names of their own, {max(classes, key=classes.count)!r} is there twice")
    if len(classes) < 2:
        raise ValueError(f"labels must name at least 2 classes, got {len(classes)}")
    return images, labels.astype(np.int32), classes


def refuse_empty_classes(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Refuses a training split in which a class has no image.

    Raises:
      ValueError: names the first.
    """
    for c in np.setdiff1d(np.arange(len(classes)), labels):
        raise ValueError(f"labels: class {c} ({classes[c]}) has no image in the train split (classes count from 0)")


def given_splits(names: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The split of each example, as the file says."""
    if names.shape != labels.shape or set(names.tolist()) != set(SPLITS):
        raise ValueError(
            f"split must have one of {', '.join(SPLITS)} for each image, and each of them, got {sorted(set(names.ravel().tolist()))}"
        )
    return names


def stratified(labels: np.ndarray, held_out: tuple[str, ...] = ("test", "validation")) -> np.ndarray:
    """The split of each example: a tenth of every class, by a fixed seed, for each of those held out; the rest is "train".

    Raises:
      ValueError: if a class has too few images.
    """
    random, which = np.random.default_rng(0), np.full(labels.shape, "train", dtype="<U10")
    for c in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == c))
        if len(members) <= len(held_out):
            raise ValueError(f"labels: class {c} has {len(members)} images, too few for {len(held_out) + 1} splits: give the splits")
        tenth = max(round(len(members) / 10), 1)
        for name, part in zip(held_out, (members[:tenth], members[-tenth:]), strict=False):
            which[part] = name
    return which
