"""Where the cells of a sweep run: here, one after another, or on a cluster, through submitit."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.runtime import storage
from experiments.runtime.errors import UserError, one_line, refuse
from experiments.runtime.signals import stop_requests, stopped_by
from experiments.sweeps.cells import SweepCell


class Ran(NamedTuple):
    """Of a cell that ran. failed: why it failed, None if it did not. seconds: that it took, None where that is not known."""

    cell: SweepCell
    failed: str | None
    seconds: float | None


def run_cell(
    cell: SweepCell,
    stop: Callable[[], int | None] = lambda: None,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> str | None:
    """Runs the commands of a cell that are left; what they print goes to `log.txt` in its workdir. Returns why it failed, None if it did not.

    Args:
      cell: of a sweep.
      stop: the number of a signal that asks to stop; the command under way gets it, and saves.
      started: is told of each process.

    Raises:
      Stopped: if it was asked to stop.
    """
    cell.workdir.mkdir(parents=True, exist_ok=True)
    for file in cell.results():
        if not file.exists():
            file.with_suffix(".npz").unlink(missing_ok=True)  # arrays whose result was not written any more
    for command in cell.left():
        with (cell.workdir / "log.txt").open("a") as log:
            log.write(f"$ python {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(ends_with_parent(command), stdout=log, stderr=log, start_new_session=True)
            started(process)
            while True:
                try:
                    code = process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if (number := stop()) is not None:
                        process.send_signal(number)
                        ended = process.wait()
                        what = "is saved" if ended in (0, 130) else f"ended with exit code {ended}"
                        raise stopped_by(number, f"{cell.name} {what}") from None
        if code != 0:
            return f"{command[1].removeprefix('experiments.')} ended with exit code {code}: {last_line(cell.workdir / 'log.txt')}"
    return None


PR_SET_PDEATHSIG = 1  # of linux/prctl.h
TIE = f"""
import ctypes, os, sys
parent, *command = sys.argv[1:]
getattr(ctypes.CDLL(None), "prctl", lambda *_: None)({PR_SET_PDEATHSIG}, {int(signal.SIGTERM)})
if os.getppid() != int(parent):  # it is gone already
    sys.exit({128 + int(signal.SIGTERM)})
os.execv(sys.executable, [sys.executable, *command])
"""


def ends_with_parent(arguments: Sequence[str]) -> list[str]:
    """The command line of `python arguments` to which Linux sends SIGTERM when its parent is gone, however that ended, so that it saves and leaves
    its workdir. The process asks for this itself before it becomes that command: code that runs between fork and exec is not safe beside JAX's
    threads. It looks for modules where Python's own are (-I), not in the current directory.
    """
    return [sys.executable, *(("-I", "-c", TIE, str(os.getpid())) if os.name == "posix" else ()), *arguments]


def last_line(log: pathlib.Path) -> str:
    """The last line of a log that is not empty, without progress bars."""
    lines = [part.strip() for line in log.read_text(errors="replace").splitlines() for part in line.split("\r")]
    progress = re.compile(r"\w/s\b|: [\d,]+ of [\d,]+ \w+s\b")
    return next((line for line in reversed(lines) if line and not progress.search(line)), "")


def run_here(cells: Sequence[SweepCell]) -> Iterator[Ran]:
    """Runs cells one after another on this machine, each command a process of its own."""
    with stop_requests() as stop:
        for cell in cells:
            started = time.monotonic()
            try:
                failed = run_cell(cell, stop)
            except (OSError, UserError) as error:  # of this cell; the others go on
                failed = one_line(error)
            yield Ran(cell, failed, time.monotonic() - started)


MOST_REQUEUES = 1000  # of a job that ran out of time


class Job:
    """What a job of the cluster calls. Preempted, or out of time, it saves, is queued again and continues."""

    process: subprocess.Popen[bytes] | None = None

    def __call__(self, cell: SweepCell) -> str | None:
        """Runs the cell; returns why it failed, None if it did not."""
        return run_cell(cell, started=self._started)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def checkpoint(self, cell: SweepCell) -> Any:
        """Ends the command under way, which saves, and returns what submitit queues again."""
        import submitit

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return submitit.helpers.DelayedSubmission(Job(), cell)


def run_on_cluster(
    cells: Sequence[SweepCell], folder: pathlib.Path, parameters: Mapping[str, str], cluster: str = "slurm"
) -> Iterator[Ran]:
    """Submits a job for each cell, in one job array, and waits for them. Jobs of an earlier call that are still queued or running are waited for, not
    submitted again; if this process ends, they go on.

    Args:
      cells: to be run.
      folder: for submitit's files, seen by all machines.
      parameters: of `submitit.AutoExecutor.update_parameters`, as text.
      cluster: as submitit names it.

    Raises:
      UserError: if submitit is not installed, or refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--launcher=slurm needs submitit: pip install -e '.[slurm]', or use --list with a scheduler of your own") from error
    typed = {name: int(value) if value.lstrip("-").isdecimal() else value for name, value in parameters.items()}
    try:
        often = {"slurm_max_num_timeout": MOST_REQUEUES} if cluster == "slurm" else {}
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **often)
        executor.update_parameters(name="irob", **typed)
        jobs = _running(cells, folder, cluster)
        new = [cell for cell in cells if cell.name not in jobs]
        submitted = executor.map_array(Job(), new) if new else []
    except (RuntimeError, NameError, ValueError, TypeError, OSError) as error:
        raise UserError(f"submitit refuses ({one_line(error, 200)}): see --slurm") from error
    jobs |= {cell.name: job for cell, job in zip(new, submitted, strict=True)}
    known = _known_jobs(folder) | {cell.name: [jobs[cell.name].job_id, *cell.results_names()] for cell in cells}
    storage.save_text(folder / "jobs.json", json.dumps(known, indent=1) + "\n")
    waiting = {cell.name: cell for cell in cells}
    while waiting:
        for name in [name for name in waiting if jobs[name].done()]:
            cell = waiting.pop(name)
            yield Ran(cell, _failure(jobs[name]) or ("it left something to be done" if cell.left() else None), None)
        time.sleep(1.0 if cluster == "local" else 15.0)


def _known_jobs(folder: pathlib.Path) -> dict[str, list[str]]:
    """Cell -> [number of its last job, names of the results that it makes], of all calls."""
    try:
        found = storage.read_json(folder / "jobs.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _running(cells: Sequence[SweepCell], folder: pathlib.Path, cluster: str) -> dict[str, Any]:
    """The jobs of an earlier call that have not ended and do what is asked for now, by the names of their cells. A job that the cluster does not know
    any more has ended.
    """
    import submitit

    if cluster != "slurm":  # a job of submitit's local executor ends with the process that waits for it
        return {}
    known = _known_jobs(folder)
    asked = {cell.name: cell.results_names() for cell in cells}
    jobs: dict[str, Any] = {
        name: submitit.SlurmJob(folder=folder, job_id=known[name][0]) for name in asked if name in known and known[name][1:] == asked[name]
    }
    return {name: job for name, job in jobs.items() if not job.done() and job.state != "UNKNOWN"}


def _failure(job: Any) -> str | None:
    """Why a job failed, in one line; None if it did not."""
    try:
        return job.result()
    except Exception as error:  # whatever happened on the other machine
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return f"job {job.job_id}: {(telling or lines or [type(error).__name__])[-1]}"


def parse_parameters(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a dictionary.

    Raises:
      UserError: for a text that is none.
    """
    for text in texts:
        refuse("=" not in text, f"--slurm={text}: give KEY=VALUE, a parameter of submitit, as in slurm_partition=gpu,gpus_per_node=1")
    return dict(text.split("=", 1) for text in texts)
