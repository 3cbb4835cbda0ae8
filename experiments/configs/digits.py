"""scikit-learn's handwritten digits (1,297 / 100 / 400 images, 8 x 8 resized to 28 x 28 x 1): real data without a download.

    python -m experiments.train --config experiments/configs/digits.py:int --workdir runs/digits_int

The schedule of the quickstart, chosen for minutes on two cores: 120 epochs. eps is a little more than the 0.1 that the quickstart looks at.
"""

import ml_collections

from experiments.configs import base

DIGITS = {
    "dataset": "digits",
    "num_steps": 3_000,
    "batch_size": 50,
    "learning_rate": 2e-3,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"2501": 0.1}}),
    "eps": 0.12,
    "eps_ramp": (100, 1_000),
    "attack.num_steps": 5,
    "attack.step_size": 0.04,
    "validation.num_examples": 100,  # the whole validation split
    "evaluation.eps": (0.0, 0.05, 0.1, 0.15, 0.2),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD or METHOD,tiny."""
    return base.make(variant, DIGITS)
