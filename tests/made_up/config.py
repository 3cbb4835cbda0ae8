"""A config file: one's own network, data and recipe."""

from experiments.configs import base

MINE = {
    "dataset": "made_up.data:stripes",
    "network": "made_up.networks:make",
    "optimizer": ("sgd", {"momentum": 0.9}),
    "learning_rate": 0.05,
}


def get_config(variant=""):
    """For `--config FILE:METHOD`."""
    return base.make(variant, MINE)
