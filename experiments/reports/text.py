"""A result as text, as `evaluate` prints it."""

from collections.abc import Mapping, Sequence

from experiments.reports.records import Record
from experiments.reports.results import Result
from experiments.reports.tables import field_text


def result_text(result: Result, columns: Mapping[str, tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Everything in a result, a block for each measure, and where it comes from.

    columns: measure -> (title, (heading, field of a record)).
    """
    blocks = []
    for name, info in result.measures.items():
        title, fields = columns[name]
        records = [record for record in result.records if record.measure == name]
        heading = f"{title}. {info.description}" if info.description else title
        blocks.append("\n".join([heading, *aligned(rows_of(records, fields))]))
    counts = ", ".join(f"{measure} {info.n}" for measure, info in result.measures.items())
    source = f"test images of {result.data['name']} ({result.data['from']}): {counts}; {result.protocol} protocol, seed {result.seed}"
    return "\n\n".join([*blocks, source])


def rows_of(records: Sequence[Record], columns: Sequence[tuple[str, str]]) -> list[list[str]]:
    """A header and a row per record."""
    return [[heading for heading, _ in columns], *([field_text(record, field) for _, field in columns] for record in records)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with columns flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
