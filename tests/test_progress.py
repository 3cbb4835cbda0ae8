"""Progress: a bar on a terminal, lines elsewhere, nothing where none is wanted."""

import io
import subprocess
import sys

import pytest
import tqdm
from conftest import ROOT

from experiments.__main__ import commands
from experiments.runtime import progress as module
from experiments.runtime.progress import ProgressLines, duration, progress


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(ProgressLines, "last", made.now)
    return made


def test_a_line_a_minute_says_how_long_it_takes(clock):
    out = io.StringIO()
    with ProgressLines(1000, "step", "mnist int", 100, out) as lines:
        for _ in range(9):
            clock.now += 10
            lines.set_postfix(loss="0.5", refresh=False)
            lines.update(20)
    assert out.getvalue() == "mnist int: 220 of 1,000 steps, 2 a second, 6 min left, loss 0.5\n"  # (220 - 120) / 50 s, then 780 / 2 s


def test_short_pieces_of_work_share_the_minute(clock):
    out = io.StringIO()
    for i in range(8):
        with ProgressLines(10, "image", f"piece {i}", 0, out) as lines:
            clock.now += 10
            lines.update(10)
    assert out.getvalue() == "piece 5: 10 of 10 images\n"


def test_the_first_step_which_compiles_says_nothing_of_the_time_that_is_left(clock):
    out = io.StringIO()
    with ProgressLines(1000, "step", "mnist int", 0, out) as lines:
        for seconds in (70, 1, 60):
            clock.now += seconds
            lines.update(1 if seconds > 1 else 119)
    assert out.getvalue().splitlines() == ["mnist int: 1 of 1,000 steps", "mnist int: 121 of 1,000 steps, 1.97 a second, 7 min left"]


def test_a_terminal_gets_a_bar_and_quiet_gets_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress(3, "step", "a"), ProgressLines)
    quiet = progress(3, "step", "a", show=False)
    quiet.update(3)
    quiet.close()
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(3, "step", "a") as bar:
        assert isinstance(bar, tqdm.tqdm)
        bar.update(3)
    assert "3/3" in sys.stderr.getvalue()


def test_an_evaluation_shows_its_progress_unless_it_is_to_be_quiet():
    """What the command gives to the evaluation."""
    code = """
import runpy, sys
import experiments.evaluation.engine as engine
def stop(*_, quiet):
    sys.exit(f"quiet: {quiet}")
engine.Evaluation = stop
sys.argv = ["evaluate", "--model", "small", "--variables", "experiments/results/networks/mnist_adv.npz", "--dataset", "digits", "--out", sys.argv[1]]
runpy.run_module("experiments.evaluate", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code, "runs/never.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["quiet: False"], done.stderr


def test_times_in_words():
    assert [duration(seconds) for seconds in (0, 61.2, 240.0, 9000.0)] == ["0 s", "61 s", "4 min", "2.5 h"]


def test_the_commands_are_listed():
    lines = commands()
    listed = {line.split()[2].removeprefix("experiments.") for line in lines}
    files = {file.stem for file in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__", "runs"}
    assert listed == files and all(len(line.split()) > 5 for line in lines)
    printed = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.splitlines()[:-1] == lines
