"""A sweep from the command line: failed cells are tried again, finished ones are not, and the report has a row for each method."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
GRID = ("--config", "experiments/configs/digits.py:,tiny", "--methods", "normal,int", "--seeds", 2)
PGD = ("--evaluate", "--measure=pgd --num_examples=8 --eps=0,0.1 --split=validation")


def test_a_sweep_fails_goes_on_and_ends_in_a_report(commands, tmp_path):
    grid = (*GRID, "--workdir", tmp_path / "sweep", *PGD)
    listed, _ = commands.run("sweep", *grid, "--list")
    assert len(listed.splitlines()) == 4 and not (tmp_path / "sweep").exists()

    blocked = tmp_path / "sweep" / "int" / "seed_99"
    blocked.mkdir(parents=True)
    (blocked / "checkpoints").write_text("in the way")
    out, err = commands.run("sweep", *grid, code=2)
    assert "1 of 4 cells failed (int/seed_99): see log.txt there; the same command tries them again" in err.splitlines()[-1]
    assert "int/seed_99: failed: train ended with exit code 2: error:" in err and "holds checkpoints or logs but no config.json" in err
    assert "report.html" in out

    (blocked / "checkpoints").unlink()
    remaining, _ = commands.run("sweep", *grid, "--list")
    (line,) = remaining.splitlines()
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("pgd*.json")}
    assert len(written) == 3
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", line], check=True, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True)
    out, err = commands.run("sweep", *grid)
    assert "4 cells, 4 of them finished before" in err
    assert all(file.stat().st_mtime_ns == before for file, before in written.items())

    report = (tmp_path / "sweep" / "report" / "report.md").read_text()
    assert "## digits, validation split" in report
    for method in ("normal", "int"):
        assert f"| {method} (2 seeds) | standard | pgd | linf | 150 | 8 |" in report
    (file,) = blocked.glob("pgd_num_examples_8_eps_0_0_1_split_validation_*.json")
    result = json.loads(file.read_text())
    assert result["data"]["split"] == "validation" and result["config"]["seed"] == 99

    other = commands.refused("sweep", *grid, "--config.num_steps=4")
    assert "is of another config (config.num_steps: 8 -> 4)" in other


def test_cells_run_as_jobs_of_a_cluster(tmp_path, monkeypatch):
    """submitit's local executor: each job a process, as on SLURM, without its queue."""
    pytest.importorskip("submitit")
    from experiments.sweeps import launchers
    from experiments.sweeps.cells import cells_of

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flags = [["--measure=pgd", "--num_examples=8", "--eps=0,0.1"]]
    cells = cells_of(tmp_path, "digits:,tiny", ["normal", "adv"], 1, flags)
    ran = list(launchers.run_on_cluster(cells, tmp_path / "jobs", {"timeout_min": "10"}, "local"))
    assert sorted(each.cell.name for each in ran) == ["adv/seed_99", "normal/seed_99"] and not any(each.failed for each in ran)
    assert not any(cell.left() for cell in cells)
