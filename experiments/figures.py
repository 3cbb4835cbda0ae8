"""Figures, drawn from results and arrays, written as PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

matplotlib.use("Agg")


class Sample(NamedTuple):
    """One image under one method: pictures `[H, W, c]`, maps `[h, w]` of the true class, predicted classes, Kendall's tau of the two maps."""

    image: np.ndarray
    clean_map: np.ndarray
    attacked: np.ndarray
    attacked_map: np.ndarray
    clean_class: str
    attacked_class: str
    tau: float


def accuracy_against_eps(results: Sequence[dict[str, Any]], file: pathlib.Path) -> None:
    """One curve per result, with its 95% band."""
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for result in results:
        eps, value = ([record[field] for record in result["records"]] for field in ("eps", "value"))
        low, high = zip(*(record["ci95"] for record in result["records"]), strict=True)
        (line,) = axes.plot(eps, value, marker="o", label=result["method"])
        axes.fill_between(eps, low, high, alpha=0.15, color=line.get_color())
    first = results[0]
    axes.set(xlabel="eps (l-inf, pixels in [0, 1])", ylabel="accuracy", ylim=(0, 1))
    axes.set_title(f"{first['data']['name']}, {first['n']} test images, {first['protocol']['name']} protocol", fontsize=10)
    axes.legend(title="trained by")
    axes.grid(alpha=0.3)
    _save(figure, file)


def maps(samples: Mapping[str, Sequence[Sample]], eps: float, file: pathlib.Path) -> None:
    """For each method a row of image, its map, the attacked image, its map; one block of columns per image.

    Red speaks for the true class, blue against it; one scale per method.
    """
    methods = list(samples)
    count = len(samples[methods[0]])
    figure, axes = plt.subplots(
        len(methods), 4 * count, figsize=(1.25 * 4 * count, 1.75 * len(methods)), squeeze=False, layout="constrained"
    )
    for row, method in zip(axes, methods, strict=True):
        scale = max(np.abs(sample.clean_map).max() for sample in samples[method])
        for i, sample in enumerate(samples[method]):
            image, clean_map, attacked, attacked_map = row[4 * i : 4 * i + 4]
            for axis, picture, title in ((image, sample.image, sample.clean_class), (attacked, sample.attacked, sample.attacked_class)):
                axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
                axis.set_xlabel(f"taken for {title}", fontsize=7)
            for axis, values in ((clean_map, sample.clean_map), (attacked_map, sample.attacked_map)):
                axis.imshow(values, cmap="coolwarm", vmin=-scale, vmax=scale)
            attacked_map.set_xlabel(f"tau {sample.tau:.2f}", fontsize=7)
        row[0].set_ylabel(method)
    for axis, title in zip(axes[0], ["image", "its map", "attacked", "its map"] * count, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    figure.suptitle(f"Class activation maps of the true class, clean and attacked (l-inf, eps {eps})", fontsize=10)
    _save(figure, file)


def _save(figure: Any, file: pathlib.Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
