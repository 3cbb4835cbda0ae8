"""Which test images a measure takes, and with which targets."""

from typing import NamedTuple

import numpy as np

from experiments.runtime.errors import refuse
from irob.paper import PaperDraw


class First(NamedTuple):
    """The first test images; None: all of them."""

    most: int | None = None

    def indices(self, n: int) -> np.ndarray:
        """The images, as indices into n."""
        return np.arange(n if self.most is None else min(n, self.most))

    def target_offsets(self, n: int, num_classes: int) -> None:
        """None: an attack may reach any class."""

    def noise(self, n: int, num_classes: int, shape: tuple[int, ...]) -> None:
        """None: random starts come from the seed and the index."""


Images = First | PaperDraw


def choose_images(images: Images, num_examples: int | None, n: int) -> Images:
    """The images of a preset, or the first `num_examples` of a test split of n.

    Raises:
      UserError: if the split has fewer, or the images are part of the protocol.
    """
    if num_examples is None:
        return images
    refuse(not isinstance(images, First), "--num_examples is for the standard protocol: the paper's protocol has its own images")
    refuse(not 0 < num_examples <= n, f"--num_examples={num_examples} must be in 1..{n}, the size of the test split")
    return First(num_examples)
