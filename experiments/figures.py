"""Figures, drawn from results and arrays. Each function returns a figure; `save` writes it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "irob"  # the same figure is the same file


class Sample(NamedTuple):
    """One image under one method: pictures `[H, W, c]`, maps `[h, w]` of the true class, predicted classes, Kendall's tau of the two maps."""

    image: np.ndarray
    clean_map: np.ndarray
    attacked: np.ndarray
    attacked_map: np.ndarray
    clean_class: str
    attacked_class: str
    tau: float


class Unforeseen(NamedTuple):
    """One image under one unforeseen attack: its name and size, the picture, what it is taken for."""

    attack: str
    eps: float
    image: np.ndarray
    taken_for: str


class Curve(NamedTuple):
    """A line with its band: label, x and y, and the ends of the 95% intervals (None where there is none)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    ci95: Sequence[Sequence[float] | None]


def accuracy_against_eps(results: Sequence[dict[str, Any]]) -> Figure:
    """One curve per result, with its 95% band."""
    curves = [Curve(result["method"], *columns(result["records"])) for result in results]
    first = results[0]
    title = f"{first['data']['name']}, {first['n']} test images, {first['protocol']['name']} protocol"
    return curves_against_eps({title: curves}, "accuracy", (0.0, 1.0), "trained by")


def columns(records: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[Any]]:
    """eps, value and interval of records that have a value."""
    kept = [record for record in records if record["value"] is not None]
    return tuple([record[field] for record in kept] for field in ("eps", "value", "ci95"))  # type: ignore[return-value]


def curves_against_eps(panels: Mapping[str, Sequence[Curve]], y_label: str, y_range: tuple[float, float], legend: str) -> Figure:
    """Panels side by side with the same vertical axis; a method has one colour in all of them."""
    figure, all_axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 3.8), sharey=True, squeeze=False, layout="constrained")
    names = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    colours = dict(zip(names, matplotlib.colormaps["tab20" if len(names) > 10 else "tab10"].colors * 7, strict=False))  # type: ignore[attr-defined]
    for axes, (title, curves) in zip(all_axes[0], panels.items(), strict=True):
        for curve in curves:
            axes.plot(curve.x, curve.y, marker="o", markersize=4, color=colours[curve.label], label=curve.label)
            banded = [(x, *ends) for x, ends in zip(curve.x, curve.ci95, strict=True) if ends]
            if banded:
                axes.fill_between(*zip(*banded, strict=True), alpha=0.12, color=colours[curve.label])
        axes.set(xlabel="eps (pixels in [0, 1])", ylim=y_range)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(title=legend, fontsize=8)
    all_axes[0][0].set_ylabel(y_label)
    return figure


def maps(samples: Mapping[str, Sequence[Sample]], eps: float, of: str, unforeseen: Sequence[Unforeseen]) -> Figure:
    """For each method a row of image, its map, the attacked image, its map; one block of columns per image. Below, one image under attacks that
    were not foreseen in training.

    Red speaks for the true class, blue against it; one scale per method.

    Args:
      of: the method whose network the unforeseen attacks are on.
    """
    methods = list(samples)
    count = len(samples[methods[0]])
    rows = len(methods) + 1
    figure, axes = plt.subplots(rows, 4 * count, figsize=(1.25 * 4 * count, 1.75 * rows), squeeze=False, layout="constrained")
    for row, method in zip(axes, methods, strict=False):
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
    for axis, seen in zip(axes[-1], unforeseen, strict=False):
        axis.imshow(seen.image.squeeze(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"{seen.attack} {seen.eps:g}", fontsize=7)
        axis.set_xlabel(f"taken for {seen.taken_for}", fontsize=7)
    for axis in axes[-1][len(unforeseen) :]:
        axis.axis("off")
    axes[-1][0].set_ylabel(f"{of},\nunforeseen", fontsize=8)
    _bare(axes)
    figure.suptitle(f"Class activation maps of the true class, clean and attacked (l-inf, eps {eps})", fontsize=10)
    return figure


def bound_scatter(title: str, arrays: Mapping[str, np.ndarray]) -> Figure:
    """D against margin / 2 for each image, the two-class and the one-class discrepancy; on and above the diagonal the bound holds.

    Args:
      arrays: of the measure `bound`, without its prefix.
    """
    figure, all_axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharex=True, sharey=True, layout="constrained")
    attacks = (
        ("minimal", "smallest attack", "o"),
        ("isa_two_class", "sneaking, two-class", "^"),
        ("isa_one_class", "sneaking, one-class", "v"),
    )
    for axes, family, name in zip(all_axes, ("two_class", "one_class"), ("two-class: bounded", "one-class: not bounded"), strict=True):
        largest = 0.0
        for key, label, marker in attacks:
            found = arrays[f"{key}/found"]
            x, y = arrays[f"{key}/margin"][found], arrays[f"{key}/{family}"][found]
            above = np.mean(y >= x - 1e-5 * arrays[f"{key}/largest_logit"][found]) if len(x) else np.nan  # float32 rounds
            axes.scatter(x, y, s=14, marker=marker, alpha=0.6, label=f"{label} ({above:.0%} above)" if len(x) else label)
            largest = max([largest, *x.tolist()])
        axes.plot([0, largest], [0, largest], color="black", linewidth=1)
        axes.set(xlabel="(f_t - f_t') / 2 on the clean image", title=name)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("discrepancy of complete maps, l1")
    figure.suptitle(title, fontsize=10)
    return figure


def tradeoff_curves(title: str, records: Sequence[dict[str, Any]]) -> Figure:
    """Discrepancy against the mean eps of the sneaking attack: a panel for each norm, a line for each family."""
    norms = list(dict.fromkeys(record["norm"] for record in records))
    figure, all_axes = plt.subplots(1, len(norms), figsize=(4.8 * len(norms), 3.6), squeeze=False, layout="constrained")
    for axes, norm in zip(all_axes[0], norms, strict=True):
        for family, style in (("one_class", ":"), ("two_class", "--"), ("all_class", "-")):
            chosen = [r for r in records if r["norm"] == norm and r["discrepancy"] == family and r["value"] is not None]
            eps, value, _ = columns(chosen)
            axes.plot(eps, value, style, marker="o", markersize=4, label=family.replace("_", "-"))
        axes.set(xlabel="mean eps", ylabel=f"discrepancy, {norm}{' squared' if norm == 'l2' else ''}, raw maps", ylim=(0, None))
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure


def overlays(title: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Image, then its maps of the true and of the target class over it, clean and attacked; tau below.

    Args:
      arrays: of the measure `bound`, without its prefix.
      classes: their names.
    """
    images, attacked = arrays["shown/images"], arrays["shown/attacked"]
    clean_maps, attacked_maps = arrays["shown/clean_maps"], arrays["shown/attacked_maps"]
    scale = float(np.abs(clean_maps).max())
    figure, axes = plt.subplots(len(images), 6, figsize=(10.5, 2.0 * len(images)), squeeze=False, layout="constrained")
    headings = ("image", "true class", "true, attacked", "attacked", "target class", "target, attacked")
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, fontsize=9)
    for i, row in enumerate(axes):
        names = [classes[int(arrays[key][i])] for key in ("labels", "targets")]
        prediction = int(arrays["minimal/predictions"][i])
        taken_for = classes[prediction] if prediction >= 0 else "nothing"
        for axis, picture in ((row[0], images[i]), (row[3], attacked[i])):
            axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
        row[0].set_xlabel(names[0], fontsize=8)
        row[3].set_xlabel(f"taken for {taken_for}, eps {arrays['eps'][i]:.3f}", fontsize=8)
        for which, (clean_axis, attacked_axis) in enumerate(((row[1], row[2]), (row[4], row[5]))):
            for axis, picture, values in ((clean_axis, images[i], clean_maps), (attacked_axis, attacked[i], attacked_maps)):
                extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
                axis.imshow(picture.mean(axis=-1), cmap="gray", vmin=0, vmax=1, extent=extent)
                axis.imshow(values[i, which], cmap="coolwarm", vmin=-scale, vmax=scale, alpha=0.6, extent=extent)
            tau = arrays["minimal/tau_label" if which == 0 else "minimal/tau_target"][i]
            attacked_axis.set_xlabel(f"{names[which]}, tau {tau:.2f}", fontsize=8)
    _bare(axes)
    figure.suptitle(title, fontsize=10)
    return figure


def unforeseen(title: str, arrays: Mapping[str, np.ndarray], which: int, classes: Sequence[str]) -> Figure:
    """One image under the unforeseen attacks: a row for each attack, the clean image, then the attacked ones by size.

    Args:
      arrays: of the measure `unforeseen`, without its prefix.
      which: of the images shown.
      classes: their names.
    """
    attacks = [key.removesuffix("/shown") for key in arrays if key.endswith("/shown")]
    columns = 1 + max(len(arrays[f"{name}/eps"]) for name in attacks)
    figure, axes = plt.subplots(len(attacks), columns, figsize=(1.4 * columns, 1.65 * len(attacks)), squeeze=False, layout="constrained")
    image, label = arrays["shown/images"][which], classes[int(arrays["labels"][which])]
    for row, name in zip(axes, attacks, strict=True):
        row[0].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(name, fontsize=9)
        row[0].set_xlabel(label, fontsize=7)
        for axis, eps, picture, prediction in zip(
            row[1:], arrays[f"{name}/eps"], arrays[f"{name}/shown"][:, which], arrays[f"{name}/shown_predictions"][:, which], strict=False
        ):
            axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.set_xlabel(f"{eps:g}: {classes[prediction] if prediction >= 0 else 'nothing'}", fontsize=7)
        for axis in row[1 + len(arrays[f"{name}/eps"]) :]:
            axis.axis("off")
    _bare(axes)
    figure.suptitle(title, fontsize=10)
    return figure


def inversions(networks: Mapping[str, Mapping[str, np.ndarray]], norm: str, classes: Sequence[str]) -> Figure:
    """Feature inversion, networks side by side: a row for each seed image, for each network what it and noise become.

    Args:
      networks: name -> arrays of the measure `inversion`, without its prefix. seeds: the images themselves are in `seeds`.
    """
    names = list(networks)
    seeds = min((arrays["seeds"] for arrays in networks.values()), key=len)
    figure, axes = plt.subplots(
        len(seeds), 1 + 2 * len(names), figsize=(1.6 * (1 + 2 * len(names)), 1.8 * len(seeds)), squeeze=False, layout="constrained"
    )
    for i, row in enumerate(axes):
        row[0].imshow(seeds[i].squeeze(), cmap="gray", vmin=0, vmax=1)
        row[0].set_xlabel(classes[int(networks[names[0]]["labels"][i])], fontsize=8)
        for j, name in enumerate(names):
            arrays = networks[name]
            for axis, seed in zip(row[1 + 2 * j : 3 + 2 * j], ("image", "noise"), strict=True):
                axis.imshow(arrays[f"{norm}/{seed}_result"][i].squeeze(), cmap="gray", vmin=0, vmax=1)
                axis.set_xlabel(f"unit {int(arrays[f'{norm}/unit'][i])}", fontsize=7)
    axes[0][0].set_title("seed", fontsize=8)
    for j, name in enumerate(names):
        axes[0][1 + 2 * j].set_title(f"{name}\nfrom the image", fontsize=7)
        axes[0][2 + 2 * j].set_title("from noise", fontsize=7)
    _bare(axes)
    figure.suptitle(f"What drives the unit that speaks most for the label ({norm} steps)", fontsize=10)
    return figure


def _bare(axes: Any) -> None:
    for axis in np.ravel(axes):
        axis.set(xticks=[], yticks=[])


def save(figure: Figure, *files: pathlib.Path) -> None:
    """Writes a figure, in the format of each file's suffix, and closes it."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, dpi=150, metadata=metadata)
    plt.close(figure)
