"""MNIST as in the paper (55,000 / 5,000 / 10,000 images, 28 x 28 x 1).

    python -m experiments.train --config experiments/configs/mnist.py:int --workdir runs/mnist_int

The schedule is the paper's: 110,000 steps, that is 100 epochs. `:int,fast` is 8,000 cheaper ones, six minutes on two CPU cores, and then holds 74% of
the first 1,000 test images at eps 0.3 under the standard protocol. `:int,tiny` runs in seconds. See `experiments/configs/common.py` for the methods.
"""

import ml_collections

from experiments.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: METHOD, with ,fast or ,tiny."""
    method, switches = common.method_and_switches(variant, "fast")
    config = ml_collections.ConfigDict()
    config.dataset = "mnist"  # a key of data.DATASETS
    config.network = "small"  # or "pool"
    config.method = method  # one of common.METHODS
    config.map = "cam"  # one of common.MAPS, which int, int_one_class, int_adv, int2 and int2_adv compare
    config.seed = 99  # of the initial weights (99: the authors'), the order of the data and the random starts

    config.num_steps = 110_000  # 100 epochs
    config.batch_size = 50  # over all devices
    config.steps_per_dispatch = 1  # optimiser steps in one call of the devices; more may pay where a step takes them less than a call
    config.learning_rate = 1e-4  # Adam
    config.learning_rate_drops = ()  # after each of these steps the rate is divided by 10

    config.eps = 0.3  # radius on pixels in [0, 1]
    config.eps_ramp = (2_000, 10_000)  # 0 until the first step, linear to full at the second
    config.attack = ml_collections.ConfigDict()
    config.attack.norm = "linf"  # or "l2", "l1": eps and step_size are then lengths in that norm
    config.attack.num_steps = 40  # of each training step
    config.attack.step_size = 0.01  # pixels; constant while eps ramps up
    config.attack.dtype = "float32"  # or "bfloat16", in which the network computes while attacked; for accelerators

    config.checkpoint_every = 1_000  # steps; validation comes with it
    config.log_every = 100  # steps
    config.keep_last = 2  # checkpoints, besides the one with the best robust validation accuracy
    config.validation = ml_collections.ConfigDict()
    config.validation.num_examples = 500  # the first of the validation split
    config.validation.attack_steps = 10  # of eps / 4, cross-entropy, one random start

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.eps = (0.0, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4)  # the evaluation's ladder
    if "fast" in switches:
        # Minutes instead of hours: more images, fewer and larger attack steps, a higher rate that falls, an earlier ramp.
        config.num_steps = 8_000
        config.batch_size = 100
        config.learning_rate = 2e-3
        config.learning_rate_drops = (6_000, 7_500)
        config.eps_ramp = (400, 2_400)
        config.attack.num_steps = 10
        config.attack.step_size = 0.06
    return common.finish(config, switches)
