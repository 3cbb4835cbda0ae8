"""Figures of images with their maps, method by method, and under unforeseen attacks, for the quickstart."""

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


def maps_by_method(samples: Mapping[str, Sequence[Sample]], eps: float) -> "Figure":
    """For each method a row of image, its map, the attacked image, its map; one block of columns per image. Maps lie over their images.

    Red speaks for the true class, blue against it; one scale per method.

    Args:
      samples: method -> its images, the same ones for all.
      eps: of the attack.
    """
    count = len(next(iter(samples.values())))
    figure, axes = figures.subplots(len(samples), 4 * count, 1.15 * 4 * count, 1.3 * len(samples) + 0.3)
    for row, (method, found) in zip(axes, samples.items(), strict=True):
        scale = max(np.abs(sample.clean_map).max() for sample in found)
        for i, sample in enumerate(found):
            image, clean_map, attacked, attacked_map = row[4 * i : 4 * i + 4]
            for axis, picture, predicted in ((image, sample.image, sample.clean_class), (attacked, sample.attacked, sample.attacked_class)):
                figures.show_image(axis, picture)
                axis.set_xlabel(f"classified as {predicted}", fontsize=8, color="black" if predicted == sample.clean_class else "firebrick")
            for axis, picture, values in (
                (clean_map, sample.image, sample.clean_map),
                (attacked_map, sample.attacked, sample.attacked_map),
            ):
                figures.show_map_over(axis, picture, values, scale)
            attacked_map.set_xlabel(f"tau {sample.tau:.2f}", fontsize=8)
        row[0].set_ylabel(method, fontsize=11)
    for axis, title in zip(axes[0], ["image", "its map", f"attacked, eps {eps:g}", "its map"] * count, strict=True):
        axis.set_title(title, fontsize=9)
    figures.bare(axes)
    return figure


def unforeseen_images(method: str, samples: Sequence[UnforeseenSample]) -> "Figure":
    """An image under each unforeseen attack on the network of a method."""
    figure, axes = figures.subplots(1, len(samples), 1.25 * len(samples), 1.8)
    for axis, shown in zip(axes[0], samples, strict=True):
        figures.show_image(axis, shown.image)
        axis.set_title(f"{shown.attack} {shown.eps:g}", fontsize=7)
        axis.set_xlabel(f"classified as {shown.predicted}", fontsize=7)
    axes[0][0].set_ylabel(method, fontsize=8)
    figures.bare(axes)
    return figure
