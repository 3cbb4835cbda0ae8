"""A model that others trained, by its function and a file of variables: norm, seed, classes, target, stored images."""

import json

import numpy as np
import pytest
from conftest import ROOT

from experiments.runtime.models import from_workdir
from experiments.runtime.variables import flat_arrays

OUTSIDE = {"PYTHONPATH": str(ROOT / "tests")}


@pytest.mark.slow
def test_a_model_and_its_variables_are_evaluated_as_the_workdir_that_they_are_from(commands, tmp_path):
    """The same records; then another norm, seed, two classes, a target, with stored images, in the report."""
    commands.run(
        *("train", "--config", "digits:adv,tiny", "--config.network=made_up.networks:make", "--workdir", tmp_path / "run"),
        *("--config.num_steps=200", "--config.checkpoint_every=200", "--config.ema_decay=0.9"),
        **OUTSIDE,
    )
    import sys

    sys.path.insert(0, OUTSIDE["PYTHONPATH"])
    np.savez(tmp_path / "weights.npz", **flat_arrays(from_workdir(str(tmp_path / "run")).params))
    short = ("--eps", "0,0.1", "--steps", "5", "--num_examples", "40")
    commands.run("evaluate", "--workdir", tmp_path / "run", *short, **OUTSIDE)
    commands.run("evaluate", "--workdir", tmp_path / "run", *short, "--parameters", "averaged", **OUTSIDE)
    model = ("--model", "made_up.networks:make", "--variables", tmp_path / "weights.npz", "--dataset", "digits")
    commands.run("evaluate", *model, *short, "--out", tmp_path / "model.json", **OUTSIDE)
    expected, found, averaged = (
        json.loads((tmp_path / file).read_text())
        for file in ("run/standard_latest.json", "model.json", "run/standard_latest_parameters_averaged.json")
    )
    assert found["records"] == expected["records"] and found["method"] == "weights"
    assert averaged["method"] == "adv (averaged)" and averaged["parameters"] == "averaged"

    out, _ = commands.run(
        *(
            "evaluate",
            *model,
            "--norm",
            "l2",
            "--eps",
            "0,1",
            "--seed",
            "5",
            "--classes",
            "1,3,7",
            "--target",
            "7",
            "--save_examples",
            "true",
        ),
        *("--steps", "5", "--restarts", "2", "--out", tmp_path / "other.json"),
        **OUTSIDE,
    )
    result = json.loads((tmp_path / "other.json").read_text())
    arrays = np.load(tmp_path / "other.npz")
    assert result["norm"] == "l2" and result["seed"] == 5 and set(arrays["pgd/labels"]) == {1, 3}
    (reached,) = [record for record in result["records"] if record["metric"] == "target_reached"]
    assert reached["target"] == "7" and "towards class 7" in out
    clean, attacked = arrays["pgd/examples_5_steps"]
    distance = np.sqrt(np.sum((attacked - clean) ** 2, axis=(1, 2, 3)))
    assert 0.5 < distance.max() <= 1 + 1e-5
    files = sorted(file.name for file in (tmp_path / "other_examples").glob("*.png"))
    assert len(files) == 20 and all("_as_" in name for name in files)
    commands.run("report", "--inputs", tmp_path / "run", tmp_path / "other.json", "--out", tmp_path / "report", **OUTSIDE)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Accuracy of each class" in text and "Targeted attacks" in text
