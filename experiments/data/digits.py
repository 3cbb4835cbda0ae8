"""scikit-learn's handwritten digits."""

import numpy as np

from experiments.data.splits import Images, digest


def load_digits(split: str, data_dir: str | None) -> Images:
    """1,797 real handwritten digits, 8 x 8 in 17 gray levels, resized bilinearly to 28 x 28; stratified 1,297 / 100 / 400, fixed seed."""
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


def resized_digits(gray: np.ndarray) -> np.ndarray:
    """`[n, 8, 8]` in 0..16 to uint8 `[n, 28, 28, 1]`, bilinear between pixel centers, in whole numbers: floats would
    round the many halves differently by device.

    Output i lies at (4 i - 5) / 14 on the axis of inputs, so all weights are whole 14ths.
    """
    at = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)
    weights = np.clip(14 - np.abs(at[:, None] - 14 * np.arange(8)), 0, None)  # [28, 8], rows sum to 14
    scaled = 255 * np.einsum("ri,nij,cj->nrc", weights, gray, weights)  # in units of 1 / (16 * 14 * 14)
    unit = 16 * 14 * 14
    return ((2 * scaled + unit) // (2 * unit)).astype(np.uint8)[..., None]
