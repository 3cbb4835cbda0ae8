"""The networks that come with the project: each is evaluated again and compared with its record.

Made by `python -m experiments.sweep` as experiments/results/mnist_robust.json says (seed 99, rounded to float16), and

    python -m experiments.evaluate --model small --variables FILE.npz --dataset mnist <OPTIONS> --out FILE_quick.json
"""

import json

import numpy as np
import pytest
import released_weights
from conftest import ROOT

import irob
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.run import choose_measures, run_measures
from experiments.reports import results
from experiments.runtime.models import EvaluatedModel
from experiments.runtime.variables import read_variables

FOLDER = ROOT / "experiments" / "results" / "networks"
NAMES = ("mnist_adv", "mnist_int_margin")
OPTIONS = {"version": "quick"}  # --measure autoattack --version quick --eps 0,0.3 --num_examples 1000


def test_together_they_are_small_and_each_has_its_record():
    files = {file.name for file in FOLDER.iterdir()}
    assert files == {f"{name}{ending}" for name in NAMES for ending in (".npz", "_quick.json")}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1e6
    for name in NAMES:
        network = irob.create("small", (28, 28, 1), 10)
        params = read_variables(str(FOLDER / f"{name}.npz"), network.initial_params())  # compares the checksum
        assert np.all(params["conv_2"]["kernel"] == params["conv_2"]["kernel"].astype(np.float16))
        found = results.read_result(FOLDER / f"{name}_quick.json")
        assert (found.dataset, found.measures["autoattack"].n, found.split) == ("mnist", 1000, "test")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@released_weights.needed
def test_each_is_as_accurate_and_as_robust_as_its_record_says(name):
    network = irob.create("small", (28, 28, 1), 10)
    params = read_variables(str(FOLDER / f"{name}.npz"), network.initial_params())
    stored = results.read_result(FOLDER / f"{name}_quick.json")
    model = EvaluatedModel(name, network, params, "mnist", "linf", (0.0, 0.3), stored.seed, {})
    images = released_weights.mnist_test_images()
    chosen = choose_measures(("autoattack",), "standard", OPTIONS, 1000, images.labels)
    found, _ = run_measures(Evaluation(model, images), chosen)
    both = [{record.metric: record.value for record in each.records if record.metric != "accuracy_after"} for each in (found, stored)]
    ours, theirs = both
    assert ours["clean_accuracy"] == theirs["clean_accuracy"]
    assert ours["robust_accuracy"] == pytest.approx(theirs["robust_accuracy"], abs=0.0031)  # rounding decides where few attacks end
    assert json.loads((FOLDER / f"{name}_quick.json").read_text())["measures"]["autoattack"]["settings"]["version"] == "quick"
