"""Commands that are killed at random moments, or run out of disk: the same command then ends with the same numbers, bit for bit."""

import os
import pathlib
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from damage import TRIED, counted  # noqa: F401

from experiments.reports import results
from experiments.runtime.checkpoints import fingerprint
from experiments.runtime.models import from_workdir

CONFIG = ("--config", "digits:int,tiny", "--config.num_steps=24", "--config.checkpoint_every=4", "--config.log_every=2")
MEASURE = ("--num_examples", 24, "--batch_size", 4, "--steps", 8, "--restarts", 2, "--eps", "0,0.05,0.1")


def killed_after(process, seconds):
    """Kills a process after a time, if it has not ended by then; whether it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
    alive = process.poll() is None
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


@pytest.fixture(scope="module")
def whole(commands, tmp_path_factory):
    """An uninterrupted run, its result, and how long both took."""
    place = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    commands.run("train", *CONFIG, "--workdir", place / "run")
    trained = time.monotonic()
    commands.run("evaluate", "--workdir", place / "run", *MEASURE, "--out", place / "result.json")
    return place, trained - began, time.monotonic() - trained


def test_training(whole, commands, tmp_path, request):
    place, seconds, _ = whole
    random = np.random.default_rng(int(time.time()))
    for _ in range(5 * request.config.getoption("--trials")):
        if not killed_after(commands.start("train", *CONFIG, "--workdir", tmp_path / "run"), random.uniform(1.0, 1.1 * seconds)):
            commands.run("train", *CONFIG, "--workdir", tmp_path / "run")  # it has ended: it says so
        TRIED["training killed"] += 1
    commands.run("train", *CONFIG, "--workdir", tmp_path / "run")
    assert fingerprint(from_workdir(str(tmp_path / "run")).params) == fingerprint(from_workdir(str(place / "run")).params)
    steps = [line.partition(",")[0] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [line.partition(",")[0] for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]


def test_evaluation(whole, commands, tmp_path, request):
    place, _, seconds = whole
    random = np.random.default_rng(int(time.time()))
    arguments = ("evaluate", "--workdir", place / "run", *MEASURE, "--out", tmp_path / "result.json")
    for _ in range(2 * request.config.getoption("--trials")):
        killed_after(commands.start(*arguments), random.uniform(0.5 * seconds, seconds))
        TRIED["evaluation killed"] += 1
        if (tmp_path / "result.json").exists():
            break
    if not (tmp_path / "result.json").exists():
        commands.run(*arguments)
    whole_result, found = (results.read_result(at / "result.json") for at in (place, tmp_path))
    assert found.records == whole_result.records
    theirs, ours = (results.read_result_arrays(at / "result.json", result) for at, result in ((place, whole_result), (tmp_path, found)))
    assert theirs.keys() == ours.keys() and all(np.array_equal(theirs[key], ours[key]) for key in theirs)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts file systems of a given size, where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(size):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip("mounting needs another user")
        return place

    yield mounted
    subprocess.run(["umount", place], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "1m", "5m"])
def test_a_full_disk(whole, commands, small_disk, tmp_path, size):
    place = small_disk(size)
    message = commands.run("train", *CONFIG, "--config.keep_last=9", "--workdir", place / "run", code=2)[1].replace("\r", "\n")
    TRIED["disk full"] += 1
    error = [line for line in message.splitlines() if not re.search("step/s|s/step", line) and line.strip()]
    assert len(error) == 1 and "No space left on device" in error[0], error
    subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
    commands.run("train", *CONFIG, "--config.keep_last=9", "--workdir", place / "run")
    assert fingerprint(from_workdir(str(place / "run")).params) == fingerprint(from_workdir(str(whole[0] / "run")).params)


@pytest.mark.slow
def test_a_disk_that_cannot_be_written(whole, commands, small_disk):
    place = small_disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    assert "Read-only file system" in commands.refused("train", *CONFIG, "--workdir", pathlib.Path(place) / "run")
    refused = commands.refused("evaluate", "--workdir", whole[0] / "run", *MEASURE, "--out", pathlib.Path(place) / "result.json")
    assert "cannot be written" in refused
    TRIED["disk full"] += 2
