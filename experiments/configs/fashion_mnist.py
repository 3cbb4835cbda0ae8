"""Fashion-MNIST (55,000 / 5,000 / 10,000 images, 28 x 28 x 1) with the paper's MNIST schedule and a third of its eps.

    python -m experiments.train --config experiments/configs/fashion_mnist.py:int --workdir runs/fashion_int

It is not in the paper; at eps 0.3 little is left of a garment. `:int,fast` takes 8,000 cheaper steps, as of MNIST.
"""

import ml_collections

from experiments.configs import base
from experiments.configs.mnist import FAST, MNIST

FASHION = {**MNIST, "dataset": "fashion_mnist", "eps": 0.1, "evaluation.eps": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD, with ,fast or ,tiny."""
    return base.make(variant, FASHION, fast=FAST | {"attack.step_size": 0.02})
