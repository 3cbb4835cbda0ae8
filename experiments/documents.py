"""Makes the tables of documents anew from the results that come with the project.

    python -m experiments.documents [--check] [README.md ...]

A table stands between `<!-- results: {...} -->` and `<!-- /results -->`; experiments/reports/documents.py says what the first line has. The results
are summary.json files of reports, in experiments/results. Tables of speed stand between the same lines with `benchmark`, of which
experiments/reports/benchmark_tables.py is the reader. --check writes nothing and fails if a document says anything else than they do.
"""

import pathlib

from absl import flags

from experiments.runtime.flags import run_command

RESULTS = pathlib.Path(__file__).parent / "results"


def main() -> None:
    """Parses flags and writes, or compares, every document."""
    from experiments.reports.documents import DOCUMENTS, rendered
    from experiments.runtime import storage
    from experiments.runtime.errors import UserError, refuse

    flag, wrong = flags.FLAGS, []
    root = RESULTS.parent.parent
    files = [pathlib.Path(file) for file in flag.inputs] or [file for name in DOCUMENTS if (file := root / name).exists()]
    for file in files:
        refuse(not file.is_file(), f"there is no document {file}")
        before = file.read_text()
        try:
            after = rendered(before, RESULTS)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        if after != before:
            wrong.append(file)
            if not flag.check:
                storage.save_text(file, after)
    names = ", ".join(map(str, wrong))
    refuse(flag.check and bool(wrong), f"{names}: tables differ from experiments/results: run python -m experiments.documents")
    print(f"{len(files)} documents, {len(wrong)} of them changed")


if __name__ == "__main__":
    flags.DEFINE_list("inputs", [], "documents (default: all of this project)")
    flags.DEFINE_bool("check", False, "write nothing; fail if a document says anything else")
    run_command(main, positional="inputs")
