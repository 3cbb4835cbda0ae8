"""Writes a report: tables, figures, one page of Markdown and one of HTML."""

import base64
import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from experiments import data, figures
from experiments.cli import UserError
from experiments.reports.entries import Entry, read
from experiments.reports.pictures import pictures
from experiments.reports.tables import TABLES, Table, sources_table


def report(inputs: Sequence[str], out: pathlib.Path) -> None:
    """Reads results and writes tables, figures, report.md and report.html."""
    entries = read(inputs)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a directory, new or empty")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give another --out, or empty it")
    sections = []
    for dataset in dict.fromkeys(entry.dataset for entry in entries):
        chosen = [entry for entry in entries if entry.dataset == dataset]
        tables = [table for make in TABLES if (table := make(chosen))]
        sections.append((dataset, [*tables, sources_table(chosen)], pictures(chosen, data.find(dataset).classes)))
    rendered = []
    for dataset, tables, drawn in sections:
        for table in tables:
            save_text(out / "tables" / f"{dataset}_{table.name}.md", markdown(table))
            save_text(
                out / "tables" / f"{dataset}_{table.name}.csv",
                comma_separated([table.header, *[[c.text for c in row] for row in table.rows]]),
            )
        files = {}
        for picture in drawn:
            files[picture.name] = out / "figures" / f"{dataset}_{picture.name}.svg"
            figures.save(picture.figure, files[picture.name], files[picture.name].with_suffix(".png"))
        rendered.append({"dataset": dataset, "tables": tables, "pictures": drawn, "files": files})
    save_text(out / "records.csv", comma_separated(all_records(entries)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments"), autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"markdown": markdown, "embedded": embedded, "code": code}
    for template in ("report.md", "report.html"):
        save_text(out / template, environment.get_template(template).render(sections=rendered))


def markdown(table: Table) -> str:
    """A table with its notes; the best cells are bold."""
    lines = [f"### {table.title}", "", row_of(table.header), row_of(["---"] * len(table.header))]
    lines += [row_of([f"**{cell.text}**" if cell.best else cell.text for cell in row]) for row in table.rows]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def row_of(texts: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def comma_separated(rows: Sequence[Sequence[Any]]) -> str:
    """CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def all_records(entries: list[Entry]) -> list[list[Any]]:
    """Every record of every result, a column for each field."""
    flat = [
        {"dataset": e.dataset, "network": e.label, "protocol": e.protocol, "seed": e.result["seed"], **r}
        for e in entries
        for r in e.result["records"]
    ]
    fields = list(dict.fromkeys(key for record in flat for key in record))
    return [fields, *[["" if record.get(key) is None else record[key] for key in fields] for record in flat]]


def code(text: str) -> markupsafe.Markup:
    """`word` as HTML code."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def embedded(file: pathlib.Path) -> str:
    """An SVG file as a data address."""
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()


def save_text(file: pathlib.Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    try:
        data.save_atomically(file, lambda f: f.write(text.encode()))
    except OSError as error:
        raise UserError(f"--out {file.parent} cannot be written ({error.strerror or error}): choose another") from error
