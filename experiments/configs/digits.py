"""scikit-learn's handwritten digits (1,297 / 100 / 400 images, 8 x 8 resized to 28 x 28 x 1): real data without a download.

    python -m experiments.train --config experiments/configs/digits.py:int --workdir runs/digits_int

The schedule of the quickstart, chosen for minutes on two cores.
"""

import ml_collections

from experiments.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """variant: METHOD or METHOD,tiny."""
    method, switches = common.method_and_switches(variant)
    config = ml_collections.ConfigDict()
    config.dataset = "digits"  # a key of data.DATASETS
    config.network = "small"  # or "pool"
    config.method = method  # one of common.METHODS
    config.map = "cam"  # one of common.MAPS, which int, int_one_class, int_adv, int2 and int2_adv compare
    config.seed = 99  # of the initial weights (99: the authors'), the order of the data and the random starts

    config.num_steps = 3_000  # 120 epochs
    config.batch_size = 50  # over all devices
    config.steps_per_dispatch = 1  # optimiser steps in one call of the devices; more may pay where a step takes them less than a call
    config.learning_rate = 2e-3  # Adam
    config.learning_rate_drops = (2_500,)  # after each of these steps the rate is divided by 10

    config.eps = 0.12  # radius on pixels in [0, 1]; a little more than the 0.1 that the quickstart looks at
    config.eps_ramp = (100, 1_000)  # 0 until the first step, linear to full at the second
    config.attack = ml_collections.ConfigDict()
    config.attack.norm = "linf"  # or "l2", "l1": eps and step_size are then lengths in that norm
    config.attack.num_steps = 5  # of each training step
    config.attack.step_size = 0.04  # pixels; constant while eps ramps up
    config.attack.dtype = "float32"  # or "bfloat16", in which the network computes while attacked; for accelerators

    config.checkpoint_every = 1_000  # steps; validation comes with it
    config.log_every = 100  # steps
    config.keep_last = 2  # checkpoints, besides the one with the best robust validation accuracy
    config.validation = ml_collections.ConfigDict()
    config.validation.num_examples = 100  # the whole validation split
    config.validation.attack_steps = 10  # of eps / 4, cross-entropy, one random start

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.eps = (0.0, 0.05, 0.1, 0.15, 0.2)  # the evaluation's ladder
    return common.finish(config, switches)
