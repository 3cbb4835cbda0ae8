"""A figure of images with their maps, method by method, for the quickstart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.reports import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sample(NamedTuple):
    """One image of one method: pictures `[H, W, c]`, maps `[h, w]` of the true class, predicted classes, Kendall's tau of the two maps."""

    image: np.ndarray
    clean_map: np.ndarray
    attacked: np.ndarray
    attacked_map: np.ndarray
    clean_class: str
    attacked_class: str
    tau: float


class UnforeseenSample(NamedTuple):
    """One image under one unforeseen attack: its name and size, the picture, the predicted class."""

    attack: str
    eps: float
    image: np.ndarray
    predicted: str


def maps_by_method(samples: Mapping[str, Sequence[Sample]], eps: float, of: str, unforeseen: Sequence[UnforeseenSample]) -> "Figure":
    """For each method a row of image, its map, the attacked image, its map; one block of columns per image. Below, an image under unforeseen attacks.

    Red speaks for the true class, blue against it; one scale per method.

    Args:
      eps: of the attack.
      of: the method whose network the unforeseen attacks are on.
    """
    count = len(next(iter(samples.values())))
    figure, axes = figures.subplots(len(samples) + 1, 4 * count, 1.25 * 4 * count, 1.75 * (len(samples) + 1))
    for row, (method, found) in zip(axes, samples.items(), strict=False):
        scale = max(np.abs(sample.clean_map).max() for sample in found)
        for i, sample in enumerate(found):
            image, clean_map, attacked, attacked_map = row[4 * i : 4 * i + 4]
            for axis, picture, predicted in ((image, sample.image, sample.clean_class), (attacked, sample.attacked, sample.attacked_class)):
                figures.show_image(axis, picture)
                axis.set_xlabel(f"classified as {predicted}", fontsize=7)
            for axis, values in ((clean_map, sample.clean_map), (attacked_map, sample.attacked_map)):
                axis.imshow(values, cmap="coolwarm", vmin=-scale, vmax=scale)
            attacked_map.set_xlabel(f"tau {sample.tau:.2f}", fontsize=7)
        row[0].set_ylabel(method)
    for axis, title in zip(axes[0], ["image", "its map", "attacked", "its map"] * count, strict=True):
        axis.set_title(title, fontsize=8)
    for axis, shown in zip(axes[-1], unforeseen, strict=False):
        figures.show_image(axis, shown.image)
        axis.set_title(f"{shown.attack} {shown.eps:g}", fontsize=7)
        axis.set_xlabel(f"classified as {shown.predicted}", fontsize=7)
    for axis in axes[-1][len(unforeseen) :]:
        axis.axis("off")
    axes[-1][0].set_ylabel(f"{of},\nunforeseen", fontsize=8)
    figures.bare(axes)
    figure.suptitle(f"Class activation maps of the true class, clean and attacked (l-inf, eps {eps})", fontsize=10)
    return figure
