"""Small real tfds directories, of the released builders' names and keys, without TensorFlow and without network."""

import numpy as np
import tensorflow_datasets as tfds

from experiments.data.prepare import encoded, released_examples, write_tfds


def write_mnist(out, n=40):
    """MNIST's first labels in its original order, noise for images, the index in the first pixel."""
    first = {"train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]}
    arrays = {}
    for split, labels in first.items():
        images = np.random.default_rng(len(split)).integers(0, 256, (n, 28, 28, 1), np.uint8)
        images[:, 0, 0, 0] = np.arange(n)
        arrays[split] = images, np.array((labels * n)[:n])
    write_tfds("mnist", {split: released_examples("mnist", split, *pair) for split, pair in arrays.items()}, str(out), {})
    return arrays


def write_imagenet(out, n=60):
    """Pictures of many sizes, painted in their class's number, in and out of the nine groups."""
    random = np.random.default_rng(0)
    classes = [151, 0, 283, 31, 999, 35, 90, 370, 390, 120, 310, 500]
    splits = {}
    for split in ("train", "validation"):
        examples = []
        for i in range(n):
            label = classes[i % len(classes)]
            image = np.full((40 + i, 50, 3), label % 256, np.uint8) + random.integers(0, 3, (40 + i, 50, 3), np.uint8)
            examples.append((f"{split}_{i}.JPEG", {"image": encoded(image, "jpeg"), "label": label, "file_name": f"{split}_{i}.JPEG"}))
        splits[split] = examples
    image, label, file_name = tfds.features.Image(), tfds.features.ClassLabel(num_classes=1000), tfds.features.Text()
    features = tfds.features.FeaturesDict({"image": image, "label": label, "file_name": file_name})
    info = {"_info": lambda self: self.dataset_info_from_configs(features=features), "MANUAL_DOWNLOAD_INSTRUCTIONS": None}
    write_tfds("imagenet2012", splits, str(out), {}, **info)
    return classes
