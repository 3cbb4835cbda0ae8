"""The cells of a sweep, what is left of them, where they run, and how long that takes."""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import pytest

from experiments import sweep
from experiments.runtime.errors import Stopped, UserError
from experiments.sweeps import launchers
from experiments.sweeps.cells import SweepCell, as_line, cells_of, parse_evaluations, parse_varied
from experiments.sweeps.launchers import Ran


@pytest.fixture(scope="module", autouse=True)
def threads_of_jax():
    """Beside which a process must be started without code between fork and exec."""
    jax.devices()


def test_a_grid_has_every_method_with_every_value_seed_by_seed(tmp_path):
    varied = parse_varied(["defense.weight=0.01|1/50"])
    cells = cells_of(tmp_path, "digits:int,tiny", ["int", "int2"], 2, [["--measure=pgd"]], ["eps=0.2"], varied)
    assert [cell.name for cell in cells] == [
        f"{method}_weight_{value}/seed_{seed}" for seed in (99, 100) for method in ("int", "int2") for value in ("0_01", "1_50")
    ]
    configs = [cell.loaded() for cell in cells]
    assert [(c.method, c.defense.weight, c.seed) for c in configs] == [
        (method, weight, seed) for seed in (99, 100) for method in ("int", "int2") for weight in (0.01, 0.02)
    ]
    assert {c.eps for c in configs} == {0.2} and {c.num_steps for c in configs} == {8}  # the switch is kept
    assert {cell.workdir for cell in cells} == {tmp_path / cell.name for cell in cells}


def test_the_method_and_the_first_seed_are_the_configs(tmp_path):
    (cell,) = cells_of(tmp_path, "digits:trades", [], 1, [["--measure=pgd"]], ["seed=7"])
    assert (cell.name, cell.loaded().method, cell.loaded().seed) == ("trades/seed_7", "trades", 7)
    (cell,) = cells_of(tmp_path, "digits", [], 1, [["--measure=pgd"]])
    assert cell.name == "int/seed_99"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", ["int", "inter"], 1), "unknown method 'inter'"),
        (("digits", ["int", "int"], 1), "two cells of the sweep are the same"),
        (("digits", ["normal"], 1, [], [], {"defense.weight": ["1"]}), "the method normal takes"),
        (("digits", ["int"], 1, [], [], {"batch_size": ["8", "-1"]}), r"int_batch_size_minus1/seed_99: config.batch_size"),
        (("no_such.py", ["int"], 1), "no_such.py"),
        (("digits", ["int"], 1, [], ["method=adv"]), "--config.method: give --methods"),
        (("digits", ["int"], 1, [], [], {"defense.weight": ["0.02", "1/50"]}), "are the same training: give each value once"),
    ],
)
def test_a_grid_with_a_wrong_cell_is_refused_before_anything_runs(tmp_path, arguments, message):
    config, methods, seeds, *rest = arguments
    with pytest.raises(UserError, match=message):
        cells_of(tmp_path, config, methods, seeds, *(rest or [[["--measure=pgd"]]]))


@pytest.mark.parametrize("text", ["weight", "defense.weight=", "defense.weight=1|", "seed=1|2", "method=int"])
def test_values_to_vary_that_are_none_are_refused(text):
    with pytest.raises(UserError, match=r"--vary="):
        parse_varied([text])


def test_evaluations_are_flags():
    assert parse_evaluations([], []) == [["--measure=pgd"]]
    assert parse_evaluations(["pgd", "aai"], []) == [["--measure=pgd,aai"]]
    assert parse_evaluations([], ["--measure=aai --eps='0, 0.1'"]) == [["--measure=aai", "--eps=0, 0.1"]]
    assert parse_evaluations(["pgd"], ["--measure=aai"]) == [["--measure=pgd"], ["--measure=aai"]]
    wrong = ("", "aai", "--measure='aai", "--measure=pgd --out=here", "-out=here", "--workdir=there")
    for text in (*wrong, "--measure=pgdd", "--num_exmples=8", "--eps=a", "--num_examples=x", "--restarts=0"):
        with pytest.raises(UserError, match=r"--evaluate="):
            parse_evaluations([], [text])
    with pytest.raises(UserError, match="two evaluations are the same"):
        parse_evaluations(["pgd"], ["--measure=pgd"])


def test_the_line_of_a_cell_is_what_a_shell_runs(tmp_path):
    folder = tmp_path / "with space"
    (cell,) = cells_of(folder, "digits:int,tiny", [], 1, [["--measure=pgd", "--eps=0, 0.1"]], data_dir="/data")
    train, evaluate = [shlex.split(part) for part in as_line(cell.left()).split(" && ")]
    assert train[1:3] == ["-m", "experiments.train"] and f"--workdir={folder}/int/seed_99" in train and "--config.seed=99" in train
    assert evaluate[1:3] == ["-m", "experiments.evaluate"] and "--eps=0, 0.1" in evaluate
    assert evaluate[-1].startswith(f"--out={folder}/int/seed_99/pgd_eps_0__0_1_")
    assert "--data_dir=/data" in train and "--data_dir=/data" in evaluate
    assert "--step=8" in evaluate  # the last: a training that was stopped has none, and is not evaluated


def test_other_flags_are_other_files(tmp_path):
    flags = [["--norm=l2", "--eps=0.5"], ["--norm=l2", "--eps=0,5"], ["--measure=aai", "--k=" + "8" * 300], ["--step=best"]]
    (cell,) = cells_of(tmp_path, "digits:int,tiny", [], 1, flags, ["patience=2"])
    names = cell.results_names()
    assert len(set(names)) == 4 and max(map(len, names)) < 120
    assert not any(part.startswith("--step=") for command in cell.commands()[1:4] for part in command)  # it may end before


def test_a_result_of_another_ladder_or_config_is_refused(tmp_path):
    from test_results import RESULT

    from experiments.configs import base
    from experiments.reports.results import write_result

    (cell,) = cells_of(tmp_path, "digits:int", [], 1, [["--measure=pgd"]])
    assert len(cell.left()) == 2
    made = {**RESULT.provenance, "config": base.plain_config(cell.loaded()), "eps": [0.0, 0.05, 0.1, 0.15, 0.2]}
    write_result(dataclasses.replace(RESULT, provenance=made), {}, cell.results()[0])
    assert cell.left() == []
    (other,) = cells_of(tmp_path, "digits:int", [], 1, [["--measure=pgd"]], ["evaluation.eps=0,0.3"])
    with pytest.raises(UserError, match=r"config.evaluation.eps: \[0.0, 0.05"):
        other.left()
    (other,) = cells_of(tmp_path, "digits:int", [], 1, [["--measure=pgd"]], ["num_steps=500"])
    with pytest.raises(UserError, match=r"is of another config \(config.num_steps: 3000 -> 500"):
        other.left()


class Made(SweepCell):
    """A cell whose command is a program of the test."""

    def left(self):
        return [["-c", self.config]]


def made(tmp_path, name, program):
    return Made(name, tmp_path / name, program, (), ())


def test_a_cell_that_fails_is_told_with_its_last_line_and_the_others_run(tmp_path):
    bad = "import sys; print('first'); sys.stderr.write(' 3/9 2.1step/s\\r'); sys.exit('so it is')"
    (tmp_path / "blocked").write_text("a file where the folder of a cell should be")
    cells = [made(tmp_path, "blocked", ""), made(tmp_path, "bad", bad), made(tmp_path, "good", "print(1)")]
    blocked, first, second = launchers.run_here(cells)
    assert "File exists" in blocked.failed
    assert first.failed.endswith("ended with exit code 1: so it is") and second.failed is None and second.seconds > 0
    assert "first" in (tmp_path / "bad" / "log.txt").read_text()


def test_progress_is_not_the_last_line(tmp_path):
    log = tmp_path / "log.txt"
    lines = ("so it is", " 3/9 2.1step/s\r", "mnist int: 1 of 9 steps", "mnist int: 1,220 of 3,000 steps, 2 a second, 6 min left, loss 0.5")
    log.write_text("\n".join(lines))
    assert launchers.last_line(log) == "so it is"


def test_a_signal_reaches_the_command_under_way(tmp_path):
    program = (
        "import pathlib, signal, sys, time\ndef end(*_):\n  pathlib.Path(sys.argv[0] or '.')\n  open('SAVED', 'w').close(); sys.exit()\n"
    )
    program += "signal.signal(signal.SIGTERM, end)\nopen('READY', 'w').close()\ntime.sleep(60)"
    program = program.replace("SAVED", str(tmp_path / "saved")).replace("READY", str(tmp_path / "ready"))

    def send():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Stopped, match=r"a is saved; the same command resumes"):
        list(launchers.run_here([made(tmp_path, "a", program), made(tmp_path, "b", "")]))
    thread.join()
    assert (tmp_path / "saved").exists() and not (tmp_path / "b").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_command_ends_with_its_sweep_however_that_ended(tmp_path):
    """SIGKILL, a second Ctrl-C or a closed terminal: the training saves, and its workdir is free."""
    program = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_sweeps import made
from experiments.sweeps import launchers
import pathlib
child = "import signal, sys, time\\ndef end(*_):\\n  open('{tmp_path}/saved', 'w').close(); sys.exit()\\n"
child += "signal.signal(signal.SIGTERM, end)\\nopen('{tmp_path}/ready', 'w').close()\\ntime.sleep(60)"
list(launchers.run_here([made(pathlib.Path("{tmp_path}"), "a", child)]))
"""
    sweep_process = subprocess.Popen([sys.executable, "-c", program], cwd=pathlib.Path(__file__).parent.parent)
    wait = lambda file: any((tmp_path / file).exists() or time.sleep(0.05) for _ in range(1200))
    assert wait("ready")
    sweep_process.kill()
    sweep_process.wait()
    assert wait("saved")


def test_the_time_left_is_that_of_each_method(tmp_path, capsys):
    cell = lambda name: made(tmp_path, name, "")
    found = [Ran(cell("adv/seed_1"), None, 10.0), Ran(cell("int/seed_1"), None, 30.0)]
    rest = [cell("adv/seed_2"), cell("int/seed_2"), cell("trades/seed_1")]
    assert sweep.seconds_left(rest, found, 999.0) == 10 + 30 + 20
    assert sweep.seconds_left(rest, [*found, Ran(cell("int/seed_0"), "at once", 0.1)], 999.0) == 10 + 30 + 20
    assert sweep.seconds_left(rest, [found[0]._replace(seconds=None)], 7.0) == 21  # of jobs it is not known when they began
    cells = [each.cell for each in found]
    assert sweep.followed([found[0]._replace(failed="why"), found[1]], cells)[0].failed == "why"
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/2] adv/seed_1: failed: why after 10 s; 1 left, about ") and second == "[2/2] int/seed_1: done after 30 s"


def test_parameters_of_the_cluster():
    assert launchers.parse_parameters(["slurm_partition=gpu", "timeout_min=60"]) == {"slurm_partition": "gpu", "timeout_min": "60"}
    with pytest.raises(UserError, match=r"--slurm=gpu: give KEY=VALUE"):
        launchers.parse_parameters(["gpu"])


def test_without_submitit_the_cluster_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[slurm\]', or use --list"):
        list(launchers.run_on_cluster([made(tmp_path, "a", "")], tmp_path, {}))


def test_a_job_that_fails_is_told(tmp_path):
    """submitit's local executor, which starts a process for each job as SLURM does."""
    pytest.importorskip("submitit")
    (cell,) = cells_of(tmp_path, "digits:int,tiny", [], 1, [["--measure=pgd"]])
    bad = cell._replace(name="bad", config="digits:no_such_method")
    (ran,) = launchers.run_on_cluster([bad], tmp_path / "jobs", {"timeout_min": "5"}, "local")
    assert "unknown method 'no_such_method'" in ran.failed
    with pytest.raises(UserError, match="submitit refuses"):
        list(launchers.run_on_cluster([bad], tmp_path / "jobs", {"no_such": "5"}, "local"))


class FakeJob:
    """A job of SLURM by its number: even ones run, 5 is unknown there, the others have ended."""

    def __init__(self, job_id, folder=None):
        self.job_id, self.state = job_id, "UNKNOWN" if job_id == "5" else "RUNNING"

    def done(self):
        return int(self.job_id) % 2 == 1 and self.job_id != "5"


def test_a_job_that_still_runs_is_not_submitted_again(tmp_path, monkeypatch):
    fake = types.SimpleNamespace(SlurmJob=FakeJob)
    monkeypatch.setitem(sys.modules, "submitit", fake)
    cells = cells_of(tmp_path, "digits:,tiny", ["normal", "adv", "int", "trades"], 1, [["--measure=pgd"]])
    known = {cell.name: [number, *cell.results_names()] for cell, number in zip(cells, "2345", strict=True)}
    (tmp_path / "jobs.json").write_text(json.dumps({**known, "of another call": ["8"]}))
    assert set(launchers._running(cells, tmp_path, "slurm")) == {"normal/seed_99", "int/seed_99"}
    others = cells_of(tmp_path, "digits:,tiny", ["normal", "int"], 1, [["--measure=aai"]])  # which these jobs do not make
    assert launchers._running(others, tmp_path, "slurm") == {}
    (tmp_path / "jobs.json").write_text("{")
    assert launchers._running(cells, tmp_path, "slurm") == {}


def test_a_job_that_left_something_has_failed_and_jobs_of_other_calls_stay_known(tmp_path, monkeypatch):
    class Executor:
        def __init__(self, **options):
            assert options["slurm_max_num_timeout"] > 100

        def update_parameters(self, **parameters):
            assert parameters == {"name": "irob", "slurm_partition": "gpu", "gpus_per_node": 1}

        def map_array(self, function, cells):
            ended = FakeJob("7")
            ended.result = lambda: None
            return [ended for _ in cells]

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(SlurmJob=FakeJob, AutoExecutor=Executor))
    (cell,) = cells_of(tmp_path, "digits:int,tiny", [], 1, [["--measure=pgd"]])
    (tmp_path / "jobs.json").write_text(json.dumps({"of another call": ["8"]}))
    monkeypatch.setattr(launchers.time, "sleep", lambda seconds: None)
    (ran,) = launchers.run_on_cluster([cell], tmp_path, {"slurm_partition": "gpu", "gpus_per_node": "1"})
    assert ran.failed == "it left something to be done"
    assert json.loads((tmp_path / "jobs.json").read_text()) == {"of another call": ["8"], cell.name: ["7", *cell.results_names()]}


def test_a_command_whose_sweep_is_gone_already_does_not_begin():
    command = launchers.ends_with_parent(["-c", "print('begun')"])
    assert subprocess.run(command, capture_output=True, text=True).stdout == "begun\n"
    gone = [str(2**22 - 7) if part == str(os.getpid()) else part for part in command]
    done = subprocess.run(gone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
