"""CIFAR-10 as in the paper (45,000 / 5,000 / 10,000 images, 32 x 32 x 3, no augmentation).

    python -m experiments.train --config experiments/configs/cifar10.py:int --workdir runs/cifar_int --config.network=wresnet

The schedule is the paper's: 70,200 steps, that is 200 epochs; eps reaches 8/255 only 200 steps before the end, and most of the ramp happens at a
learning rate of 1e-3. `:int,fast` takes 10,000 cheaper steps. `:trades,trades_wrn` is the recipe of today's robust networks, for accelerators;
`--config.network=preact_resnet_18` makes it smaller.
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
# The recipe of today's robust networks, without extra data: TRADES on WideResNet-28-10 with SGD and weight decay, a learning rate that falls along
# half a cosine, flips and shifted crops, and an average of the parameters (Gowal et al. 2020, https://arxiv.org/abs/2010.03593, section 4; their 0.4
# for batches of 512 is 0.1 for 128). TRADES' own WideResNet-34-10, without the average, has 84.9% clean and 53.1% under AutoAttack at 8/255
# (robustbench.github.io, Zhang2019Theoretically); a network trained by this recipe should have about that much or more. Not trained here so far.
TRADES_WRN = {
    "network": "wide_resnet_28_10",
    "num_steps": 35_000,  # 100 epochs
    "batch_size": 128,
    "optimizer": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "learning_rate": 0.1,
    "schedule": ("cosine_decay_schedule", {}),
    "weight_decay": 5e-4,
    "ema_decay": 0.995,
    "augment": (("flip", {}), ("padded_crop", {"pad": 4})),
    "eps": 8 / 255,
    "eps_ramp": (0, 0),
    "attack.num_steps": 10,
    "attack.step_size": 2 / 255,
    "validation.num_examples": 1_000,
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant, METHOD, with ,fast, ,trades_wrn or ,tiny."""
    of_trades = {"defense.beta": 6.0} if variant.split(",")[0] == "trades" else {}
    return base.make(variant, CIFAR10, fast=FAST, trades_wrn=TRADES_WRN | of_trades)
