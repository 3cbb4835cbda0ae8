"""CIFAR-10 as in the paper (45,000 / 5,000 / 10,000 images, 32 x 32 x 3, no augmentation).

    python -m experiments.train --config experiments/configs/cifar10.py:int --workdir runs/cifar_int --config.network=wresnet

The schedule is the paper's: 70,200 steps, that is 200 epochs; eps reaches 8/255 only 200 steps before the end, and most of the ramp happens at a
learning rate of 1e-3. `:int,fast` takes 10,000 cheaper steps.
"""

import ml_collections

from experiments.configs import base

CIFAR10 = {
    "dataset": "cifar10",
    "num_steps": 70_200,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"40001": 0.1, "60001": 0.1}}),
    "eps": 8 / 255,
    "eps_ramp": (5_000, 70_000),
    "attack.num_steps": 10,
    "attack.step_size": 2 / 255,
    "evaluation.eps": (0.0, 2 / 255, 4 / 255, 6 / 255, 8 / 255, 9 / 255, 10 / 255),
}
# Minutes instead of hours: 28 epochs, fewer and larger attack steps, a rate that falls after the ramp, which comes early.
FAST = {
    "num_steps": 10_000,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"8001": 0.1, "9501": 0.1}}),
    "eps_ramp": (500, 4_000),
    "attack.num_steps": 5,
    "attack.step_size": 3 / 255,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD, with ,fast or ,tiny."""
    return base.make(variant, CIFAR10, fast=FAST)
