"""Data of one's own in folders of classes: `folder:DIR`, or `folder:DIR@64` to resize, wherever the name of a data set is expected.

    DIR/CLASS/image.png                  divided 80 : 10 : 10 within every class by a fixed seed
    DIR/train/CLASS/image.png            with DIR/validation (or val) and DIR/test. Without the former a tenth of train is held out for it;
                                         where there is no test, DIR/validation is the test, and a tenth of train is held out

Without a size all images must have one size. Images are gray where all that are looked at are, else RGB. Files are ordered by name.
"""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data.checks import SPLITS, refuse_empty_classes, stratified
from experiments.data.sizes import in_memory_or_streamed, place_and_size, resized
from experiments.data.splits import Split
from experiments.runtime.errors import UserError, one_line, refuse

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
VALIDATION = ("validation", "val", "valid")
Files = dict[str, list[tuple[pathlib.Path, int]]]  # split -> (file, label)


@functools.lru_cache(maxsize=2)
def read_folder(text: str) -> tuple[tuple[int, int, int], tuple[str, ...], dict[str, Any]]:
    """The shape of the images, the names of the classes, and a loader of each split.

    Raises:
      UserError: if there is no such folder, a class has no images, or the images have several sizes and none is given.
    """
    place, size = place_and_size(text)
    root = pathlib.Path(place)
    refuse(not root.is_dir(), f"folder:{place} is not a folder")
    try:
        classes, files = files_of(root)
    except ValueError as error:
        raise UserError(f"folder:{place}: {error}") from error
    everything = [file for split in SPLITS for file, _ in files[split]]
    shape = shape_of(everything, size, f"folder:{text}")
    return shape, classes, {split: functools.partial(load_folder, text, files[split], shape, split) for split in SPLITS}


def files_of(root: pathlib.Path) -> tuple[tuple[str, ...], Files]:
    """The classes of a folder, and the files of each split with their labels.

    Raises:
      ValueError: if it is not such a folder.
    """
    folders = visible_folders(root)
    validation = next((name for name in VALIDATION if (root / name).is_dir()), None)
    if "train" not in {folder.name for folder in folders}:
        classes = tuple(folder.name for folder in folders)
        files = labelled(root, classes)
        labels = np.array([label for _, label in files], np.int32)
        refuse_empty_classes(labels, classes)
        which = stratified(labels)
        return classes, {split: [file for file, chosen in zip(files, which, strict=True) if chosen == split] for split in SPLITS}
    classes = tuple(folder.name for folder in visible_folders(root / "train"))
    parts = {name: labelled(root / name, classes) for name in ("train", validation, "test") if name and (root / name).is_dir()}
    train = parts["train"]
    refuse_empty_classes(np.array([label for _, label in train], np.int32), classes)
    if validation is None or "test" not in parts:
        which = stratified(np.array([label for _, label in train], np.int32), ("validation",))
        held_out = [file for file, chosen in zip(train, which, strict=True) if chosen == "validation"]
        train = [file for file, chosen in zip(train, which, strict=True) if chosen == "train"]
    else:
        held_out = parts[validation]
    if "test" not in parts and validation is None:
        raise ValueError("there is a folder train, but none of test, validation, val")
    test = parts["test"] if "test" in parts else parts[str(validation)]
    for name, part in (("validation", held_out), ("test", test)):
        if not part:
            raise ValueError(f"{name} has no image")
    return classes, {"train": train, "validation": held_out, "test": test}


def visible_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def labelled(root: pathlib.Path, classes: Sequence[str]) -> list[tuple[pathlib.Path, int]]:
    """The images of each class, by name.

    Raises:
      ValueError: if there are fewer than two classes, or a folder that is none of them.
    """
    if len(classes) < 2:
        raise ValueError(f"there must be a folder for each of at least 2 classes, found {', '.join(classes) or 'none'}")
    if unknown := [folder.name for folder in visible_folders(root) if folder.name not in classes]:
        raise ValueError(f"{root.name} has a folder {unknown[0]!r}, which is no class of train")
    return [
        (file, label)
        for label, name in enumerate(classes)
        if (root / name).is_dir()
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]


def shape_of(files: Sequence[pathlib.Path], size: tuple[int, int] | None, name: str) -> tuple[int, int, int]:
    """(H, W, c) of images: of the given size, or that of all of them.

    Raises:
      UserError: if they have several sizes and none is given, or one cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    def header(file: pathlib.Path) -> tuple[tuple[int, int], str]:
        try:
            with Image.open(file) as image:
                return (image.height, image.width), image.mode
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{file} is not an image that can be read: {one_line(error, 120)}") from error

    looked_at = files if size is None else files[:: max(len(files) // 100, 1)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(header, looked_at))
    sizes = {size: file for file, (size, _) in zip(looked_at, found, strict=True)}
    if size is None and len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise UserError(f"{name}: images have several sizes ({first.name} {one}, {second.name} {other}): give one, as in {name}@{one[0]}")
    gray = all(mode in ("L", "LA", "1") or mode.startswith("I;16") for _, mode in found)
    height, width = size or next(iter(sizes))
    return height, width, 1 if gray else 3


def load_folder(
    text: str, files: Sequence[tuple[pathlib.Path, int]], shape: tuple[int, int, int], split: str, data_dir: str | None
) -> Split:
    """A split, in memory where it fits."""
    from PIL import Image

    def read(position: int) -> np.ndarray:
        file = files[position][0]
        try:
            with Image.open(file) as image:
                return resized(image, shape)
        except OSError as error:
            raise UserError(f"{file} is not an image that can be read: {one_line(error, 120)}") from error

    root = pathlib.Path(place_and_size(text)[0])
    listing = "\n".join(f"{file.relative_to(root)} {file.stat().st_size} {label}" for file, label in files)
    changed = max(file.stat().st_mtime_ns for file, _ in files)
    sha256 = hashlib.sha256(f"{shape} {listing}".encode()).hexdigest()
    key = hashlib.sha256(f"{root.absolute()} {changed} {sha256}".encode()).hexdigest()
    source = {"name": root.name, "from": f"folder {root}, {shape[0]} x {shape[1]}", "sha256": sha256}
    labels = np.array([label for _, label in files], np.int32)
    return in_memory_or_streamed(read, np.arange(len(files)), labels, shape, source, key)
