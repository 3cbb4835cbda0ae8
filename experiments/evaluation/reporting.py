"""A report of result files: every measure's tables and figures, data set by data set."""

import pathlib
from collections.abc import Sequence

from experiments import data
from experiments.evaluation.measure import report_tables
from experiments.evaluation.measures import find_measure
from experiments.reports import pages
from experiments.reports.entries import Entry, read_entries
from experiments.reports.findings import findings
from experiments.reports.pages import Section
from experiments.reports.seeds import over_seeds
from experiments.reports.strongest import strongest_tables
from experiments.reports.tables import sources_table
from experiments.runtime.errors import UserError, one_line


def report(inputs: Sequence[str], out: pathlib.Path) -> None:
    """Reads results and writes tables, figures, report.md and report.html."""
    entries = read_entries(inputs)
    pages.check_out(out)
    pages.write_report([section(images, entries) for images in dict.fromkeys(entry.images for entry in entries)], entries, out)


def section(images: str, entries: Sequence[Entry]) -> Section:
    """The tables and figures of one data set and split, measure by measure in the order of the results; the seeds of a training are one network."""
    each = [entry for entry in entries if entry.images == images]
    chosen, dataset = over_seeds(each), each[0].dataset
    tables, pictures = [], []
    for name in dict.fromkeys(measure for entry in chosen for measure in entry.result.measures):
        measure, measured = find_measure(name), [entry.of(name) for entry in chosen if name in entry.result.measures]
        try:
            tables += report_tables(name, measure, measured)
            pictures += measure.figures(measured, data.find_dataset(dataset).classes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            files = ", ".join(entry.label for entry in measured)
            raise UserError(
                f"the results of {name} for {files} cannot be reported ({type(error).__name__}: {one_line(error, 80)}): measure again"
            ) from error
    if len(chosen) < len(each):
        several = " Of several seeds, curves are means within their range; images, maps and points are those of the first seed."
        pictures = [picture._replace(caption=picture.caption + several) for picture in pictures]
    return Section(images, findings(each, chosen), [*strongest_tables(each), *tables, sources_table(each)], pictures)
