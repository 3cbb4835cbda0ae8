"""Small real tfds directories, of the released builders' names, features and keys, without TensorFlow and without network."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encoded(image, kind):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, format=kind)
    return buffer.getvalue()


def write(name, splits, out):
    """splits: {split: [(key, example), ...]}; an example's image is given as encoded bytes."""
    released = tfds.builder_cls(name)

    def split_generators(self, _):
        return {split: self._generate_examples(split) for split in splits}

    def generate_examples(self, split):
        yield from splits[split]

    image, label, file_name = tfds.features.Image(), tfds.features.ClassLabel(num_classes=1000), tfds.features.Text()
    features = tfds.features.FeaturesDict({"image": image, "label": label, "file_name": file_name})
    body = {"__module__": released.__module__, "_split_generators": split_generators, "_generate_examples": generate_examples}
    if name == "imagenet2012":
        body |= {"_info": lambda self: self.dataset_info_from_configs(features=features), "MANUAL_DOWNLOAD_INSTRUCTIONS": None}
    with tfds.core.registered.skip_registration():
        builder = type(released.__name__, (released,), body)(data_dir=str(out), file_format="array_record")
    builder.download_and_prepare()


def write_mnist(out, n=40):
    """MNIST's first labels in its original order, noise for images, the index in the first pixel."""
    first = {"train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]}
    splits, arrays = {}, {}
    for split, labels in first.items():
        images = np.random.default_rng(len(split)).integers(0, 256, (n, 28, 28, 1), np.uint8)
        images[:, 0, 0, 0] = np.arange(n)
        labels = (labels * n)[:n]
        arrays[split] = images, np.array(labels)
        splits[split] = [(i, {"image": encoded(images[i], "png"), "label": labels[i]}) for i in range(n)]
    write("mnist", splits, out)
    return arrays


def write_imagenet(out, n=60):
    """Pictures of many sizes, some grey, classes in and out of the nine groups."""
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
    write("imagenet2012", splits, out)
    return classes
