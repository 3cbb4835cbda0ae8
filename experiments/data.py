"""Named data sets as uint8 images and integer labels.

`load(name, split)` gives `Images`, wholly in memory, or a `Stream`, which reads what it is asked for. Both have labels and `fetch(indices)`.
Splits are "train", "validation" and "test"; validation is held out of the training part, as in the paper its first images.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, parallel
from experiments.cli import UserError


class Images(NamedTuple):
    """A split in memory: images uint8 `[n, H, W, c]`, labels int32 `[n]`, source: where it comes from, for the record."""

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
        """Images and labels at these indices, decoded by a thread per core."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            images = list(threads.map(self.read, self.positions[indices].tolist()))
        return np.stack(images), self.labels[indices]

    def first(self, n: int) -> "Stream":
        """The first n examples."""
        return self._replace(positions=self.positions[:n], labels=self.labels[:n])


Split = Images | Stream


class Dataset(NamedTuple):
    """What is known of a data set by its name. load: `(split, data_dir) -> Split`, split in train, validation, test."""

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    load: Callable[[str, str | None], Split]


def load(name: str, split: str, data_dir: str | None = None) -> Split:
    """A split of a named data set.

    Args:
      name: a key of `DATASETS`.
      split: "train", "validation" or "test".
      data_dir: where tfds data sets lie; None for tfds's default, which $TFDS_DATA_DIR sets.

    Raises:
      UserError: for an unknown name, or data that is not there.
    """
    return find(name).load(split, data_dir)


def find(name: str) -> Dataset:
    """The entry of `DATASETS`, or a `UserError` that lists them."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def to_unit(images: jax.Array | np.ndarray) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]."""
    return jnp.asarray(images, jnp.float32) / 255.0


def hold_out(whole: Images, split: str, validation: int) -> Images:
    """Validation is the first `validation` images of the training part, train the rest."""
    kept = slice(0, validation) if split == "validation" else slice(validation, None)
    return Images(whole.images[kept], whole.labels[kept], whole.source)


# --- scikit-learn's digits ------------------------------------------------------------------------------------------------------------------


def load_digits(split: str, data_dir: str | None) -> Images:
    """1,797 real handwritten digits, 8 x 8 in 17 grey levels, resized bilinearly to 28 x 28; stratified 1,297 / 100 / 400, fixed seed."""
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    rest, test = sklearn.model_selection.train_test_split(
        np.arange(len(digits.target)), test_size=400, stratify=digits.target, random_state=0
    )
    train, validation = sklearn.model_selection.train_test_split(rest, test_size=100, stratify=digits.target[rest], random_state=0)
    chosen = {"train": train, "validation": validation, "test": test}[split]
    images, labels = resized_digits(digits.images[chosen].astype(np.int64)), digits.target[chosen].astype(np.int32)
    where = {"name": "digits", "from": "sklearn.datasets.load_digits, 28 x 28 bilinear", "sha256": digest(images, labels)}
    return Images(images, labels, where)


def resized_digits(grey: np.ndarray) -> np.ndarray:
    """`[n, 8, 8]` in 0..16 to uint8 `[n, 28, 28, 1]`, bilinear between pixel centres, exact: many values fall on a half, so floats would not do.

    Output i lies at (4 i - 5) / 14 on the axis of inputs, so all weights are whole 14ths.
    """
    at = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)
    weights = np.clip(14 - np.abs(at[:, None] - 14 * np.arange(8)), 0, None)  # [28, 8], rows sum to 14
    scaled = 255 * np.einsum("ri,nij,cj->nrc", weights, grey, weights)  # in units of 1 / (16 * 14 * 14)
    unit = 16 * 14 * 14
    return ((2 * scaled + unit) // (2 * unit)).astype(np.uint8)[..., None]


# --- tfds, in memory ------------------------------------------------------------------------------------------------------------------------


class Original(NamedTuple):
    """The first labels of a data set in its original order, to check that it was found again."""

    train: tuple[int, ...]
    test: tuple[int, ...]


ORIGINAL_LABELS = {
    "mnist": Original((5, 0, 4, 1, 9, 2, 1, 3, 1, 4), (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)),
    "fashion_mnist": Original((9, 0, 0, 3, 0, 2, 7, 2, 5, 5), (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)),
    "cifar10": Original((6, 9, 9, 4, 1, 1, 2, 7, 8, 3), (3, 8, 8, 0, 6, 6, 1, 6, 3, 1)),
}


def in_memory(name: str) -> Callable[[str, str | None], Images]:
    """Loader of a tfds data set that fits in memory, validation = the first 5,000 training images as in the paper."""

    def load_split(split: str, data_dir: str | None) -> Images:
        if split == "test":
            return cached(name, "test", data_dir)
        return hold_out(cached(name, "train", data_dir), split, 5_000)

    return load_split


def cached(name: str, split: str, data_dir: str | None) -> Images:
    """A whole tfds split in its original order, decoded once and kept under $IROB_CACHE (default ~/.cache/irob) with its checksum."""
    source = open_tfds(name, split, data_dir)
    info = source.dataset_info
    files = [str(info.data_dir), *(f"{p.name}:{p.stat().st_size}" for p in sorted(pathlib.Path(info.data_dir).iterdir()) if p.is_file())]
    path = cli.cache_dir() / f"{name}-{info.version}-{split}-{hashlib.sha256('|'.join(files).encode()).hexdigest()[:16]}.npz"
    images, labels, sha256 = kept(path, lambda: _decode(source, name, split))
    return Images(images, labels, {"name": name, "from": f"tfds {info.full_name} at {info.data_dir}", "sha256": sha256})


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the pixels and labels."""
    hasher = hashlib.sha256(images.tobytes())
    hasher.update(labels.tobytes())
    return hasher.hexdigest()


def open_tfds(name: str, split: str, data_dir: str | None) -> Any:
    """The random-access source of a prepared tfds split."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if builder.is_prepared() and builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, which has no random access: prepare {name} in another --data_dir"
        )
    if not builder.is_prepared():
        place = "" if data_dir is None else f" --data_dir {data_dir}"
        raise UserError(
            f"there is no prepared {name} in {builder.data_path.parent.parent}: run python -m experiments.prepare_data --dataset {name}{place}"
            " (or point --data_dir or $TFDS_DATA_DIR to where it is)"
        )
    return builder.as_data_source(split=split)


def original_order(n: int, split: str) -> list[int]:
    """Position j on disk holds example `original_order[j]`: tfds shuffles by a hash of the key, and these builders' keys are indices."""
    from tensorflow_datasets.core.hashing import Hasher

    return sorted(range(n), key=Hasher(split).hash_key)


def _decode(source: Any, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    n = len(source)
    images = np.empty((n, *DATASETS[name].image_shape), np.uint8)
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


def kept(path: pathlib.Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, str]:
    """Two arrays and their digest from a file, made and written first if it is not there or damaged."""
    try:
        with np.load(path) as stored:
            first, labels = stored["first"], stored["labels"]
            if (sha256 := digest(first, labels)) == stored["sha256"]:
                return first, labels, sha256
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    first, labels = make()
    sha256 = digest(first, labels)
    save_atomically(path, lambda file: np.savez(file, sha256=sha256, first=first, labels=labels))
    return first, labels, sha256


def save_atomically(path: pathlib.Path, write: Callable[[Any], None]) -> None:
    """Writes a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz that is there whole or not at all."""
    save_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}): delete it to measure anew") from error


# --- Restricted ImageNet, streamed ----------------------------------------------------------------------------------------------------------

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
    path = cli.cache_dir() / f"restricted_imagenet-{info.version}-{split}-{key}.npz"

    def make() -> tuple[np.ndarray, np.ndarray]:
        builder = tfds.builder("imagenet2012", data_dir=pathlib.Path(info.data_dir).parent.parent)
        bare = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        groups = np.array([imagenet_group(int(bare[i]["label"])) for i in range(len(bare))], np.int32)
        positions = np.flatnonzero(groups >= 0)
        return positions, groups[positions]

    return kept(path, make)


# --- the table ------------------------------------------------------------------------------------------------------------------------------

DIGITS = tuple("0123456789")
FASHION = ("top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATASETS = {
    "digits": Dataset((28, 28, 1), DIGITS, load_digits),
    "mnist": Dataset((28, 28, 1), DIGITS, in_memory("mnist")),
    "fashion_mnist": Dataset((28, 28, 1), FASHION, in_memory("fashion_mnist")),
    "cifar10": Dataset((32, 32, 3), CIFAR10, in_memory("cifar10")),
    "restricted_imagenet": Dataset((224, 224, 3), tuple(IMAGENET_GROUPS), load_restricted_imagenet),
}


# --- batches --------------------------------------------------------------------------------------------------------------------------------


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of a training step: every epoch goes through a fresh permutation; what is left of it after the last whole batch waits.

    A function of (seed, step) alone, so a run can start at any step.
    """
    epoch, batch = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def training_batches(split: Split, batch_size: int, seed: int, step: int, steps_at_once: int = 1) -> Generator[Any]:
    """Sharded (images, labels) `[devices, steps at once, batch, ...]` of this and all following steps.

    Images in memory are copied to the devices once and gathered there; a stream is read two such batches ahead in the background.
    """
    n = len(split.labels)
    rows_to_come = (
        np.stack([parallel.share(batch_indices(n, batch_size, seed, first + i)) for i in range(steps_at_once)])
        for first in itertools.count(step, steps_at_once)
    )
    if isinstance(split, Images):
        resident = parallel.replicate((split.images, split.labels))
        gather = parallel.pmap(lambda arrays, rows: jax.tree.map(lambda a: a[rows], arrays))
        for rows in rows_to_come:
            yield gather(resident, parallel.shard(rows, axis=1))
    else:

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(array.reshape(*rows.shape, *array.shape[1:]) for array in split.fetch(rows.reshape(-1)))

        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(fetch, next(rows_to_come)) for _ in range(2)]
            try:
                for rows in rows_to_come:
                    yield parallel.shard(pending.pop(0).result(), axis=1)
                    pending.append(reader.submit(fetch, rows))
            finally:
                for future in pending:
                    future.cancel()
