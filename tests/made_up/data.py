"""A data set: stripes, up or across, in color and with noise."""

import numpy as np


def stripes(split):
    """A function of the name of a split."""
    n, seed = {"train": (64, 0), "validation": (16, 1), "test": (16, 2)}[split]
    random, labels = np.random.default_rng(seed), np.arange(n) % 2
    images = random.uniform(0, 0.5, (n, 12, 16, 3))
    images[labels == 0, ::2] += 0.5
    images[labels == 1, :, ::2] += 0.5
    return images, labels, ("across", "up")
