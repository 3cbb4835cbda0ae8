"""Writes a report: tables, figures, one page of Markdown and one of HTML."""

import csv
import io
import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe

from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.figures import Picture
from experiments.reports.findings import NOTE
from experiments.reports.strongest import robustbench
from experiments.reports.summary import as_text, summarized
from experiments.reports.tables import Table
from experiments.runtime import storage
from experiments.runtime.errors import UserError, refuse

ENLARGED = 1.25  # figures on a screen, over their size in print


class Section(NamedTuple):
    """The part of a report on one data set. dataset: its name, with the split where it is not test. findings: sentences that come first."""

    dataset: str
    findings: list[str]
    tables: list[Table]
    pictures: list[Picture]

    @property
    def anchor(self) -> str:
        """Its name in the addresses of the page."""
        return storage.slug(self.dataset)

    def stem(self, table: Table) -> str:
        """The name of the files of a table."""
        return storage.slug(f"{self.dataset}_{table.name}")

    def file(self, picture: Picture, out: pathlib.Path) -> pathlib.Path:
        """The SVG file of a picture."""
        return out / "figures" / f"{storage.slug(f'{self.dataset}_{picture.name}')}.svg"


def check_out(out: pathlib.Path) -> None:
    """Refuses a place that is not a new or empty directory."""
    refuse(out.exists() and not out.is_dir(), f"--out {out} is a file: give a directory, new or empty")
    refuse(out.exists() and any(out.iterdir()), f"{out} is not empty: give another --out, or empty it")


def write_report(sections: Sequence[Section], entries: Sequence[Entry], out: pathlib.Path) -> None:
    """Writes tables, figures, records.csv, report.md and report.html."""
    try:
        _write(sections, entries, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): choose another") from error


def _write(sections: Sequence[Section], entries: Sequence[Entry], out: pathlib.Path) -> None:
    files = [section.file(picture, out).name for section in sections for picture in section.pictures]
    files += [f"{section.stem(table)}.csv" for section in sections for table in section.tables]
    twice = [name for name in dict.fromkeys(files) if files.count(name) > 1]
    refuse(bool(twice), f"the report would have two files {', '.join(twice)}: report these results one at a time")
    for section in sections:
        for table in section.tables:
            stem = section.stem(table)
            storage.save_text(out / "tables" / f"{stem}.md", markdown(table))
            rows = [[cell.text for cell in row] for row in table.rows]
            storage.save_text(out / "tables" / f"{stem}.csv", comma_separated([table.header, *rows]))
        for picture in section.pictures:
            file = section.file(picture, out)
            figures.save(picture.figure, file, file.with_suffix(".png"))
    storage.save_text(out / "records.csv", comma_separated(all_records(entries)))
    storage.save_text(out / "summary.json", as_text(summarized(entries)))
    if cards := [card for entry in entries for card in robustbench(entry)]:
        storage.save_text(out / "robustbench.json", json.dumps(cards, indent=1) + "\n")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.reports"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embed: Callable[[Picture, Section], markupsafe.Markup] = lambda picture, section: inlined(section.file(picture, out))  # noqa: E731
    name: Callable[[Picture, Section], str] = lambda picture, section: section.file(picture, out).stem  # noqa: E731
    environment.filters |= {"markdown": markdown, "inlined": embed, "code": code, "stem": name, "interval": interval}
    for template in ("report.md", "report.html"):
        storage.save_text(out / template, environment.get_template(template).render(sections=sections, note=NOTE))


def markdown(table: Table) -> str:
    """A table with its notes; the best cells are bold."""
    lines = [f"### {table.title}", "", markdown_row(table.header), markdown_row(["---"] * len(table.header))]
    lines += [markdown_row([f"**{cell.text}**" if cell.best else cell.text for cell in row]) for row in table.rows]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def markdown_row(texts: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def comma_separated(rows: Sequence[Sequence[Any]]) -> str:
    """Rows of cells as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def all_records(entries: Sequence[Entry]) -> list[list[Any]]:
    """Every record of every result, a column for each field."""
    flat = [
        {"dataset": e.images, "network": e.label, "protocol": e.protocol, "seed": e.result.seed, **record.as_dict()}
        for e in entries
        for record in e.result.records
    ]
    fields = list(dict.fromkeys(key for record in flat for key in record))
    return [fields, *[["" if record.get(key) is None else record[key] for key in fields] for record in flat]]


def code(text: str) -> markupsafe.Markup:
    """Text with `word` as HTML code."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def interval(text: str) -> markupsafe.Markup:
    """The text of a cell; an interval and what follows it small, on a line of its own."""
    found = re.fullmatch(r"(-?[\d.]+ )(\[.*)", text)
    return markupsafe.Markup("{}<small>{}</small>").format(*found.groups()) if found else markupsafe.escape(text)


def inlined(file: pathlib.Path) -> markupsafe.Markup:
    """An SVG file as a part of a page, at most `ENLARGED` times its size; its names begin with that of the file."""
    text = re.sub(r"<metadata>.*?</metadata>", "", file.read_text(), flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :]).replace("xlink:href", "href")
    head, body = text.split(">", 1)
    width = float(re.search(r' width="([\d.]+)pt"', head)[1])  # type: ignore[index]
    head = re.sub(r' (width|height)="[^"]*"', "", head) + f' style="max-width: {ENLARGED * width:.0f}pt" aria-labelledby="caption"'
    return markupsafe.Markup(re.sub(r'(\b(?:id|labelledby)="|href="#|url\(#)', rf"\g<1>{file.stem}-", f"{head}>{body}"))
