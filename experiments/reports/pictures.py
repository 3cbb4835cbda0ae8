"""The figures of a report, from all results of one data set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments import figures
from experiments.reports.entries import Entry


class Picture(NamedTuple):
    """name: of its files. figure: what they show. caption: below it."""

    name: str
    figure: Figure
    caption: str


def curves(
    entries: list[Entry], name: str, metric: str, chosen: dict[str, Any], y_label: str, y_range: tuple[float, float], caption: str
) -> list[Picture]:
    """Value against eps, a panel for each protocol."""
    panels: dict[str, list[figures.Curve]] = {}
    for entry in sorted(entries, key=lambda e: (e.protocol, e.label)):
        records = [
            r for r in entry.records(metric, "clean_accuracy") if all(r.get(key, wanted) == wanted for key, wanted in chosen.items())
        ]
        records = [r for r in records if metric == "robust_accuracy" or r["metric"] == metric]
        most = max((r.get("steps", 0) for r in records), default=0)
        maps = dict.fromkeys(r.get("map", "cam") for r in records if r["metric"] == metric)
        for map_name in maps:
            of_map = [r for r in records if r.get("steps", most) == most and r.get("map", map_name) == map_name]
            label = entry.label if map_name == "cam" else f"{entry.label}, {map_name}"
            curve = figures.Curve(label, *figures.columns(sorted(of_map, key=lambda r: r["eps"])))
            panels.setdefault(f"{entry.protocol} protocol", []).append(curve)
    return [Picture(name, figures.curves_against_eps(panels, y_label, y_range, "network"), caption)] if panels else []


def pictures(entries: list[Entry], classes: Sequence[str]) -> list[Picture]:
    """All figures of one data set."""
    drawn = [
        *curves(
            entries, "accuracy_against_eps", "robust_accuracy", {"attack": "pgd"}, "accuracy", (0, 1), "Accuracy under PGD, 95% bands."
        ),
        *curves(
            entries,
            "tau_against_eps",
            "kendall_tau",
            {"attack": "aai", "over": "unchanged"},
            "Kendall's tau",
            (-1.02, 1.02),
            "Kendall's tau of clean and attacked map under the top-k attack, over images with unchanged prediction, 95% bands.",
        ),
    ]
    for entry in entries:
        name = f"{entry.label}, {entry.protocol} protocol"
        slug = "".join(c if c.isalnum() else "_" for c in f"{entry.label}_{entry.protocol}")
        arrays = entry.measured("bound")
        if arrays:
            caption = "Both sides of Proposition 1 for each image; on and above the diagonal the bound holds."
            drawn.append(Picture(f"bound_{slug}", figures.bound_scatter(name, arrays), f"{name}. {caption}"))
            caption = "Images and their class activation maps under the smallest attack; red speaks for the class, blue against it."
            drawn.append(Picture(f"maps_{slug}", figures.overlays(name, arrays, classes), f"{name}. {caption}"))
        for map_name in dict.fromkeys(r["map"] for r in entry.records("discrepancy")):
            records = [r for r in entry.records("discrepancy") if r["map"] == map_name]
            caption = "Discrepancy against budget under the sneaking attack, mean over images."
            title = f"{name}, {map_name}"
            drawn.append(Picture(f"tradeoff_{slug}_{map_name}", figures.tradeoff_curves(title, records), f"{title}. {caption}"))
        unforeseen = entry.measured("unforeseen")
        for i in range(len(unforeseen.get("shown/images", ()))):
            caption = "An image under every unforeseen attack at every size, clean on the left, and what it is taken for."
            attacks = "_".join(entry.result.get("attacks", ()))
            drawn.append(
                Picture(
                    "_".join(filter(None, ("unforeseen", slug, attacks, str(i)))),
                    figures.unforeseen(name, unforeseen, i, classes),
                    f"{name}. {caption}",
                )
            )
    for protocol in sorted({entry.protocol for entry in entries}):
        inverted = {e.label: e.measured("inversion") for e in entries if e.protocol == protocol and e.measured("inversion")}
        for norm in ("l2", "linf") if inverted else ():
            caption = f"Feature inversion, {norm} steps, {protocol} images: the image (left) and noise (right) changed until one unit is most active."
            drawn.append(Picture(f"inversion_{norm}_{protocol}", figures.inversions(inverted, norm, classes), caption))
    return drawn
