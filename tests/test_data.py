"""Data sets: in their original order, with checksums, as batches that are a function of (seed, step)."""

import collections
import gzip
import hashlib
import io
import itertools
import tarfile

import jax
import numpy as np
import pytest
import tfds_directories

from experiments import data
from experiments.data import batches, prepare, restricted_imagenet, splits, tfds_sets
from experiments.data.digits import resized_digits
from experiments.runtime.errors import UserError

MNIST = ("mnist", (28, 28, 1))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    out = tmp_path_factory.mktemp("tfds")
    return str(out), tfds_directories.write_mnist(out)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    out = tmp_path_factory.mktemp("tfds_imagenet")
    return str(out), tfds_directories.write_imagenet(out)


def test_digits_are_real_disjoint_stratified_and_fixed():
    splits = {split: data.load_split("digits", split) for split in ("train", "validation", "test")}
    assert [len(s.labels) for s in splits.values()] == [1297, 100, 400]
    pixels = [{image.tobytes() for image in s.images} for s in splits.values()]
    assert all(not a & b for a, b in itertools.combinations(pixels, 2))
    counts = collections.Counter(splits["test"].labels.tolist())
    assert max(counts.values()) - min(counts.values()) <= 3
    assert splits["test"].images.max() == 255 and splits["test"].images.shape[1:] == (28, 28, 1)
    np.testing.assert_array_equal(splits["test"].images, data.load_split("digits", "test").images)


def test_digits_are_resized_as_jax_does_it_up_to_rounding():
    grey = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    expected = jax.image.resize(grey.astype(np.float32) * 255 / 16, (5, 28, 28), "bilinear")
    assert np.abs(resized_digits(grey)[..., 0] - expected).max() <= 0.5 + 1e-3
    assert resized_digits(np.full((1, 8, 8), 16)).min() == 255


def test_a_set_whose_order_is_not_known_is_refused_before_it_is_read():
    with pytest.raises(ValueError, match=r"known of mnist, fashion_mnist, cifar10, not of kmnist: use tfds:kmnist"):
        tfds_sets.in_memory("kmnist", (28, 28, 1))


def test_tfds_data_comes_back_in_its_original_order(mnist):
    data_dir, arrays = mnist
    for split, (images, labels) in arrays.items():
        found = tfds_sets.whole_split(*MNIST, split, data_dir)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.source["sha256"] == splits.digest(found.images, found.labels)


def test_the_second_load_comes_from_the_cache_and_a_damaged_cache_is_made_anew(mnist, monkeypatch, tmp_path):
    data_dir, arrays = mnist
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    tfds_sets.whole_split(*MNIST, "test", data_dir)
    monkeypatch.setattr(tfds_sets, "_decode", lambda *_: pytest.fail("decoded again"))
    tfds_sets.whole_split(*MNIST, "test", data_dir)
    monkeypatch.undo()
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    (file,) = tmp_path.glob("*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    np.testing.assert_array_equal(tfds_sets.whole_split(*MNIST, "test", data_dir).images, arrays["test"][0])


def test_validation_is_the_first_part_of_training(mnist):
    images, labels = mnist[1]["train"]
    whole = data.Images(images, labels, {})
    np.testing.assert_array_equal(splits.hold_out(whole, "validation", 15).images, images[:15])
    np.testing.assert_array_equal(splits.hold_out(whole, "train", 15).images, images[15:])


def test_missing_data_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"run python -m experiments\.prepare_data --dataset cifar10 --data_dir"):
        data.load_split("cifar10", "test", str(tmp_path))


def test_unknown_data_set():
    with pytest.raises(UserError, match="unknown data set 'svhn': choose one of digits, mnist"):
        data.load_split("svhn", "test")


def test_labels_in_another_order_are_refused(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    monkeypatch.setattr(tfds_sets, "original_order", lambda n, split: list(range(n)))
    with pytest.raises(UserError, match="not in the order of the released data set"):
        tfds_sets.whole_split(*MNIST, "test", mnist[0])


def test_nine_groups_of_imagenet():
    counts = collections.Counter(restricted_imagenet.imagenet_group(label) for label in range(1000))
    del counts[-1]
    assert [counts[i] for i in range(9)] == [118, 5, 3, 5, 21, 18, 9, 4, 20]


@pytest.mark.filterwarnings("ignore")
def test_restricted_imagenet_is_streamed_through_the_groups(imagenet):
    data_dir, classes = imagenet
    expected = collections.Counter(restricted_imagenet.imagenet_group(label) for label in classes for _ in range(5))
    del expected[-1]
    train, validation, test = (data.load_split("restricted_imagenet", split, data_dir) for split in ("train", "validation", "test"))
    assert collections.Counter(test.labels.tolist()) == expected
    assert not set(train.positions) & set(validation.positions)
    assert len(train.labels) + len(validation.labels) == len(test.labels)
    images, labels = test.fetch(np.arange(7))
    assert images.shape == (7, 224, 224, 3) and images.dtype == np.uint8
    for image, label in zip(images, labels, strict=True):  # a picture is painted in its class's number
        assert any(abs(int(np.median(image)) - c % 256) <= 3 and restricted_imagenet.imagenet_group(c) == label for c in classes)


def test_batches_are_a_function_of_seed_and_step():
    n, batch = 23, 5
    epoch = np.concatenate([batches.batch_indices(n, batch, 7, step) for step in range(4)])
    assert len(set(epoch.tolist())) == 20
    assert not np.array_equal(batches.batch_indices(n, batch, 7, 0), batches.batch_indices(n, batch, 7, 4))
    assert not np.array_equal(batches.batch_indices(n, batch, 7, 0), batches.batch_indices(n, batch, 8, 0))


@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_training_batches_follow_batch_indices_from_any_step(start, random):
    images, labels = random.integers(0, 256, (23, 4, 4, 1), np.uint8), np.arange(23, dtype=np.int32)
    resident = data.Images(images, labels, {})
    streamed = data.Stream(lambda position: images[position], np.arange(23), labels, {})
    for split in (resident, streamed):
        found = batches.training_batches(split, 8, 7, start)
        for step in range(start, start + 4):
            rows = batches.batch_indices(23, 8, 7, step)
            got_images, got_labels = next(found)
            assert got_images.shape == (jax.local_device_count(), 1, 2, 4, 4, 1)
            np.testing.assert_array_equal(np.reshape(got_images, (8, 4, 4, 1)), images[rows])
            np.testing.assert_array_equal(np.ravel(got_labels), labels[rows])
        found.close()


def test_several_batches_at_once_are_the_same_batches(random):
    images, labels = random.integers(0, 256, (23, 4, 4, 1), np.uint8), np.arange(23, dtype=np.int32)
    for split in (data.Images(images, labels, {}), data.Stream(lambda position: images[position], np.arange(23), labels, {})):
        alone, together = batches.training_batches(split, 8, 7, 2), batches.training_batches(split, 8, 7, 2, steps_at_once=3)
        for _ in range(2):
            found = next(together)
            for i in range(3):
                for ours, expected in zip(found, next(alone), strict=True):
                    np.testing.assert_array_equal(ours[:, i], expected[:, 0])
        alone.close()
        together.close()


@pytest.mark.parametrize(
    ("dataset", "raw_dir", "message"),
    [
        ("digits", None, "need no preparation"),
        ("svhn", None, "choose one of mnist"),
        ("mnist", "/nowhere", "--raw_dir=/nowhere is not a directory"),
        ("restricted_imagenet", None, "needs --raw_dir"),
    ],
)
def test_prepare_data_refuses(dataset, raw_dir, message):
    with pytest.raises(UserError, match=message):
        prepare.prepare(dataset, None, raw_dir)


def test_prepare_data_says_how_to_get_tensorflow(monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[prepare\]'"):
        prepare.prepare("mnist", None, None)


def idx_files(directory, arrays, packed):
    """The four files, 40 images each."""
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[split]
        for kind, header, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            raw = bytes(header) + np.asarray(values, np.uint8).tobytes()
            name = f"{prefix}-{kind}-ubyte"
            (directory / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [True, False])
def test_prepare_from_raw_idx_files_needs_neither_network_nor_tensorflow(mnist, tmp_path, monkeypatch, packed):
    monkeypatch.setenv("IROB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "RELEASED", {})
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: pytest.fail("asked for TensorFlow"))
    idx_files(tmp_path, mnist[1], packed)
    prepare.prepare("mnist", str(tmp_path / "out"), str(tmp_path))
    for split, (images, labels) in mnist[1].items():
        found = tfds_sets.whole_split(*MNIST, split, str(tmp_path / "out"))
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)


def test_prepare_refuses_raw_files_that_are_missing_broken_or_others(mnist, tmp_path):
    with pytest.raises(UserError, match=r"there is no train-images-idx3-ubyte\[\.gz\]"):
        prepare.prepare("mnist", str(tmp_path / "out"), str(tmp_path))
    idx_files(tmp_path, mnist[1], packed=True)
    with pytest.raises(UserError, match="not those of the released mnist"):
        prepare.prepare("mnist", str(tmp_path / "out"), str(tmp_path))
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be unpacked"):
        prepare.prepare("mnist", str(tmp_path / "out"), str(tmp_path))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the released one"):
        prepare.prepare("cifar10", str(tmp_path / "out"), str(tmp_path))


def test_cifar10_records(tmp_path, monkeypatch, random):
    """Records of a label and three planes of colour, five training files and one test file."""
    images, labels = random.integers(0, 256, (12, 32, 32, 3), np.uint8), np.arange(12, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            raw = records[2 * i : 2 * i + 2].tobytes()
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    monkeypatch.setattr(prepare, "CIFAR10_MD5", hashlib.md5((tmp_path / "cifar-10-binary.tar.gz").read_bytes()).hexdigest())
    for split, kept in (("train", slice(0, 10)), ("test", slice(10, 12))):
        found_images, found_labels = prepare.read_cifar10(tmp_path, split)
        np.testing.assert_array_equal(found_images, images[kept])
        np.testing.assert_array_equal(found_labels, labels[kept])
