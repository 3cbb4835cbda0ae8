"""A result as text, as `evaluate` prints it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.reports.records import Record
from experiments.reports.results import Result
from experiments.reports.tables import field_text


class Printed(NamedTuple):
    """What is printed of a measure: its title, columns (heading, field of a record), and metrics; without metrics all."""

    title: str
    columns: Sequence[tuple[str, str]]
    metrics: Sequence[str] = ()


def result_text(result: Result, measures: Mapping[str, Printed]) -> str:
    """What a result says, a block for each measure, and where it comes from."""
    blocks = []
    for name, info in result.measures.items():
        title, fields, metrics = measures[name]
        records = [record for record in result.records if record.measure == name and (not metrics or record.metric in metrics)]
        heading = f"{title}. {info.description}" if info.description else title
        blocks.append("\n".join([heading, *aligned(rows_of(records, fields))]))
    counts = ", ".join(f"{measure} {info.n}" for measure, info in result.measures.items())
    source = (
        f"{result.split} images of {result.data['name']} ({result.data['from']}): {counts}; {result.protocol} protocol, seed {result.seed}"
    )
    return "\n\n".join([*blocks, source])


def rows_of(records: Sequence[Record], columns: Sequence[tuple[str, str]]) -> list[list[str]]:
    """A header and a row per record, without columns that are empty."""
    kept = [(heading, field) for heading, field in columns if any(field_text(record, field) for record in records)]
    return [[heading for heading, _ in kept], *([field_text(record, field) for _, field in kept] for record in records)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with columns flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
