"""Discrepancy against the budget of the sneaking attack: each discrepancy attacked on its own, the smallest value up to each budget."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.sneaking import DiscrepancyOptions, check, describe, discrepancy_curve, minimal_attack, paper_options, specs
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record
from experiments.reports.tables import Table, cells, coverage, protocols_side_by_side, value_text
from experiments.runtime.storage import slug
from irob.paper import PaperDraw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # attacked images that are stored


def run(evaluation: Evaluation, options: DiscrepancyOptions) -> Measured:
    """Mean of the smallest discrepancy up to each budget."""
    attacked = minimal_attack(evaluation, options)
    records: list[Record] = []
    arrays = attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    budgets = [1.0, *options.budgets]
    for spec in specs(options):
        curve = discrepancy_curve(evaluation, options, attacked, spec)
        nominal = np.outer(budgets, attacked.eps)
        smallest = np.fmin.accumulate(np.where(curve["valid"], curve["raw"], np.nan), axis=0)
        how = {"attack": "isa", "map": spec.map, "classes": spec.classes, "norm": spec.norm}
        for budget, values, eps in zip(budgets, smallest, nominal, strict=True):
            counted = np.isfinite(values)
            mean_eps = float(eps[counted].mean()) if counted.any() else None
            failed = int(np.sum(~counted))
            records.append(mean_record("discrepancy", values, **how, budget=budget, mean_eps=mean_eps, failed=failed))
        arrays |= {f"{spec.name}/eps": nominal, f"{spec.name}/smallest": smallest}
    return Measured(records, arrays)


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x budgets: the smallest discrepancy."""
    budgets = sorted({record["budget"] for entry in entries for record in entry.records()})
    table = []
    for entry in by_label(entries):
        records = {(r["map"], r["norm"], r["classes"], r["budget"]): r for r in entry.records()}
        for of in dict.fromkeys(key[:3] for key in records):
            values = [value_text(records.get((*of, budget)), with_n=True) for budget in budgets]
            table.append(cells([entry.label, entry.protocol, *of, *values]))
    notes = [
        "Raw maps, l2 squared. Budgets are multiples of the smallest eps that changes the prediction. Use `standard` for conclusions: it minimizes"
        " harder.",
        *coverage(entries),
    ]
    header = ["network", "protocol", "map", "norm", "discrepancy", *(f"{budget:g} x eps_min" for budget in budgets)]
    return [Table("tradeoff", title, header, protocols_side_by_side(table, 5), notes)]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """For each network and map discrepancy against eps."""
    drawn = []
    for entry in entries:
        records = [record for record in entry.records() if record.value is not None]
        for name in dict.fromkeys(record["map"] for record in records):
            title = f"{figures.title_of(entry)}, {name}"
            caption = f"{title}. Discrepancy against budget under the sneaking attack, mean over images."
            figure = curves(title, [record for record in records if record["map"] == name])
            drawn.append(figures.Picture(f"tradeoff_{figures.slug_of(entry)}_{slug(name)}", figure, caption))
    return drawn


def curves(title: str, records: Sequence[Record]) -> "Figure":
    """Discrepancy against the mean eps: a panel for each norm, a line for each set of classes."""
    norms = list(dict.fromkeys(record["norm"] for record in records))
    figure, all_axes = figures.subplots(1, len(norms), 4.8 * len(norms), 3.6)
    for axes, norm in zip(all_axes[0], norms, strict=True):
        for of in dict.fromkeys(record["classes"] for record in records):
            chosen = [record for record in records if record.has(norm=norm, classes=of)]
            eps, values = [record["mean_eps"] for record in chosen], [record.value for record in chosen]
            style = {"one_class": ":", "two_class": "--"}.get(of, "-")
            axes.plot(eps, values, style, marker="o", markersize=4, label=of.replace("_", "-"))
        axes.set(xlabel="mean eps", ylabel=f"discrepancy, {norm}{' squared' if norm == 'l2' else ''}, raw maps", ylim=(0, None))
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure


STANDARD = DiscrepancyOptions(images=First(200))
MEASURE = Measure(
    title="Discrepancy (raw) against the budget of the sneaking attack",
    presets={"standard": STANDARD, "paper": paper_options(STANDARD, PaperDraw(52, 37, 42))},
    run=run,
    columns=(
        ("map", "map"),
        ("classes", "classes"),
        ("norm", "norm"),
        ("budget", "budget"),
        ("mean eps", "mean_eps"),
        *VALUE,
        ("failed", "failed"),
    ),
    describe=describe,
    check=check,
    tables=tables,
    figures=pictures,
    reads=("norm", "seed"),
)
