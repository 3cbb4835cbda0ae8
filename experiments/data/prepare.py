"""Writes a data set as a tfds directory in the random-access format that the commands read."""

import gzip
import hashlib
import importlib.util
import io
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from experiments import data
from experiments.data.sizes import place_and_size
from experiments.data.splits import digest
from experiments.runtime.errors import UserError, one_line

# Data set -> name in tfds.
TFDS_NAMES = {"mnist": "mnist", "fashion_mnist": "fashion_mnist", "cifar10": "cifar10", "restricted_imagenet": "imagenet2012"}
# SHA-256 of pixels and labels (`splits.digest`) of the released sets.
RELEASED = {
    ("mnist", "train"): "6a364e333ea1f8ab86e4d641d64a8cf8d8644433f54b0a78e32c2b9e143672d0",
    ("mnist", "test"): "45a60edfded3b2bb860a7fd195c83431011e7f04318268b4f2de30030af9444e",
    ("fashion_mnist", "train"): "c7d8cfe8172756709eda8bbe8b201cb44f70785b4cd9974a82408b36cc1f72e4",
    ("fashion_mnist", "test"): "2589de149ea70a51076dfb7116c581fbd9b4c7b39b8e9c9f19ec089d65d659b8",
}
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of cifar-10-binary.tar.gz, as published with it


def prepare(dataset: str, data_dir: str | None, raw_dir: str | None) -> str:
    """Prepares a data set and reads its splits back; returns a line that says what is there.

    Raises:
      UserError: for an unknown data set, without TensorFlow where it is needed, or if the raw files are not there or not the released ones.
    """
    if dataset not in TFDS_NAMES and not dataset.startswith("tfds:"):
        bundled = " (digits come with scikit-learn and need no preparation)" if dataset == "digits" else ""
        raise UserError(f"--dataset={dataset}: choose one of {', '.join(TFDS_NAMES)}, or tfds:NAME{bundled}")
    if raw_dir is not None and not pathlib.Path(raw_dir).is_dir():
        raise UserError(f"--raw_dir={raw_dir} is not a directory")
    if data_dir is not None:
        try:
            pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--data_dir={data_dir} cannot be written ({error.strerror or error}): choose another") from error
    if dataset == "restricted_imagenet" and raw_dir is None:
        raise UserError("restricted_imagenet needs --raw_dir with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org")
    if raw_dir is not None and dataset in READERS:
        from_raw_files(dataset, data_dir, pathlib.Path(raw_dir))
    else:
        through_tfds(dataset, data_dir, raw_dir)
    counts = [f"{len(data.load_split(dataset, split, data_dir).labels)} {split}" for split in ("train", "validation", "test")]
    return f"{dataset}: {', '.join(counts)} images"


def through_tfds(dataset: str, data_dir: str | None, raw_dir: str | None) -> None:
    """Downloads (or takes from raw_dir) and writes as tfds does, checksums verified."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("downloading data needs TensorFlow (reading it does not): pip install -e '.[prepare]'")
    import tensorflow_datasets as tfds

    name = TFDS_NAMES.get(dataset) or place_and_size(dataset.removeprefix("tfds:"))[0]
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    raw = None if raw_dir is None else pathlib.Path(raw_dir).absolute()
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=raw))
    except Exception as error:  # tfds raises many kinds: no network, a missing file, a checksum that does not match
        advice = "give --raw_dir if there is no network" if raw_dir is None else f"{raw_dir} must hold the original files"
        raise UserError(f"{dataset} could not be prepared: {one_line(error, 300)}; {advice}") from error


def from_raw_files(dataset: str, data_dir: str | None, raw_dir: pathlib.Path) -> None:
    """Writes the original files' contents under the keys of the released builder."""
    splits = {}
    for split in ("train", "test"):
        images, labels = READERS[dataset](raw_dir, split)
        if digest(images, labels) != RELEASED.get((dataset, split), digest(images, labels)):
            raise UserError(f"the {split} files in {raw_dir} are not those of the released {dataset}: their contents differ")
        splits[split] = released_examples(dataset, split, images, labels)
    write_tfds(dataset, splits, data_dir, {"label": data.CIFAR10} if dataset == "cifar10" else {})


def released_examples(dataset: str, split: str, images: np.ndarray, labels: np.ndarray) -> Iterable[tuple[Any, dict[str, Any]]]:
    """(key, example) as the released builders have them: the key is the index; cifar10 carries an id."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        extra = {"id": f"{split}_{i:05d}"} if dataset == "cifar10" else {}
        yield i, {"image": encoded(image, "png"), "label": int(label), **extra}


def encoded(image: np.ndarray, kind: str) -> bytes:
    """A uint8 image as a file (given an array, tfds would call TensorFlow)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, format=kind)
    return buffer.getvalue()


def write_tfds(name: str, splits: Mapping[str, Iterable[Any]], data_dir: str | None, classes: Mapping[str, Any], **body: Any) -> None:
    """Writes a tfds directory of a released builder's name and features from our own (key, example) pairs.

    Args:
      splits: split -> pairs.
      classes: feature -> names of its classes, where the builder would read them from a download.
      body: attributes of the builder to replace.
    """
    import tensorflow_datasets as tfds

    released = tfds.builder_cls(name)

    def split_generators(self: Any, _: Any) -> dict[str, Any]:
        for feature, names in classes.items():
            self.info.features[feature].names = list(names)
        return {split: self._generate_examples(split) for split in splits}

    def generate_examples(self: Any, split: str) -> Iterable[Any]:
        yield from splits[split]

    own = {"__module__": released.__module__, "_split_generators": split_generators, "_generate_examples": generate_examples, **body}
    with tfds.core.registered.skip_registration():
        builder = type(released.__name__, (released,), own)(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()


def read_idx(raw_dir: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels from idx files (a header of 16 or 8 bytes, then one byte a value)."""
    prefix = {"train": "train", "test": "t10k"}[split]

    def values(kind: str, header: int) -> np.ndarray:
        for name in (f"{prefix}-{kind}-ubyte.gz", f"{prefix}-{kind}-ubyte"):
            file = raw_dir / name
            if file.exists():
                try:
                    raw = file.read_bytes()
                    return np.frombuffer(gzip.decompress(raw) if name.endswith(".gz") else raw, np.uint8)[header:]
                except (OSError, EOFError, zlib.error) as error:
                    raise UserError(f"{file} cannot be unpacked ({one_line(error, 120)}): get it again") from error
        raise UserError(f"there is no {prefix}-{kind}-ubyte[.gz] in {raw_dir}")

    images, labels = values("images-idx3", 16), values("labels-idx1", 8)
    if len(images) != 784 * len(labels):
        raise UserError(f"the {split} files in {raw_dir} are not whole: {len(images)} pixels for {len(labels)} labels of 28 x 28 images")
    return images.reshape(-1, 28, 28, 1), labels.astype(np.int32)


def read_cifar10(raw_dir: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels from cifar-10-binary.tar.gz (records of one label and 3 x 32 x 32 pixels)."""
    archive = raw_dir / "cifar-10-binary.tar.gz"
    if not archive.exists():
        raise UserError(f"there is no {archive.name} in {raw_dir}")
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror or error}): get it again") from error
    if hashlib.md5(content).hexdigest() != CIFAR10_MD5:
        raise UserError(f"{archive} is not the released one: its checksum differs")
    names = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    with tarfile.open(archive) as tar:
        members = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        raw = b"".join(member.read() for member in members if member is not None)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].astype(np.int32)


READERS: dict[str, Callable[[pathlib.Path, str], tuple[np.ndarray, np.ndarray]]] = {
    "mnist": read_idx,
    "fashion_mnist": read_idx,
    "cifar10": read_cifar10,
}
