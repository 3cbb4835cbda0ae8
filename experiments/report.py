"""Makes the paper's tables and figures of any set of result files.

    python -m experiments.report --inputs runs/a/paper_latest.json runs/a/standard_latest.json runs/b --out runs/report

Inputs are files written by experiments.evaluate, or directories that hold some. DIR gets tables as Markdown and CSV, all records as one CSV, figures
as PNG and SVG, report.md, and report.html, which is whole in itself.
"""

import pathlib

from absl import flags

from experiments import cli


def main() -> None:
    """Parses flags and writes the report."""
    from experiments.reports.writing import report

    out = pathlib.Path(flags.FLAGS.out)
    report(flags.FLAGS.inputs, out)
    print(f"written to {out}: report.html, report.md, tables/, figures/, records.csv")


if __name__ == "__main__":
    flags.DEFINE_list("inputs", [], "result files, or directories that hold some; several may follow")
    flags.DEFINE_string("out", None, "a directory for the report, new or empty")
    flags.mark_flag_as_required("out")
    cli.run(main, more="inputs")
