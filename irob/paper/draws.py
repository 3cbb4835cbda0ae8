"""The images, targets and random starts that the authors drew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class PaperDraw(NamedTuple):
    """The authors' draw of test images, with NumPy's legacy generator: a permutation of the images, then the targets, then the noise.

    seed: of the generator.
    start, stop: which of the permuted images are taken.
    """

    seed: int
    start: int
    stop: int

    def indices(self, n: int) -> Int[np.ndarray, " images"]:
        """The images, as indices into n."""
        return self._drawn(n, 2)[0]

    def target_offsets(self, n: int, num_classes: int) -> Int[np.ndarray, " images"]:
        """Offsets 1 + r, r uniform in 0 .. C - 2: the target of an image is (label + offset) mod C, so never the label."""
        return self._drawn(n, num_classes)[1]

    def noise(self, n: int, num_classes: int, shape: tuple[int, ...]) -> Float[np.ndarray, "images H W c"]:
        """Noise uniform in [-1, 1], from which they start: clip(x + eps noise)."""
        indices, _, random = self._drawn(n, num_classes)
        return random.uniform(-1.0, 1.0, (len(indices), *shape)).astype(np.float32)

    def _drawn(self, n: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.random.RandomState]:
        """Images and offsets in the order of the draws, and the generator after them."""
        random = np.random.RandomState(self.seed)
        indices = random.permutation(n)[self.start : self.stop]
        return indices, 1 + random.randint(0, num_classes - 1, len(indices)), random
