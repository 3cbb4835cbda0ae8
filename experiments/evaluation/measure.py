"""What a measure is: one record per file of `measures`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.engine import Evaluation
from experiments.reports.entries import Entry
from experiments.reports.figures import Picture
from experiments.reports.records import Record
from experiments.reports.tables import Table, table_of_columns


class Measured(NamedTuple):
    """records: numbers with their settings, for the result file. arrays: per example, for the .npz file beside it; `indices` among them."""

    records: list[Record]
    arrays: dict[str, np.ndarray]


class Measure(NamedTuple):
    """A measure.

    title: heading of its table.
    presets: protocol -> its options, a `MeasureOptions`.
    run: `(evaluation, options) -> Measured`.
    columns: (heading, field of a record), of the table that `evaluate` prints, and of the report unless `tables` makes others.
    printed: metrics of the records in that table; empty for all.
    describe: options -> one sentence on how it is measured.
    check: `(evaluation, options)`, raises a `UserError` for options that do not fit the model, before anything is measured.
    tables: `(title, entries) -> tables` of the report; None for one table of `columns`.
    figures: `(entries, class names) -> pictures` of the report.
    reads: which of the flags eps, norm and seed change what it measures.
    """

    title: str
    presets: Mapping[str, Any]
    run: Callable[[Evaluation, Any], Measured]
    columns: tuple[tuple[str, str], ...]
    printed: tuple[str, ...] = ()
    describe: Callable[[Any], str] = lambda options: ""
    check: Callable[[Evaluation, Any], None] = lambda evaluation, options: None
    tables: Callable[[str, Sequence[Entry]], list[Table]] | None = None
    figures: Callable[[Sequence[Entry], Sequence[str]], list[Picture]] = lambda entries, classes: []
    reads: tuple[str, ...] = ("eps", "norm", "seed")


# Columns that most measures share.
VALUE = (("n", "n"), ("value", "value"), ("95% interval", "ci95"))


def report_tables(name: str, measure: Measure, entries: Sequence[Entry]) -> list[Table]:
    """The tables of a measure in the report."""
    if measure.tables is not None:
        return measure.tables(measure.title, entries)
    return [table_of_columns(name, measure.title, measure.columns, entries)]
