"""Restricted ImageNet as in the paper (nine groups of ImageNet classes, 224 x 224 x 3), streamed.

    python -m experiments.train --config experiments/configs/restricted_imagenet.py:int --workdir runs/restricted_imagenet_int

35 epochs of the 257,000 training images in the nine groups, batch 64. Test images are ImageNet's validation split; validation images are held out
of the training split (the authors tested on what they validated on). The authors' attack step of 0.1 is 33 eps, which only jumps between the
corners of the ball; it is 0.001 here. `tiny` takes the small network: eight steps of a WResNet take minutes on a CPU.
"""

import ml_collections

from experiments.configs import base

RESTRICTED_IMAGENET = {
    "dataset": "restricted_imagenet",
    "network": "wresnet",
    "num_steps": 140_000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": ("piecewise_constant_schedule", {"boundaries_and_scales": {"8001": 0.1, "16001": 0.1}}),
    "eps": 0.003,
    "eps_ramp": (5_000, 10_000),
    "attack.num_steps": 7,
    "attack.step_size": 0.001,
    "evaluation.eps": (0.0, 2 / 255, 4 / 255, 6 / 255, 8 / 255, 9 / 255, 10 / 255),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD or METHOD,tiny."""
    return base.make(variant, RESTRICTED_IMAGENET, tiny={**base.TINY, "network": "small"})
