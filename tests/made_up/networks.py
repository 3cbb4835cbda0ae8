"""A network: a linen module whose last feature map and head are named."""

import flax.linen as nn


class Net(nn.Module):
    """Two convolutions, BatchNorm, the spatial mean, a linear head with bias."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        """Logits of a batch of images."""
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (4, 4), 2)(x))
        x = nn.relu(x)
        x = nn.Conv(16, (4, 4), 2, name="features")(x)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(-3, -2)))


def make(input_shape, num_classes):
    """For `config.network`."""
    return Net(num_classes)
