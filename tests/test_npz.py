"""Data in an .npz file: what is stored is read, and what is no data set is refused with the array and what it must be."""

import numpy as np
import pytest

from experiments import data
from experiments.runtime.errors import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 6, 9, 3), np.uint8)
LABELS = np.arange(40) % 2
SPLIT = np.array(["train"] * 20 + ["validation"] * 8 + ["test"] * 12)


def stored(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return f"npz:{tmp_path / 'mine.npz'}"


def test_what_is_stored_is_read(tmp_path):
    name = stored(tmp_path, images=IMAGES, labels=LABELS, split=SPLIT, classes=np.array(["cat", "dog"]))
    found = data.find_dataset(name)
    assert found.image_shape == (6, 9, 3) and found.classes == ("cat", "dog")
    test = data.load_split(name, "test")
    np.testing.assert_array_equal(test.images, IMAGES[28:])
    np.testing.assert_array_equal(test.labels, LABELS[28:])
    assert test.source["name"] == "mine" and test.source["from"].startswith("npz ") and len(test.source["sha256"]) == 64


def test_floats_are_pixels_in_0_1(tmp_path):
    gray = IMAGES[..., 0] / 255.0
    name = stored(tmp_path, images=gray, labels=LABELS, split=SPLIT)
    test = data.load_split(name, "test")
    assert test.images.shape == (12, 6, 9, 1) and test.images.dtype == np.float32
    np.testing.assert_allclose(data.to_unit(test.images)[..., 0], gray[28:], atol=1e-7)
    np.testing.assert_allclose(data.to_unit(IMAGES), IMAGES / 255.0, atol=1e-7)


def test_without_splits_every_class_is_divided_80_10_10_and_always_so(tmp_path):
    labels = np.repeat([0, 1, 2], (100, 50, 20))
    images = np.arange(170, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    name = stored(tmp_path, images=images, labels=labels)
    splits = {split: data.load_split(name, split) for split in ("train", "validation", "test")}
    counts = {split: np.bincount(found.labels).tolist() for split, found in splits.items()}
    assert counts == {"train": [80, 40, 16], "validation": [10, 5, 2], "test": [10, 5, 2]}
    together = np.concatenate([found.images[:, 0, 0, 0] for found in splits.values()])
    np.testing.assert_array_equal(np.sort(together), np.arange(170))
    first = splits["test"].images.copy()
    np.testing.assert_array_equal(data.load_split(stored(tmp_path, images=images, labels=labels), "test").images, first)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "there is no array 'labels'; the file has images"),
        ({"images": IMAGES[0, 0], "labels": LABELS}, r"images must be \[n, H, W\] or \[n, H, W, c\], got shape \(9, 3\)"),
        (
            {"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS},
            r"images look like \[n, c, H, W\], got shape \(40, 3, 6, 9\): transpose",
        ),
        ({"images": IMAGES / 255.0 / 255.0, "labels": LABELS}, r"the largest here is 0.00392157: divided by 255 twice\?"),
        ({"images": IMAGES / 1.0, "labels": LABELS}, r"images of floats must be in \[0, 1\], got 0 .. 255: divide by 255, or store uint8"),
        ({"images": np.full((40, 2, 2), np.nan), "labels": LABELS}, r"images of floats must be in \[0, 1\], some are not finite"),
        ({"images": IMAGES.astype(np.int32), "labels": LABELS}, r"images must be uint8, or floats in \[0, 1\], got int32"),
        ({"images": IMAGES, "labels": LABELS[:9]}, r"labels must be 40 whole numbers, one for each image, got int64 of shape \(9,\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels must be 40 whole numbers, one for each image, got float64"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"labels must be in 0 \.\. 0, got -1 \.\. 0"),
        ({"images": IMAGES, "labels": LABELS + 1, "classes": np.array(["a", "b"])}, r"labels must be in 0 \.\. 1, got 1 \.\. 2"),
        ({"images": IMAGES, "labels": LABELS + 1}, r"labels: class 0 \(0\) has no image in the train split"),
        ({"images": IMAGES, "labels": 0 * LABELS}, r"labels must name at least 2 classes, got 1"),
        ({"images": IMAGES, "labels": LABELS, "split": SPLIT[:3]}, "split must have one of train, validation, test for each image"),
        ({"images": IMAGES, "labels": LABELS, "split": np.array(["train", "test"] * 20)}, "and each of them, got"),
        ({"images": IMAGES[:4], "labels": LABELS[:4]}, "labels: class 0 has 2 images, too few for 3 splits: give the splits"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        data.find_dataset(stored(tmp_path, **arrays))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mine.npz cannot be read: No such file"):
        data.find_dataset(f"npz:{tmp_path / 'mine.npz'}")
    for content in (b"", b"PK nothing", b"text"):
        (tmp_path / "mine.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"mine.npz is not an .npz file of arrays"):
            data.find_dataset(f"npz:{tmp_path / 'mine.npz'}")
    np.savez(tmp_path / "mine.npz", images=np.array([{}], object), labels=LABELS)
    with pytest.raises(UserError, match=r"is not an \.npz file of arrays"):
        data.find_dataset(f"npz:{tmp_path / 'mine.npz'}")
