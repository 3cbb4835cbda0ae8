"""A config file: one's own network, data and recipe."""

from experiments.configs import base


def get_config(variant=""):
    """For `--config FILE:METHOD`."""
    recipe = {"optimizer": ("sgd", {"momentum": 0.9}), "learning_rate": 0.05}
    return base.make(variant, {"dataset": "made_up.data:stripes", "network": "made_up.networks:make", **recipe})
