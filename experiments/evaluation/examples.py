"""Which test images a measure takes, and with which targets."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

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


@dataclasses.dataclass(frozen=True, eq=False)
class OfClasses:
    """The first test images of some classes; most None: all of them. labels: of the test split."""

    classes: tuple[int, ...]
    most: int | None
    labels: np.ndarray

    def _asdict(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {"classes": self.classes, "most": self.most}

    def indices(self, n: int) -> np.ndarray:
        """The images, as indices into n."""
        return np.flatnonzero(np.isin(self.labels, self.classes))[: self.most]

    def target_offsets(self, n: int, num_classes: int) -> None:
        """None: an attack may reach any class."""

    def noise(self, n: int, num_classes: int, shape: tuple[int, ...]) -> None:
        """None: random starts come from the seed and the index."""


Images = First | OfClasses | PaperDraw


def choose_images(images: Images, num_examples: int | None, labels: np.ndarray, classes: tuple[int, ...] = ()) -> Images:
    """The images of a preset, or the first `num_examples` of a split, or those of some classes.

    Raises:
      UserError: if the split has fewer, or the images are part of the protocol.
    """
    if num_examples is None and not classes:
        return images
    n, flag = len(labels), "--classes" if num_examples is None else "--num_examples"
    refuse(not isinstance(images, First), f"{flag} is for the standard protocol: the paper's protocol has its own images")
    refuse(
        num_examples is not None and not 0 < num_examples <= n,
        f"--num_examples={num_examples} must be in 1..{n}, the size of the split",
    )
    if not classes:
        return First(num_examples)
    refuse(not np.isin(labels, classes).any(), f"--classes: the split has no image of them, {classes}")
    return OfClasses(classes, images.most if num_examples is None and isinstance(images, First) else num_examples, labels)


def class_index(text: str, names: Sequence[str], flag: str) -> int:
    """A class by its name or number.

    Raises:
      UserError: if there is none.
    """
    if text in names:
        return names.index(text)
    refuse(
        not text.isdecimal() or int(text) >= len(names),
        f"--{flag}={text}: the classes are {', '.join(names[:20])}, or 0 .. {len(names) - 1}",
    )
    return int(text)
