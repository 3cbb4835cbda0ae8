"""Augmentations and mixtures against what they are, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import base
from experiments.data.augmentations import cutmix, cutout, flip, mixup, padded_crop
from experiments.runtime import devices
from experiments.training.augment import expected, make_augmentation
from irob.losses import cross_entropy

X = np.random.default_rng(0).uniform(0.1, 1.0, (6, 5, 2)).astype(np.float32)
OTHER = np.random.default_rng(1).uniform(0.1, 1.0, (6, 5, 2)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 400)


def test_a_flip_is_the_image_or_its_mirror_image_half_of_the_time():
    flipped = np.array(jax.vmap(lambda key: jnp.all(flip(key, X) == X[:, ::-1]))(KEYS))
    kept = np.array(jax.vmap(lambda key: jnp.all(flip(key, X) == X))(KEYS))
    assert np.all(flipped ^ kept) and 160 < flipped.sum() < 240


def test_a_padded_crop_is_one_of_all_shifts_over_zeros():
    padded = np.pad(X, ((2, 2), (2, 2), (0, 0)))
    crops = [padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
    found = np.array(jax.vmap(lambda key: padded_crop(key, X, pad=2))(KEYS))
    which = [[i for i, crop in enumerate(crops) if np.array_equal(crop, image)] for image in found]
    assert all(len(matches) == 1 for matches in which) and {matches[0] for matches in which} == set(range(25))


def test_cutout_leaves_zeros_in_a_square_around_a_pixel():
    squares = []
    for i in range(6):
        for j in range(5):
            image = X.copy()
            image[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = 0
            squares.append(image)
    found = np.array(jax.vmap(lambda key: cutout(key, X, size=3))(KEYS))
    which = [[i for i, square in enumerate(squares) if np.array_equal(square, image)] for image in found]
    assert all(len(matches) == 1 for matches in which) and {matches[0] for matches in which} == set(range(30))


def test_mixup_is_the_average_that_its_weight_says():
    images, weights = jax.vmap(lambda key: mixup(key, X, OTHER, alpha=0.5))(KEYS)
    assert np.all((weights >= 0) & (weights <= 1)) and np.mean(weights) == pytest.approx(0.5, abs=0.06)
    assert np.var(weights) == pytest.approx(1 / 8, abs=0.02)  # of Beta(1/2, 1/2)
    for image, w in zip(images[:20], weights[:20], strict=True):
        np.testing.assert_allclose(image, w * X + (1 - w) * OTHER, rtol=1e-5)


def test_cutmix_has_a_rectangle_of_the_other_and_its_area_for_weight():
    images, weights = jax.vmap(lambda key: cutmix(key, X, OTHER))(KEYS)
    for image, w in zip(np.array(images), weights, strict=True):
        foreign = np.all(image == OTHER, axis=-1)
        assert np.all(foreign | np.all(image == X, axis=-1))
        assert w == pytest.approx(1 - foreign.mean(), abs=1e-6)
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign.sum() == len(rows) * len(columns)
    assert 0.3 < np.mean(weights) < 0.8 and np.std(weights) > 0.15


def test_the_expected_cross_entropy_is_that_of_soft_labels():
    logits = jnp.array([1.0, -2.0, 0.5])
    soft = np.array([0.7, 0.1, 0.2], np.float32)
    found = expected(lambda label: cross_entropy(logits, label), soft)
    np.testing.assert_allclose(found, -np.sum(soft * np.log(np.exp(logits) / np.sum(np.exp(logits)))), rtol=1e-6)
    np.testing.assert_allclose(expected(lambda label: cross_entropy(logits, label), np.int32(1)), cross_entropy(logits, 1))


@pytest.mark.parametrize("count", [1, 4])
def test_mixtures_take_the_mirrored_example_of_the_whole_batch(count):
    """On one device and on four: partners, weights and targets are the same."""
    config = base.load_config("digits:adv", ["mix=mixup", "label_smoothing=0.1"])
    x, labels = np.random.default_rng(2).uniform(size=(8, 2, 2, 1)).astype(np.float32), np.arange(8, dtype=np.int32)
    keys = jax.random.split(jax.random.key(3), 8)
    augmented = make_augmentation(config, 10)

    def on_device(x, labels, keys):
        return augmented(x, labels, lambda purpose: keys)

    split = lambda a: a.reshape(count, -1, *a.shape[1:])
    found = jax.pmap(on_device, axis_name=devices.AXIS, devices=jax.devices()[:count])(split(x), split(labels), split(keys))
    mixed, hard, targets = (np.asarray(part).reshape(8, *part.shape[2:]) for part in found)
    for i in range(8):
        image, w = mixup(keys[i], x[i], x[7 - i])
        np.testing.assert_allclose(mixed[i], image, rtol=1e-6)
        probabilities = np.full(10, 0.01)
        probabilities[i] += 0.9 * w
        probabilities[7 - i] += 0.9 * (1 - w)
        np.testing.assert_allclose(targets[i], probabilities, rtol=1e-5)
        assert hard[i] == (i if w >= 0.5 else 7 - i)


def test_without_any_the_batch_is_as_it_was():
    augmented = make_augmentation(base.load_config("digits:adv"), 10)
    x, labels = np.ones((2, 3, 3, 1), np.float32), np.array([1, 2])
    out = augmented(x, labels, lambda purpose: pytest.fail("nothing is drawn"))
    assert out[0] is x and out[1] is labels and out[2] is labels


def test_augmentations_are_applied_in_order_each_with_keys_of_its_own():
    config = base.load_config("digits:adv", ["augment=padded_crop(pad=1),padded_crop(pad=1)"])
    purposes = []
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)

    def keys_for(purpose):
        purposes.append(purpose)
        return jax.random.key(len(purposes))[None]

    found, _, _ = make_augmentation(config, 10)(x, np.array([1]), keys_for)
    once = padded_crop(jax.random.key(1), x[0], pad=1)
    np.testing.assert_array_equal(found[0], padded_crop(jax.random.key(2), once, pad=1))
    assert len(set(purposes)) == 2
