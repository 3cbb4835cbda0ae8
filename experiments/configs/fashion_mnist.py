"""Fashion-MNIST (55,000 / 5,000 / 10,000 images, 28 x 28 x 1) under the paper's MNIST schedule with a third of its eps.

python -m experiments.train --config experiments/configs/fashion_mnist.py:int --workdir runs/fashion_int
"""

import ml_collections

from experiments.configs import common, mnist


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: METHOD or METHOD,tiny."""
    common.method_and_switches(variant)
    config = mnist.get_config(variant)
    config.dataset = "fashion_mnist"  # a key of data.DATASETS
    config.eps = 0.1  # not in the paper; 0.3 leaves little to see of a garment
    config.evaluation.eps = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)  # the evaluation's ladder
    return config
