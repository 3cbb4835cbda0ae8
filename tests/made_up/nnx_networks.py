"""A network: an nnx module, drawn with random numbers of its own."""

from flax import nnx

from irob.models import from_nnx


class Net(nnx.Module):
    """Two convolutions, BatchNorm, dropout, the spatial mean, a linear head."""

    def __init__(self, channels, num_classes, rngs):
        self.first = nnx.Conv(channels, 8, (4, 4), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.features = nnx.Conv(8, 16, (4, 4), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(16, num_classes, rngs=rngs)

    def __call__(self, x):
        """Logits of a batch of images."""
        x = self.features(nnx.relu(self.norm(self.first(x))))
        return self.head(self.dropout(x.mean(axis=(-3, -2))))


def make(input_shape, num_classes):
    """For `config.network`."""
    return from_nnx(lambda rngs: Net(input_shape[-1], num_classes, rngs), input_shape, num_classes)
