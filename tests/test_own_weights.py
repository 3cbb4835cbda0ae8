"""A small network of our own training: reading, evaluating and reporting a file of weights against stored numbers, wherever the project is.

Made by

    python -m experiments.train --config experiments/configs/digits.py:int --config.network=pool --workdir DIR
    runs.open(DIR).save("tests/weights/digits_pool_int.npz")
    python -m experiments.evaluate <MODEL> <OPTIONS> --out tests/weights/digits_pool_int.json
"""

import numpy as np
import pytest
import scipy.signal
from commands import ROOT

import irob
from experiments import data
from experiments.reports import results
from experiments.reports.records import OUTCOMES
from experiments.runtime.variables import read_variables

WEIGHTS = ROOT / "tests" / "weights" / "digits_pool_int.npz"
MODEL = ("--model", "pool", "--variables", WEIGHTS.relative_to(ROOT))
OPTIONS = "--dataset digits --num_examples 20 --measure pgd,bound --eps 0,0.05,0.1 --restarts 1 --steps 20 --queries 0 --num_steps 20"


def maps_in_numpy(layers, x):
    """Class activation maps of one image from the arrays of the file, by correlation with scipy."""
    kernel_0, bias_0, kernel_1, bias_1 = (layers[f"conv_{i}/{name}"] for i in (0, 1) for name in ("kernel", "bias"))

    def conv(x, kernel, bias):
        planes = [sum(scipy.signal.correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(x.shape[-1])) for o in range(len(bias))]
        return np.stack(planes, axis=-1) + bias

    def halved(x):
        width = 2
        h, w, c = x.shape
        return x.reshape(h // width, width, w // width, width, c).max(axis=(1, 3))

    return halved(conv(np.maximum(halved(conv(x, kernel_0, bias_0)), 0), kernel_1, bias_1)) @ layers["head/kernel"]


def identifying(record):
    """The settings of a record without those that are measured."""
    return {name: value for name, value in record.settings.items() if name not in OUTCOMES}


@pytest.fixture(scope="module")
def stored():
    return results.read_result(WEIGHTS.with_suffix(".json"))


def test_the_file_is_read_as_numpy_reads_it(stored):
    network, test = irob.create("pool", (28, 28, 1), 10), data.load_split("digits", "test")
    params = read_variables(str(WEIGHTS), network.initial_params())
    with np.load(WEIGHTS) as arrays:
        layers = dict(arrays)
    right = []
    for image, label in zip(test.images[:20], test.labels[:20], strict=True):
        x = image / np.float32(255)
        expected = maps_in_numpy(layers, x)
        maps, logits = network.explain(params, x)
        np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(logits, expected.mean(axis=(0, 1)), atol=1e-4 * np.abs(expected).max())
        right.append(expected.mean(axis=(0, 1)).argmax() == label)
    (clean,) = [record for record in stored.records if record.metric == "clean_accuracy"]
    assert clean.value == np.mean(right)


def test_it_is_evaluated_and_reported_as_stored(stored, commands, tmp_path):
    file = tmp_path / "digits_pool_int.json"
    commands.run("evaluate", *MODEL, *OPTIONS.split(), "--out", file)
    found = results.read_result(file)
    overall = [record for record in found.records if record.metric != "class_accuracy"]
    expected_overall = [record for record in stored.records if record.metric != "class_accuracy"]
    assert [identifying(record) for record in overall] == [identifying(record) for record in expected_overall]
    for record in overall:
        of_classes = [each for each in found.records if each.has(measure="pgd", metric="class_accuracy", eps=record.get("eps"))]
        if record.metric in ("clean_accuracy", "robust_accuracy"):
            assert sum(each.n * each.value for each in of_classes) == pytest.approx(record.n * record.value)
    for ours, expected in zip(overall, expected_overall, strict=True):
        # Rounding may decide one image of twenty otherwise on another machine, and where an attack ends.
        assert ours.value == pytest.approx(expected.value, rel=0.02, abs=1.01 / 20 if "accuracy" in ours.metric else 1e-3), expected
    assert found.provenance["weights"] == stored.provenance["weights"]
    commands.run("report", "--inputs", file, "--out", tmp_path / "report")
    records = (tmp_path / "report" / "records.csv").read_text().splitlines()
    assert len(records) == 1 + len(found.records)
    page = (tmp_path / "report" / "report.md").read_text()
    assert all(f"{record.value:.3f}" in page for record in found.records)


@pytest.mark.slow
def test_the_format_of_the_papers_authors_gives_the_same(commands, tmp_path):
    network = irob.create("pool", (28, 28, 1), 10)
    (tmp_path / "pool.pkl").write_bytes(irob.paper.dumps(network, read_variables(str(WEIGHTS), network.initial_params())))
    options = ("--dataset", "digits", "--num_examples", 20, "--eps", "0,0.1", "--restarts", 1, "--steps", 3)
    commands.run("evaluate", "--weights", tmp_path / "pool.pkl", *options, "--out", tmp_path / "theirs.json")
    commands.run("evaluate", *MODEL, *options, "--out", tmp_path / "ours.json")
    theirs, ours = (results.read_result(tmp_path / f"{name}.json") for name in ("theirs", "ours"))
    assert theirs.records == ours.records
