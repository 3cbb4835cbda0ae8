"""Folders of images, sets of tfds by name, functions: what is there is read, what is no data set is refused in one line."""

import numpy as np
import pytest
import tfds_directories
from PIL import Image

from experiments import data
from experiments.data import sizes, tfds_any
from experiments.data.prepare import prepare
from experiments.data.splits import Images, Stream
from experiments.runtime.errors import UserError

RANDOM = np.random.default_rng(0)


def write(root, split, classes=("cat", "dog"), n=10, size=(6, 9), mode="RGB"):
    """Pictures of one color each, `[n]` of each class; returns {(split, class, i): color}."""
    colors = {}
    for c in classes:
        folder = root / split / c
        folder.mkdir(parents=True)
        for i in range(n):
            color = tuple(RANDOM.integers(0, 256, 3).tolist()) if mode == "RGB" else int(RANDOM.integers(0, 256))
            Image.new(mode, (size[1], size[0]), color).save(folder / f"{i:03d}.png")
            colors[c, i] = color
    return colors


def test_folders_of_splits(tmp_path):
    for split in ("train", "val", "test"):
        colors = write(tmp_path, split, n={"train": 7, "val": 2, "test": 3}[split])
    (tmp_path / "test" / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no image")
    found = data.find_dataset(f"folder:{tmp_path}")
    assert found.image_shape == (6, 9, 3) and found.classes == ("cat", "dog")
    splits = {split: data.load_split(f"folder:{tmp_path}", split) for split in ("train", "validation", "test")}
    assert {split: np.bincount(part.labels).tolist() for split, part in splits.items()} == {
        "train": [7, 7],
        "validation": [2, 2],
        "test": [3, 3],
    }
    test = splits["test"]
    assert isinstance(test, Images) and test.images.dtype == np.uint8 and test.source["sha256"]
    for k, (c, i) in enumerate([(c, i) for c in ("cat", "dog") for i in range(3)]):
        assert np.all(test.images[k] == np.array(colors[c, i]))


def test_folders_of_classes_are_divided_and_gray_stays_gray(tmp_path):
    write(tmp_path, ".", n=20, mode="L")
    name = f"folder:{tmp_path}@8x4"
    assert data.find_dataset(name).image_shape == (8, 4, 1)
    splits = {split: data.load_split(name, split) for split in ("train", "validation", "test")}
    assert {split: np.bincount(part.labels).tolist() for split, part in splits.items()} == {
        "train": [16, 16],
        "validation": [2, 2],
        "test": [2, 2],
    }
    pixels = np.concatenate([part.images[:, 0, 0, 0] for part in splits.values()])
    everything = [np.asarray(Image.open(file))[0, 0] for file in tmp_path.glob("*/*.png")]
    np.testing.assert_array_equal(np.sort(pixels), np.sort(everything))


@pytest.mark.parametrize(("there", "counts"), [(("train", "val"), ([9, 9], [1, 1], [4, 4])), (("train", "test"), ([9, 9], [1, 1], [4, 4]))])
def test_what_is_missing_is_held_out_of_the_training_images(tmp_path, there, counts):
    write(tmp_path, there[0], n=10)
    write(tmp_path, there[1], n=4)
    found = [np.bincount(data.load_split(f"folder:{tmp_path}", split).labels).tolist() for split in ("train", "validation", "test")]
    assert tuple(found) == counts


def test_a_large_folder_is_a_stream_of_the_same_images(tmp_path, monkeypatch):
    write(tmp_path, ".", n=10, size=(16, 16))
    in_memory = data.load_split(f"folder:{tmp_path}@5", "train")
    monkeypatch.setattr(sizes, "MOST_IN_MEMORY", 100)
    stream = data.load_split(f"folder:{tmp_path}@5", "train")
    assert isinstance(stream, Stream) and stream.source["sha256"] != in_memory.source["sha256"]
    images, labels = stream.fetch(np.array([3, 0, 9]))
    np.testing.assert_array_equal(images, in_memory.images[[3, 0, 9]])
    np.testing.assert_array_equal(labels, in_memory.labels[[3, 0, 9]])


def test_sixteen_bits_are_scaled_and_unknown_ranges_refused(tmp_path):
    pixels = np.array([[0, 1000], [30000, 65535]], np.uint16)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(sizes.resized(image, (2, 2, 1))[..., 0], np.round(pixels / 257.0))
    with pytest.raises(UserError, match="pixels of mode F, of unknown range"):
        sizes.resized(Image.fromarray(np.ones((2, 2), np.float32)), (2, 2, 1))
    with pytest.raises(UserError, match="images of size 0 x 0 have no pixels"):
        sizes.place_and_size("a@0")


def test_resizing_is_pillows(tmp_path):
    pixels = RANDOM.integers(0, 256, (10, 12, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((5, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sizes.resized(pixels, (4, 5, 3)), expected)
    np.testing.assert_array_equal(sizes.resized(pixels[..., :1], (10, 12, 1)), pixels[..., :1])
    assert sizes.place_and_size("a@b@64x32") == ("a@b", (64, 32)) and sizes.place_and_size("a/b") == ("a/b", None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"there must be a folder for each of at least 2 classes, found none"),
        (lambda root: write(root, ".", classes=("cat",)), r"at least 2 classes, found cat"),
        (lambda root: write(root, "."), None),
        (lambda root: (write(root, ".", n=5), (root / "owl").mkdir()), r"labels: class 2 \(owl\) has no image in the train split"),
        (lambda root: write(root, "train"), "there is a folder train, but none of test, validation, val"),
        (
            lambda root: (write(root, "train"), write(root, "test", classes=("cat", "owl"))),
            "test has a folder 'owl', which is no class of train",
        ),
        (lambda root: write(root, ".", n=2), "labels: class 0 has 2 images, too few for 3 splits: give the splits"),
        (
            lambda root: (write(root, "."), Image.new("RGB", (3, 3)).save(root / "cat" / "small.png")),
            r"images have several sizes \(.*.png \(., .\), .*.png \(., .\)\): give one, as in folder:.*@[36]",
        ),
        (lambda root: (write(root, "."), (root / "dog" / "bad.png").write_text("x")), r"bad.png is not an image that can be read"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, make, message):
    make(tmp_path)
    if message is None:
        data.find_dataset(f"folder:{tmp_path}")
    else:
        with pytest.raises(UserError, match=message):
            data.find_dataset(f"folder:{tmp_path}")


def test_a_folder_that_is_not_there():
    with pytest.raises(UserError, match="folder:/nowhere is not a folder"):
        data.find_dataset("folder:/nowhere@32")


# --- tfds -----------------------------------------------------------------------------------------------------------------------------------


def test_any_set_of_tfds_by_name(tmp_path):
    arrays = tfds_directories.write_mnist(tmp_path, n=60)
    found = data.find_dataset("tfds:mnist@14")
    assert found.image_shape == (14, 14, 1) and found.classes == tuple("0123456789")
    full = {split: data.load_split("tfds:mnist", split, str(tmp_path)) for split in ("train", "validation", "test")}
    assert len(full["test"].labels) == 60 and len(full["train"].labels) + len(full["validation"].labels) == 60
    images, labels = arrays["test"]
    for image, label in zip(full["test"].images, full["test"].labels, strict=True):
        index = image[0, 0, 0]  # that of the example
        np.testing.assert_array_equal(image, images[index])
        assert label == labels[index]
    small = data.load_split("tfds:mnist@14", "test", str(tmp_path))
    expected = np.asarray(Image.fromarray(full["test"].images[5][..., 0]).resize((14, 14), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(small.images[5][..., 0], expected)


def test_a_set_of_many_sizes_needs_one(tmp_path):
    tfds_directories.write_imagenet(tmp_path, n=48)
    with pytest.raises(UserError, match=r"tfds:imagenet2012: its images have several sizes: give one, as in tfds:imagenet2012@64"):
        data.find_dataset("tfds:imagenet2012")
    assert tfds_any.describe("imagenet2012@8")[0] == (8, 8, 3)
    test = data.load_split("tfds:imagenet2012@8", "test", str(tmp_path))
    assert test.images.shape == (48, 8, 8, 3) and np.abs(test.images.mean((1, 2, 3)) - test.labels % 256).max() < 4


def test_sets_of_tfds_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"tfds:nonsense: "):
        data.find_dataset("tfds:nonsense")
    with pytest.raises(UserError, match=r"there is no prepared mnist in .* --dataset tfds:mnist"):
        data.load_split("tfds:mnist", "test", str(tmp_path))
    with pytest.raises(UserError, match=r"choose one of mnist, .*, or tfds:NAME"):
        prepare("cifar100", None, None)


# --- functions ------------------------------------------------------------------------------------------------------------------------------


def stripes(split):
    """A data set as a function: vertical or horizontal stripes."""
    n = {"train": 40, "validation": 10, "test": 20}[split]
    labels = np.arange(n) % 2
    images = np.zeros((n, 8, 8), np.uint8)
    images[labels == 0, ::2], images[labels == 1, :, ::2] = 255, 255
    return images, labels


def bad(split):
    images, labels = stripes(split)
    return images, labels + (split == "test")


def no_data(split):
    return None


def test_a_function_of_a_split():
    found = data.find_dataset("test_own_data:stripes")
    assert found.image_shape == (8, 8, 1) and found.classes == ("0", "1")
    np.testing.assert_array_equal(data.load_split("test_own_data:stripes", "test").images[..., 0], stripes("test")[0])
    with pytest.raises(UserError, match=r"data set 'test_own_data:bad', test: labels must be in 0 .. 1, got 1 .. 2"):
        data.load_split("test_own_data:bad", "test")
    with pytest.raises(UserError, match=r"data set 'test_own_data:no_data': of a split it must return \(images, labels\)"):
        data.find_dataset("test_own_data:no_data")
    with pytest.raises(UserError, match=r"must be an experiments.data.Dataset, or a function of the name of a split"):
        data.find_dataset("test_own_data:RANDOM")
