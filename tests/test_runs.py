"""A training opened in a notebook, as the guide shows it."""

import re

import jax
import numpy as np
import pytest
import readme

from experiments import data, runs
from experiments.configs import base
from experiments.reports.records import proportion_record
from experiments.reports.results import MeasureInfo, Result, write_result
from experiments.runtime.errors import UserError
from experiments.training.loop import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    train(base.load_config("digits:int,tiny"), str(where))
    return where


def test_the_lines_of_the_guide(workdir):
    """They run as they stand, but for the name of the folder."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", readme.TEXT, flags=re.DOTALL) if "runs.open" in block]
    names = {}
    exec(block.replace("runs/digits_int", str(workdir)), names)
    assert names["x"].shape == (8, 28, 28, 1) and names["maps"].shape == (8, 7, 7, 10) and names["table"] == []
    np.testing.assert_allclose(names["maps"].mean((1, 2)), names["logits"], atol=1e-4)


def test_what_a_run_has(workdir):
    run = runs.open(str(workdir), step="best")
    assert run.step in (4, 8) and run.config.method == "int" and run.classes == tuple("0123456789")
    x, labels = run.batch(3, split="train", first=5)
    train_split = data.load_split("digits", "train")
    np.testing.assert_allclose(x, train_split.images[5:8] / np.float32(255))
    np.testing.assert_array_equal(labels, train_split.labels[5:8])
    frozen = run.model.frozen()
    np.testing.assert_allclose(jax.vmap(frozen)(x).logits, jax.vmap(run.model)(x).logits, atol=1e-4)
    assert [line["step"] for line in run.log()] == [2, 4, 4, 6, 8, 8]
    with pytest.raises(UserError, match="the test split has 400 images, not 399 to 401"):
        run.batch(2, first=399)


def test_results_are_flat_records_and_arrays(workdir):
    records = [proportion_record("robust_accuracy", np.array([True, False]), eps=0.1)]
    result = Result(
        "int",
        "digits",
        "standard",
        3,
        {"pgd": MeasureInfo(2, "", {})},
        records,
        {"name": "digits"},
        {"versions": {}, "git_revision": None, "device": "1 x cpu", "seconds": 1.0},
    )
    write_result(result, {"pgd/indices": np.arange(2)}, workdir / "standard_latest.json")
    run = runs.open(str(workdir))
    (record,) = run.records()
    assert record["file"] == "standard_latest.json" and record["value"] == 0.5 and record["eps"] == 0.1 and record["seed"] == 3
    np.testing.assert_array_equal(run.arrays("standard_latest.json")["pgd/indices"], np.arange(2))
    (workdir / "standard_latest.json").unlink()
