"""Makes the paper's tables and figures of any set of result files.

    python -m experiments.report --inputs runs/a/paper_latest.json runs/a/standard_latest.json runs/b --out runs/report

Inputs are files written by experiments.evaluate, or directories that hold some. DIR gets tables as Markdown and CSV, all records as one CSV, figures
as PNG and SVG, report.md, and report.html, which is one self-contained file; where AutoAttack was measured, robustbench.json in RobustBench's fields.
Trainings that differ in the seed alone are one network: mean, lowest and highest seed (records.csv and the last table have each).
"""

import pathlib

from absl import flags

from experiments.runtime.flags import run_command


def main() -> None:
    """Parses flags and writes the report."""
    from experiments.evaluation.reporting import report

    out = pathlib.Path(flags.FLAGS.out)
    report(flags.FLAGS.inputs, out)
    print(f"written to {out}: report.html, report.md, tables/, figures/, records.csv, with AutoAttack robustbench.json")


if __name__ == "__main__":
    flags.DEFINE_list("inputs", [], "result files, or directories that hold some; several may follow")
    flags.DEFINE_string("out", None, "a directory for the report, new or empty")
    flags.mark_flag_as_required("out")
    run_command(main, positional="inputs")
