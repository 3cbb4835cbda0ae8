"""MNIST as in the paper (55,000 / 5,000 / 10,000 images, 28 x 28 x 1).

    python -m experiments.train --config experiments/configs/mnist.py:int --workdir runs/mnist_int

The schedule is the paper's: 110,000 steps, that is 100 epochs. `:int,fast` takes 8,000 cheaper steps, four minutes on two CPU cores, and keeps 70% of
the first 1,000 test images at eps 0.3 under AutoAttack (three seeds).
"""

import ml_collections

from experiments.configs import base

MNIST = {
    "dataset": "mnist",
    "num_steps": 110_000,
    "batch_size": 50,
    "learning_rate": 1e-4,
    "eps": 0.3,
    "eps_ramp": (2_000, 10_000),
    "attack.num_steps": 40,
    "attack.step_size": 0.01,
    "evaluation.eps": (0.0, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4),
}
# Minutes instead of hours: more images, fewer and larger attack steps, a higher rate that falls, an earlier ramp.
FAST = {
    "num_steps": 8_000,
    "batch_size": 100,
    "learning_rate": 2e-3,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"6001": 0.1, "7501": 0.1}}),
    "eps_ramp": (400, 2_400),
    "attack.num_steps": 10,
    "attack.step_size": 0.06,
}
# For larger eps: 15 minutes on one core for `int_margin` (experiments/results/claims.md).
ROBUST = FAST | {
    "num_steps": 12_000,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"9001": 0.1, "11001": 0.1}}),
    "eps": 0.4,
    "eps_ramp": (400, 5_000),
    "attack.num_steps": 12,
    "attack.step_size": 0.07,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD, with ,fast, ,robust or ,tiny."""
    return base.make(variant, MNIST, fast=FAST, robust=ROBUST)
