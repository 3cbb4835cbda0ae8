"""Several processes, one of which is gone, stopped, late or another: each of the others ends soon, with one line that says which and why."""

import os
import re
import signal
import socket
import time

import pytest
from commands import ROOT
from damage import TRIED, counted  # noqa: F401

CONFIG = ("--config", "digits:int,tiny", "--config.num_steps=4000", "--config.checkpoint_every=2000", "--config.log_every=10")


def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start(commands, workdir, where, number, *more):
    shared = ("--workdir", workdir, "--coordinator", where, "--num_processes", 2, "--process_id", number, "--timeout", 20)
    return commands.start("train", *CONFIG, *shared, *more)


def last_line(process, seconds):
    """The error that a process ends with, in time; no traceback, no abort."""
    TRIED["process"] += 1
    began = time.monotonic()
    _, err = process.communicate(timeout=seconds)
    assert process.returncode == 2, (process.returncode, err[-2000:])
    lines = [line for line in err.replace("\r", "\n").splitlines() if not re.search("step/s|s/step|Gloo", line) and line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0], time.monotonic() - began


def test_a_process_with_other_settings_ends_both(commands, tmp_path):
    where = address()
    first, second = start(commands, tmp_path, where, 0), start(commands, tmp_path, where, 1, "--config.seed=3")
    wrong = "process 1 was started with config.seed 3, process 0 with 99: all processes of a run take the same command"
    assert wrong in last_line(second, 60)[0]
    message, seconds = last_line(first, 60)
    assert "process 1 ended:" in message and wrong in message and seconds < 30
    assert not (tmp_path / "checkpoints").exists()


def test_a_coordinator_that_does_not_come(commands, tmp_path):
    where = address()
    shared = ("--workdir", tmp_path, "--coordinator", where, "--num_processes", 2)
    late = commands.start("train", *CONFIG, *shared, "--process_id", 1, "--timeout", 2)
    assert f"--coordinator={where}: no coordinator there after 2 seconds (--timeout)" in last_line(late, 60)[0]


def test_a_port_that_is_taken(commands, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        where = f"localhost:{taken.getsockname()[1]}"
        assert "process 0 cannot listen at port" in last_line(start(commands, tmp_path, where, 0), 60)[0]


@pytest.mark.slow
def test_a_process_that_does_not_come(commands, tmp_path):
    shared = ("--workdir", tmp_path, "--coordinator", address(), "--num_processes", 2)
    alone = commands.start("train", *CONFIG, *shared, "--process_id", 0, "--timeout", 3)
    assert "not all 2 processes came after 3 seconds (--timeout)" in last_line(alone, 60)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "how", "message"),
    [
        (0, signal.SIGKILL, "the coordinator, process 0, does not answer"),
        (1, signal.SIGKILL, "process 1 has given no sign of life for 20 seconds"),
        (1, signal.SIGSTOP, "process 1 has given no sign of life for 20 seconds"),
    ],
)
def test_a_process_that_dies_or_stands_still(commands, tmp_path, number, how, message):
    where = address()
    both = [start(commands, tmp_path, where, i) for i in range(2)]
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert all(process.poll() is None for process in both)
        time.sleep(0.1)
    os.kill(both[number].pid, how)
    found, seconds = last_line(both[1 - number], 60)
    assert message in found and seconds < 30
    both[number].kill()
    both[number].communicate()


@pytest.mark.slow
def test_a_mistake_that_one_process_alone_makes(commands, tmp_path):
    """Its data cannot be read there."""
    code = """
import os
import numpy as np

def split(name):
    if "BROKEN" in os.environ and name == "validation":
        raise OSError("the disk is gone")
    return np.zeros((16, 28, 28, 1), np.uint8), np.arange(16) % 2
"""
    (tmp_path / "own_data.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    shared = (*CONFIG, "--config.dataset=own_data:split", "--workdir", tmp_path / "run", "--coordinator", address(), "--num_processes", 2)
    first = commands.start("train", *shared, "--process_id", 0, PYTHONPATH=path)
    second = commands.start("train", *shared, "--process_id", 1, PYTHONPATH=path, BROKEN="1")
    assert "the disk is gone" in last_line(second, 60)[0]
    assert "the disk is gone" in last_line(first, 60)[0]
