"""CIFAR-10 as in the paper (45,000 / 5,000 / 10,000 images, 32 x 32 x 3, no augmentation).

    python -m experiments.train --config experiments/configs/cifar10.py:int --workdir runs/cifar_int --config.network=wresnet

The schedule is the paper's: 70,200 steps, that is 200 epochs; eps reaches 8/255 only 200 steps before the end, and most of the ramp happens at a
learning rate of 1e-3. `:int,fast` is 10,000 cheaper steps.
"""

import ml_collections

from experiments.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: METHOD, with ,fast or ,tiny."""
    method, switches = common.method_and_switches(variant, "fast")
    config = ml_collections.ConfigDict()
    config.dataset = "cifar10"  # a key of data.DATASETS
    config.network = "small"  # or "wresnet"
    config.method = method  # one of common.METHODS
    config.map = "cam"  # one of common.MAPS, which int, int_one_class, int_adv, int2 and int2_adv compare
    config.seed = 99  # of the initial weights (99: the authors'), the order of the data and the random starts

    config.num_steps = 70_200  # 200 epochs
    config.batch_size = 128  # over all devices
    config.steps_per_dispatch = 1  # optimiser steps in one call of the devices; more may pay where a step takes them less than a call
    config.learning_rate = 1e-3  # Adam
    config.learning_rate_drops = (40_000, 60_000)  # after each of these steps the rate is divided by 10

    config.eps = 8 / 255  # radius on pixels in [0, 1]
    config.eps_ramp = (5_000, 70_000)  # 0 until the first step, linear to full at the second
    config.attack = ml_collections.ConfigDict()
    config.attack.norm = "linf"  # or "l2", "l1": eps and step_size are then lengths in that norm
    config.attack.num_steps = 10  # of each training step
    config.attack.step_size = 2 / 255  # pixels; constant while eps ramps up
    config.attack.dtype = "float32"  # or "bfloat16", in which the network computes while attacked; for accelerators

    config.checkpoint_every = 1_000  # steps; validation comes with it
    config.log_every = 100  # steps
    config.keep_last = 2  # checkpoints, besides the one with the best robust validation accuracy
    config.validation = ml_collections.ConfigDict()
    config.validation.num_examples = 500  # the first of the validation split
    config.validation.attack_steps = 10  # of eps / 4, cross-entropy, one random start

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.eps = (0.0, 2 / 255, 4 / 255, 6 / 255, 8 / 255, 9 / 255, 10 / 255)  # the evaluation's ladder
    if "fast" in switches:
        # Minutes instead of hours: 28 epochs, fewer and larger attack steps, a rate that falls once the ramp, an early one, is over.
        config.num_steps = 10_000
        config.learning_rate_drops = (8_000, 9_500)
        config.eps_ramp = (500, 4_000)
        config.attack.num_steps = 5
        config.attack.step_size = 3 / 255
    return common.finish(config, switches)
