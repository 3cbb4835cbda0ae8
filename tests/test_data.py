import collections
import itertools

import jax
import numpy as np
import pytest
import tfds_directories

from experiments import data, prepare_data
from experiments.cli import UserError


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    out = tmp_path_factory.mktemp("tfds")
    return str(out), tfds_directories.write_mnist(out)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    out = tmp_path_factory.mktemp("tfds_imagenet")
    return str(out), tfds_directories.write_imagenet(out)


def test_digits_are_real_disjoint_stratified_and_fixed():
    splits = {split: data.load("digits", split) for split in ("train", "validation", "test")}
    assert [len(s.labels) for s in splits.values()] == [1297, 100, 400]
    pixels = [{image.tobytes() for image in s.images} for s in splits.values()]
    assert all(not a & b for a, b in itertools.combinations(pixels, 2))
    counts = collections.Counter(splits["test"].labels.tolist())
    assert max(counts.values()) - min(counts.values()) <= 3
    assert splits["test"].images.max() == 255 and splits["test"].images.shape[1:] == (28, 28, 1)
    np.testing.assert_array_equal(splits["test"].images, data.load("digits", "test").images)


def test_tfds_data_comes_back_in_its_original_order(mnist):
    data_dir, arrays = mnist
    for split, (images, labels) in arrays.items():
        found = data.cached("mnist", split, data_dir)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.source["sha256"] == data.digest(found.images, found.labels)


def test_the_second_load_comes_from_the_cache_and_a_damaged_cache_is_made_anew(mnist, monkeypatch, tmp_path):
    data_dir, arrays = mnist
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    data.cached("mnist", "test", data_dir)
    monkeypatch.setattr(data, "_decode", lambda *_: pytest.fail("decoded again"))
    data.cached("mnist", "test", data_dir)
    monkeypatch.undo()
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    (file,) = tmp_path.glob("*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    np.testing.assert_array_equal(data.cached("mnist", "test", data_dir).images, arrays["test"][0])


def test_validation_is_the_first_part_of_training(mnist):
    images, labels = mnist[1]["train"]
    whole = data.Images(images, labels, {})
    np.testing.assert_array_equal(data.hold_out(whole, "validation", 15).images, images[:15])
    np.testing.assert_array_equal(data.hold_out(whole, "train", 15).images, images[15:])


def test_missing_data_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"run python -m experiments\.prepare_data --dataset cifar10 --data_dir"):
        data.load("cifar10", "test", str(tmp_path))


def test_unknown_data_set():
    with pytest.raises(UserError, match="unknown data set 'svhn': choose one of digits, mnist"):
        data.load("svhn", "test")


def test_labels_in_another_order_are_refused(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "original_order", lambda n, split: list(range(n)))
    with pytest.raises(UserError, match="not in the order of the released data set"):
        data.cached("mnist", "test", mnist[0])


def test_nine_groups_of_imagenet():
    counts = collections.Counter(data.imagenet_group(label) for label in range(1000))
    del counts[-1]
    assert [counts[i] for i in range(9)] == [118, 5, 3, 5, 21, 18, 9, 4, 20]


@pytest.mark.filterwarnings("ignore")
def test_restricted_imagenet_is_streamed_through_the_groups(imagenet):
    data_dir, classes = imagenet
    expected = collections.Counter(data.imagenet_group(label) for label in classes for _ in range(5))
    del expected[-1]
    train, validation, test = (data.load("restricted_imagenet", split, data_dir) for split in ("train", "validation", "test"))
    assert collections.Counter(test.labels.tolist()) == expected
    assert not set(train.positions) & set(validation.positions)
    assert len(train.labels) + len(validation.labels) == len(test.labels)
    images, labels = test.fetch(np.arange(7))
    assert images.shape == (7, 224, 224, 3) and images.dtype == np.uint8
    for image, label in zip(images, labels, strict=True):  # a picture is painted in its class's number
        assert any(abs(int(np.median(image)) - c % 256) <= 3 and data.imagenet_group(c) == label for c in classes)


def test_batches_are_a_function_of_seed_and_step():
    n, batch = 23, 5
    epoch = np.concatenate([data.batch_indices(n, batch, 7, step) for step in range(4)])
    assert len(set(epoch.tolist())) == 20
    assert not np.array_equal(data.batch_indices(n, batch, 7, 0), data.batch_indices(n, batch, 7, 4))
    assert not np.array_equal(data.batch_indices(n, batch, 7, 0), data.batch_indices(n, batch, 8, 0))


@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_training_batches_follow_batch_indices_from_any_step(start, random):
    images, labels = random.integers(0, 256, (23, 4, 4, 1), np.uint8), np.arange(23, dtype=np.int32)
    resident = data.Images(images, labels, {})
    streamed = data.Stream(lambda position: images[position], np.arange(23), labels, {})
    for split in (resident, streamed):
        batches = data.training_batches(split, 8, 7, start)
        for step in range(start, start + 4):
            rows = data.batch_indices(23, 8, 7, step)
            got_images, got_labels = next(batches)
            assert got_images.shape == (jax.local_device_count(), 2, 4, 4, 1)
            np.testing.assert_array_equal(np.reshape(got_images, (8, 4, 4, 1)), images[rows])
            np.testing.assert_array_equal(np.ravel(got_labels), labels[rows])
        batches.close()


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
        prepare_data.prepare(dataset, None, raw_dir)


def test_prepare_data_says_how_to_get_tensorflow(monkeypatch):
    monkeypatch.setattr(prepare_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'irob\[prepare\]'"):
        prepare_data.prepare("mnist", None, None)
