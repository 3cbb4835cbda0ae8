"""What the interpretability sneaking attack (ISA) leaves of every discrepancy: its normalized value, its slope over the budget, tau, Pearson's r."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.sneaking import DiscrepancyOptions, check, describe, discrepancy_curve, minimal_attack, paper_options, specs
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record
from experiments.reports.tables import Table, cells, coverage, protocols_side_by_side, value_text
from irob.paper import PaperDraw

SHOWN = 3  # attacked images that are stored
METRICS = ("normalized_discrepancy", "normalized_slope", "kendall_tau", "pearson")


@dataclasses.dataclass(frozen=True)
class Options(DiscrepancyOptions):
    """per_point: averages over attacks, as the authors take them, besides those over images."""

    per_point: bool = False


def run(evaluation: Evaluation, options: Options) -> Measured:
    """A summary of every discrepancy."""
    attacked = minimal_attack(evaluation, options)
    records: list[Record] = []
    arrays = attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    budgets = [1.0, *options.budgets]
    for spec in specs(options):
        curve = discrepancy_curve(evaluation, options, attacked, spec)
        how = {"attack": "isa", "map": spec.map, "classes": spec.classes, "norm": spec.norm, "budgets": budgets}
        records += summary(curve, how, np.array(budgets), options.per_point)
        arrays |= {f"{spec.name}/{key}": curve[key] for key in ("eps", "valid", "normalized", "raw", "tau", "pearson", "weight")}
    return Measured(records, arrays)


def summary(curve: dict[str, np.ndarray], how: dict[str, Any], budgets: np.ndarray, per_point: bool) -> list[Record]:
    """Records of one discrepancy.

    Along the budgets an image keeps the best attack so far (the smallest normalized discrepancy of valid points). Its value is the mean over its
    points, its slope `(1 - D_last / D_first) / (p_last / p_first - 1)`, how fast D falls with the budget p; 0 where only one point is valid.

    per_point: also as the authors average: sums over images whose discrepancy falls, divided by the number of all their points, the slope over
    measured eps (which hardly differ where the smallest eps is nearly the diameter of the box; then the slope is meaningless).
    """
    valid, n = curve["valid"], curve["valid"].shape[1]
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    total = slopes = points = 0.0
    for i in range(n):
        order = np.flatnonzero(valid[:, i])
        if not len(order):
            continue
        best = best_so_far(curve["normalized"][:, i], order)
        falling, eps = curve["normalized"][best, i], curve["eps"][best, i]
        drop = 1.0 - falling[-1] / falling[0] if falling[0] > 0 else 0.0
        slope = drop / (budgets[order[-1]] / budgets[order[0]] - 1.0) if len(order) > 1 else 0.0
        found = (falling.mean(), slope, curve["tau"][best, i].mean(), curve["pearson"][best, i].mean())
        for name, value in zip(METRICS, found, strict=True):
            values[name].append(float(value))
        if falling[-1] != falling[0]:
            total, points = total + falling.sum(), points + len(falling)
            slopes += drop * eps[0] / (eps[-1] - eps[0]) if eps[-1] != eps[0] else 0.0
    records = []
    for name, found_values in values.items():
        record = mean_record(name, np.array(found_values), **how, over="images")
        records.append(dataclasses.replace(record, settings={**record.settings, "failed": n - record.n}))
    if per_point:
        for name, whole in (("normalized_discrepancy", total), ("normalized_slope", slopes)):
            settings = {**how, "over": "points", "failed": n - len(values[name])}
            records.append(Record("", name, int(points), float(whole / points) if points else None, None, settings))
    return records


def best_so_far(values: np.ndarray, order: np.ndarray) -> list[int]:
    """For each valid point the point with the smallest value up to it (the later one of equals)."""
    best = [order[0]]
    for j in order[1:]:
        best.append(j if values[j] <= values[best[-1]] else best[-1])
    return best


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x discrepancies: what the sneaking attack leaves of each."""
    sets = list(dict.fromkeys(record["classes"] for entry in entries for record in entry.records()))
    table = []
    for entry in by_label(entries):
        records = {(r["map"], r["norm"], r["over"], r.metric, r["classes"]): r for r in entry.records()}
        for map_name, norm, over in dict.fromkeys(key[:3] for key in records):
            for metric in METRICS:
                found = [records.get((map_name, norm, over, metric, classes)) for classes in sets]
                if any(found):
                    texts = (entry.label, entry.protocol, map_name, norm, over, metric)
                    table.append(cells([*texts, *(value_text(record, with_n=True) for record in found)]))
    header = ["network", "protocol", "map", "norm", "over", "metric", *(name.replace("_", "-") for name in sets)]
    notes = [
        "Discrepancy over the range of the clean map, its slope over the budget, correlations of clean and attacked maps. A good measure of"
        " interpretation stays large (slope near 0): no attack can hide from it. `images`: the mean over images, every image counts once; `points`:"
        " as the paper's authors average, over images whose discrepancy falls, divided by the number of all their points.",
        "A representation has units for classes, all of which count. `standard` minimizes harder: use it for conclusions.",
        "n images count: the attack reached its target there, and the correlation is defined. `standard` takes correctly classified images only.",
        *coverage(entries),
    ]
    return [Table("isa", title, header, protocols_side_by_side(table, 6), notes)]


STANDARD = Options(images=First(200), map=("cam", "grad_cam_plus_plus", "representation"))
MEASURE = Measure(
    title="The interpretability sneaking attack",
    # How many images the authors took is not known.
    presets={"standard": STANDARD, "paper": dataclasses.replace(paper_options(STANDARD, PaperDraw(123, 0, 100)), per_point=True)},
    run=run,
    columns=(
        ("metric", "metric"),
        ("map", "map"),
        ("classes", "classes"),
        ("norm", "norm"),
        ("over", "over"),
        *VALUE,
        ("failed", "failed"),
    ),
    describe=describe,
    check=check,
    tables=tables,
    reads=("norm", "seed"),
)
