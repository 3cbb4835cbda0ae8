"""Training, evaluation and report, again and again in one process: memory maps, descriptors and threads level off."""

import os
import sys

import jax
import pytest
from damage import TRIED, counted  # noqa: F401

from experiments import data
from experiments.configs import base
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.reporting import report
from experiments.evaluation.run import choose_measures, run_measures
from experiments.reports import results
from experiments.runtime import process
from experiments.runtime.models import from_workdir
from experiments.training.loop import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def held():
    """Memory maps, descriptors and threads of this process."""
    with open("/proc/self/maps") as maps:
        return sum(1 for _ in maps), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.slow
def test_nothing_grows(tmp_path, request, monkeypatch):
    split, seen = data.load_split("digits", "test").first(8), []
    for i in range(4 * request.config.getoption("--trials")):
        workdir = tmp_path / str(i)
        train(base.load_config("digits:normal,tiny", [f"seed={i}"]), str(workdir))
        chosen = choose_measures(("pgd",), "standard", {"steps": "2", "restarts": "1"}, 8, split.labels)
        found = run_measures(Evaluation(from_workdir(str(workdir)), split, (0.0, 0.1)), chosen)
        results.write_result(*found, workdir / "result.json")
        report([str(workdir)], tmp_path / f"report_{i}")
        seen.append(held())
        if i == 1:  # from here on what was compiled before is dropped each time
            monkeypatch.setattr(process, "MOST_MAPS", 1)
        TRIED["round"] += 1
    maps, descriptors, threads = zip(*seen[2:], strict=True)
    assert max(maps) <= seen[1][0] and max(descriptors) <= seen[1][1] + 2 and max(threads) <= seen[1][2] + 8, seen


@pytest.mark.parametrize(("most", "dropped"), [(1, True), (10**9, False)])
def test_programs_are_dropped_where_there_are_many(monkeypatch, most, dropped):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    monkeypatch.setattr(process, "MOST_MAPS", most)
    process.drop_old_programs()
    assert bool(cleared) == dropped
