"""Figures, drawn from results and arrays; and what the figures of several measures share. `save` writes one."""

import io
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from experiments.reports.entries import Entry
from experiments.reports.records import Record
from experiments.runtime import storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pyplot() -> Any:
    """matplotlib.pyplot, imported when the first figure is drawn."""
    import matplotlib
    import matplotlib.pyplot

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "irob"  # the same figure is the same file
    return matplotlib.pyplot


def subplots(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of panels, of a size in inches: the figure and its axes `[rows, columns]`."""
    return pyplot().subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


class Picture(NamedTuple):
    """name: of its files. figure: its content, a matplotlib figure. caption: below it."""

    name: str
    figure: Any
    caption: str


class Curve(NamedTuple):
    """A line with its band: label, x and y, and the ends of the 95% intervals (None where there is none)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    ci95: Sequence[Sequence[float] | None]


def curve_of(label: str, records: Iterable[Record]) -> Curve:
    """eps, value and interval of the records that have a value, by eps."""
    kept = sorted((record for record in records if record.value is not None), key=lambda record: record["eps"])
    return Curve(label, *([record[field] for record in kept] for field in ("eps", "value", "ci95")))


# The methods that have a color of their own wherever they are drawn, in the order of the palette.
COLORED = ("normal", "adv", "int", "int2", "trades", "int_margin", "int_adv", "int2_adv", "int_one_class", "mart")


def colors_of(labels: Sequence[str]) -> dict[str, Any]:
    """Label -> color. A label that begins with a method of `COLORED` has its color; others, and a second of a method, have those left."""
    names = list(dict.fromkeys(labels))
    method = lambda name: re.split(r"[ ,]", name)[0]  # noqa: E731
    own: dict[str, str] = {}
    for name in names:
        if method(name) in COLORED:
            own.setdefault(method(name), name)
    first, second = (list(pyplot().get_cmap(palette).colors) for palette in ("tab10", "tab20"))
    found = {name: first[COLORED.index(of)] for of, name in own.items()}
    free = [color for color in [*first, *second[1::2]] if color not in found.values()]
    rest = [name for name in names if name not in found]
    return found | {name: free[i % len(free)] for i, name in enumerate(rest)}


def curves_against_eps(panels: Mapping[str, Sequence[Curve]], y_label: str, y_range: tuple[float, float], legend: str) -> "Figure":
    """Panels side by side with the same vertical axis; a label has one color in all of them."""
    figure, all_axes = subplots(1, len(panels), 5.5 * len(panels), 3.8, sharey=True)
    colors = colors_of([curve.label for curves in panels.values() for curve in curves])
    for axes, (title, curves) in zip(all_axes[0], panels.items(), strict=True):
        for curve in curves:
            axes.plot(curve.x, curve.y, marker="o", markersize=4, color=colors[curve.label], label=curve.label)
            banded = [(x, *ends) for x, ends in zip(curve.x, curve.ci95, strict=True) if ends]
            if banded:
                axes.fill_between(*zip(*banded, strict=True), alpha=0.12, color=colors[curve.label])
        axes.set(xlabel="eps (pixels in [0, 1])", ylim=y_range)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(title=legend, fontsize=8)
    all_axes[0][0].set_ylabel(y_label)
    return figure


def against_eps(
    name: str, caption: str, panels: Mapping[str, Sequence[Curve]], y_label: str, y_range: tuple[float, float]
) -> list[Picture]:
    """The picture of `curves_against_eps` for the networks of a report; none where every curve is a single point."""
    if all(len(curve.x) < 2 for curves in panels.values() for curve in curves):
        return []
    return [Picture(name, curves_against_eps(panels, y_label, y_range, "network"), caption)]


def matrices(panels: Mapping[str, np.ndarray], names: Sequence[str], x_label: str, y_label: str) -> "Figure":
    """Matrices of proportions, two in a row, with the percentages in the cells."""
    rows = -(-len(panels) // 2)
    figure, all_axes = subplots(rows, 2, 11.0, 4.6 * rows)
    for axes in all_axes.flat:
        axes.set_axis_off()
    for axes, (title, matrix) in zip(all_axes.flat, panels.items(), strict=False):
        axes.set_axis_on()
        axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_title(title, fontsize=10)
        for (i, j), value in np.ndenumerate(matrix):
            if value > 0:
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color="white" if value > 0.5 else "black")
    return figure


def confusion(entry: Entry, classes: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Two matrices `[C, C]` of proportions by row, with their names: clean, and under attack at the eps whose accuracy is nearest to a half."""
    overall = {record["eps"]: abs((record.value or 0.0) - 0.5) for record in entry.records("robust_accuracy")}
    chosen = [("clean", 0.0), *([(f"eps {(eps := min(overall, key=overall.__getitem__)):.4g}", eps)] if overall else [])]
    found = []
    for text, eps in chosen:
        records = entry.records("class_accuracy", eps=eps)
        most = max((record.get("steps", 0) for record in records), default=0)
        matrix = np.zeros((len(classes), len(classes)))
        for record in records:
            if record.get("steps", 0) == most:
                for name, count in record["predicted"].items():
                    if name in classes:
                        matrix[classes.index(record["class"]), classes.index(name)] = count / record.n
        if records:
            found.append((text, matrix))
    return found


def panels_by_protocol(entries: Sequence[Entry], curves: Callable[[Entry], Iterable[Curve]]) -> dict[str, list[Curve]]:
    """The curves of all entries, a panel for each protocol."""
    panels: dict[str, list[Curve]] = {}
    for entry in sorted(entries, key=lambda e: (e.protocol, e.label)):
        panels.setdefault(f"{entry.protocol} protocol", []).extend(curves(entry))
    return panels


def title_of(entry: Entry) -> str:
    """Network and protocol, in words."""
    return f"{entry.label}, {entry.protocol} protocol"


def slug_of(entry: Entry) -> str:
    """Network and protocol, as part of a file name."""
    return storage.slug(f"{entry.label}_{entry.protocol}")


def class_name(classes: Sequence[str], prediction: int) -> str:
    """The name of a predicted class; a network whose logits are not finite predicts no class."""
    return classes[prediction] if prediction >= 0 else "no class"


def show_image(axis: Any, image: np.ndarray) -> None:
    """An image `[H, W, c]` with pixels in [0, 1]."""
    axis.imshow(np.asarray(image).squeeze(), cmap="gray", vmin=0, vmax=1)


def show_map_over(axis: Any, image: np.ndarray, values: np.ndarray, scale: float) -> None:
    """A map `[h, w]` over the image that it explains, red where positive, blue where negative, at full color where |value| = scale."""
    height, width = np.shape(image)[:2]
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(np.mean(np.atleast_3d(image), axis=-1), cmap="gray", vmin=0, vmax=1)
    axis.imshow(values, cmap="coolwarm", vmin=-scale, vmax=scale, alpha=0.7, extent=place, interpolation="bilinear")


def bare(axes: Any) -> None:
    """Removes the ticks of axes."""
    for axis in np.ravel(axes):
        axis.set(xticks=[], yticks=[])


def save(figure: "Figure", *files: pathlib.Path) -> None:
    """Writes a figure, in the format of each file's suffix, and closes it. In SVG, the markers of lines tell their values."""
    values = dict(marked_values(figure))
    for path in files:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=metadata)
        content = with_titles(drawn.getvalue(), values) if path.suffix == ".svg" else drawn.getvalue()
        storage.save_atomically(path, lambda file: file.write(content))  # noqa: B023
    pyplot().close(figure)


def marked_values(figure: "Figure") -> Iterator[tuple[str, list[str]]]:
    """Of every line with markers in a figure: the name that its group gets in an SVG file, and what each of its points says."""
    for i, axes in enumerate(figure.axes):
        for j, line in enumerate(axes.lines):
            if line.get_marker() not in (None, "None", ""):
                line.set_gid(f"values_{i}_{j}")
                label = str(line.get_label())
                above = [] if label.startswith("_") else [label]  # matplotlib's own name of a line without one
                points = np.asarray(line.get_xydata(), float)
                drawn = points[np.isfinite(points).all(axis=1)]
                names = axes.get_xlabel() or "x", axes.get_ylabel() or figure.axes[0].get_ylabel() or "y"  # panels share the first one's
                yield f"values_{i}_{j}", ["\n".join([*above, f"{names[0]}: {x:.4g}", f"{names[1]}: {y:.3f}"]) for x, y in drawn]


SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def with_titles(svg: bytes, values: Mapping[str, Sequence[str]]) -> bytes:
    """An SVG file whose markers have titles, which a browser shows under the pointer.

    values: name of a group -> a title for each of its markers.
    """
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{{{SVG}}}g"):
        markers, titles = list(group.iter(f"{{{SVG}}}use")), values.get(group.get("id", ""), ())
        if len(markers) == len(titles):  # of a line that leaves the picture, matplotlib writes other markers than its points
            for marker, title in zip(markers, titles, strict=True):
                ElementTree.SubElement(marker, f"{{{SVG}}}title").text = title
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
