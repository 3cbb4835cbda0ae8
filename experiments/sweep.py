"""Trains and evaluates a grid of methods, seeds and values of config fields, and reports on all of them.

    python -m experiments.sweep --config experiments/configs/mnist.py:int,fast --methods normal,adv,int --seeds 3 --workdir runs/mnist \\
        --evaluate '--measure=pgd' --evaluate '--measure=autoattack --eps=0.3 --num_examples=1000'
    python -m experiments.sweep --config experiments/configs/mnist.py:int,fast --vary 'defense.weight=0.01|0.02' --workdir runs/weights \\
        --evaluate '--measure=autoattack --split=validation --num_examples=1000'

Each cell, a method with a seed and a value of each varied field, is an ordinary workdir, METHOD[_FIELD_VALUE...]/seed_SEED, with log.txt. A cell that
fails is reported and tried again by the next call; what is finished is never run again; interrupted, the same command continues. The end is
WORKDIR/report, in which the seeds of a method are one row: mean, lowest and highest.

--launcher=local runs the cells here, one after another; slurm submits them as a job array through submitit (extra .[slurm]). For any other
scheduler, --list prints what is left to do, a line for each cell: `python -m experiments.sweep ... --list | parallel`.
"""

import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from experiments.runtime.flags import define_data_dir, run_command

if TYPE_CHECKING:
    from experiments.sweeps.cells import SweepCell
    from experiments.sweeps.launchers import Ran


def main() -> None:
    """Parses flags, runs what is left of the grid, and reports."""
    from experiments.runtime import storage
    from experiments.runtime.errors import UserError, refuse, warn
    from experiments.sweeps import launchers
    from experiments.sweeps.cells import as_line, cells_of, parse_evaluations, parse_varied

    flag = flags.FLAGS
    workdir = pathlib.Path(flag.workdir)
    evaluations, varied = parse_evaluations(flag.measure or [], flag.evaluate), parse_varied(flag.vary)
    refuse("" in (flag.methods or []), "--methods: a name is empty: give names of methods, separated by commas")
    parameters = launchers.parse_parameters(flag.slurm or [])
    refuse(bool(parameters) and flag.launcher != "slurm", "--slurm goes with --launcher=slurm")
    refuse(workdir.is_file(), f"{workdir} is a file: give another --workdir")
    cells = cells_of(workdir, flag.config, flag.methods or [], flag.seeds, evaluations, flag.config_override, varied, flag.data_dir)
    left = [cell for cell in cells if cell.left()]
    if flag.list:
        for cell in left:
            print(as_line(cell.left()))
        return
    refuse(is_in_the_way(workdir / "report"), f"{workdir / 'report'} is in the way: it is no report; move it away")
    workdir.mkdir(parents=True, exist_ok=True)
    lock = storage.lock(workdir, f"another sweep is running in {workdir}: wait for it, or use another --workdir")
    try:
        print(f"{len(cells)} cells, {len(cells) - len(left)} of them finished before", file=sys.stderr)
        run = launchers.run_here(left) if flag.launcher == "local" else launchers.run_on_cluster(left, workdir / "jobs", parameters)
        failed = [outcome for outcome in followed(run, left) if outcome.failed]
        done = [cell for cell in cells if not cell.left()]
        if done:
            try:
                print(f"written to {report_on(done, workdir)}: report.html, report.md, summary.json, tables/, figures/, records.csv")
            except UserError as error:
                warn(f"no report of all cells ({error}): report on some of them with experiments.report")
    finally:
        lock.release()
    if failed:
        names = ", ".join(outcome.cell.name for outcome in failed)
        raise UserError(f"{len(failed)} of {len(cells)} cells failed ({names}): see log.txt there; the same command tries them again")


def followed(outcomes: "Iterable[Ran]", cells: "Sequence[SweepCell]") -> "list[Ran]":
    """Waits for outcomes, and prints a line for each, with the time that the others will take, as those of their method did."""
    from experiments.runtime.progress import duration

    found, started = [], time.monotonic()
    for outcome in outcomes:
        found.append(outcome)
        said = f"failed: {outcome.failed}" if outcome.failed else "done"
        took = "" if outcome.seconds is None else f" after {duration(outcome.seconds)}"
        rest = [cell for cell in cells if cell.name not in {each.cell.name for each in found}]
        when = ""
        if rest:
            seconds = seconds_left(rest, found, time.monotonic() - started)
            when = f"; {len(rest)} left, about {duration(seconds)}, until {time.strftime('%H:%M', time.localtime(time.time() + seconds))}"
        print(f"[{len(found)}/{len(cells)}] {outcome.cell.name}: {said}{took}{when}", file=sys.stderr, flush=True)
    return found


def seconds_left(rest: "Sequence[SweepCell]", found: "Sequence[Ran]", elapsed: float) -> float:
    """How long other cells will take: each as long as those of its method so far, or as all so far on average; on a cluster, as many as ended."""
    known = [outcome for outcome in found if outcome.seconds is not None and not outcome.failed]
    if not known:
        return elapsed / len(found) * len(rest)
    mean = lambda times: sum(times) / len(times)  # noqa: E731
    of_method = lambda name: [outcome.seconds for outcome in known if outcome.cell.name.split("/")[0] == name.split("/")[0]]  # noqa: E731
    average = mean([outcome.seconds for outcome in known])
    return sum(mean(times) if (times := of_method(cell.name)) else average for cell in rest)


def is_in_the_way(folder: pathlib.Path) -> bool:
    """Whether what is there, if anything, is no report."""
    return folder.exists() and not (folder / "report.html").exists()


def report_on(cells: "Sequence[SweepCell]", workdir: pathlib.Path) -> pathlib.Path:
    """Writes the report of finished cells, in the place of the last one once it is complete."""
    from experiments.evaluation.reporting import report

    out, new = workdir / "report", workdir / "report.partial"
    shutil.rmtree(new, ignore_errors=True)
    report([str(file) for cell in cells for file in cell.results()], new)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    return out


def define_flags() -> None:
    """The flags of the command line."""
    flags.DEFINE_string(
        "config", None, "FILE[:METHOD][,SWITCH...], e.g. experiments/configs/mnist.py:int,fast; or the name of one of the configs"
    )
    flags.DEFINE_list("methods", None, "names of methods, instead of the config's")
    flags.DEFINE_integer("seeds", 1, "how many of each, from the config's on upwards", lower_bound=1)
    flags.DEFINE_multi_string("vary", [], "FIELD=VALUE|VALUE..., a field of the config; several are combined")
    flags.DEFINE_multi_string("config_override", [], "FIELD=VALUE of every cell, the same as --config.FIELD=VALUE")
    flags.DEFINE_string("workdir", None, "directory of the sweep; the cells are folders in it")
    flags.DEFINE_list("measure", None, "measures of each cell (default: pgd), by their presets")
    flags.DEFINE_multi_string(
        "evaluate", [], "flags of experiments.evaluate in quotes, e.g. '--measure=autoattack --eps=0.3'; one evaluation each"
    )
    flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "where the cells run")
    flags.DEFINE_list("slurm", None, "KEY=VALUE parameters of submitit, e.g. slurm_partition=gpu,gpus_per_node=1,timeout_min=600")
    flags.DEFINE_bool("list", False, "print the commands that are left, a line for each cell, instead of running them")
    define_data_dir()
    flags.mark_flags_as_required(["config", "workdir"])


if __name__ == "__main__":
    run_command(main, define=define_flags)
