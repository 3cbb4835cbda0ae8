"""Makes the paper's tables and figures of any set of result files.

    python -m experiments.report --inputs runs/a/paper_latest.json runs/a/standard_latest.json runs/b --out runs/report

Inputs are files written by experiments.evaluate, or directories that hold some. DIR gets tables as Markdown and CSV, all records as one CSV, figures
as PNG and SVG, report.md, and report.html, which is one self-contained file; where AutoAttack was measured, robustbench.json in RobustBench's fields.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from experiments.runtime.flags import run_command

if TYPE_CHECKING:
    from experiments.reports.entries import Entry
    from experiments.reports.pages import Section


def report(inputs: Sequence[str], out: pathlib.Path) -> None:
    """Reads results and writes tables, figures, report.md and report.html."""
    from experiments.reports import pages
    from experiments.reports.entries import read_entries

    entries = read_entries(inputs)
    pages.check_out(out)
    pages.write_report([section(dataset, entries) for dataset in dict.fromkeys(entry.dataset for entry in entries)], entries, out)


def section(dataset: str, entries: "Sequence[Entry]") -> "Section":
    """The tables and figures of one data set, measure by measure in the order of the results."""
    from experiments import data
    from experiments.evaluation.measure import report_tables
    from experiments.evaluation.measures import find_measure
    from experiments.reports.pages import Section
    from experiments.reports.strongest import strongest_tables
    from experiments.reports.tables import sources_table
    from experiments.runtime.errors import UserError, one_line

    chosen = [entry for entry in entries if entry.dataset == dataset]
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
    return Section(dataset, [*strongest_tables(chosen), *tables, sources_table(chosen)], pictures)


def main() -> None:
    """Parses flags and writes the report."""
    out = pathlib.Path(flags.FLAGS.out)
    report(flags.FLAGS.inputs, out)
    print(f"written to {out}: report.html, report.md, tables/, figures/, records.csv, with AutoAttack robustbench.json")


if __name__ == "__main__":
    flags.DEFINE_list("inputs", [], "result files, or directories that hold some; several may follow")
    flags.DEFINE_string("out", None, "a directory for the report, new or empty")
    flags.mark_flag_as_required("out")
    run_command(main, positional="inputs")
