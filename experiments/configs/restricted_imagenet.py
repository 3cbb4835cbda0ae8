"""Restricted ImageNet as in the paper (nine groups of ImageNet classes, 224 x 224 x 3), streamed.

    python -m experiments.train --config experiments/configs/restricted_imagenet.py:int --workdir runs/restricted_imagenet_int

35 epochs of batch 64. Test images are ImageNet's validation split; validation images are held out of the training split (the authors tested on
what they validated on).
"""

import ml_collections

from experiments.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: METHOD or METHOD,tiny."""
    method, switches = common.method_and_switches(variant)
    config = ml_collections.ConfigDict()
    config.dataset = "restricted_imagenet"  # a key of data.DATASETS
    config.network = "small" if "tiny" in switches else "wresnet"  # or "pool"; a WResNet takes minutes for eight steps on a CPU
    config.method = method  # one of common.METHODS
    config.map = "cam"  # one of common.MAPS, which int, int_one_class, int_adv, int2 and int2_adv compare
    config.seed = 99  # of the initial weights (99: the authors'), the order of the data and the random starts

    config.num_steps = 140_000  # 35 epochs of the 257,000 training images in the nine groups
    config.batch_size = 64  # over all devices
    config.steps_per_dispatch = 1  # optimiser steps in one call of the devices; more may pay where a step takes them less than a call
    config.learning_rate = 1e-3  # Adam
    config.learning_rate_drops = (8_000, 16_000)  # after each of these steps the rate is divided by 10

    config.eps = 0.003  # radius on pixels in [0, 1]
    config.eps_ramp = (5_000, 10_000)  # 0 until the first step, linear to full at the second
    config.attack = ml_collections.ConfigDict()
    config.attack.norm = "linf"  # or "l2", "l1": eps and step_size are then lengths in that norm
    config.attack.num_steps = 7  # of each training step
    config.attack.step_size = 0.001  # pixels; the authors' 0.1 is 33 eps, which only jumps between the corners of the ball
    config.attack.dtype = "float32"  # or "bfloat16", in which the network computes while attacked; for accelerators

    config.checkpoint_every = 1_000  # steps; validation comes with it
    config.log_every = 100  # steps
    config.keep_last = 2  # checkpoints, besides the one with the best robust validation accuracy
    config.validation = ml_collections.ConfigDict()
    config.validation.num_examples = 500  # the first of the validation split
    config.validation.attack_steps = 10  # of eps / 4, cross-entropy, one random start

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.eps = (0.0, 2 / 255, 4 / 255, 6 / 255, 8 / 255, 9 / 255, 10 / 255)  # the evaluation's ladder
    return common.finish(config, switches)
