"""A small network of our own training: reading, evaluating and reporting a file of weights against stored numbers, wherever the project is.

Made by

    python -m experiments.train --config experiments/configs/digits.py:int --config.network=pool --workdir DIR
    pathlib.Path("tests/weights/digits_pool_int.pkl").write_bytes(paper.dumps(model.network, model.params))  # of runtime.models.from_workdir
    python -m experiments.evaluate --weights tests/weights/digits_pool_int.pkl <OPTIONS> --out tests/weights/digits_pool_int.json
"""

import pickle

import numpy as np
import pytest
import scipy.signal
from commands import ROOT

import irob
from experiments import data
from experiments.reports import results
from irob import paper

WEIGHTS = ROOT / "tests" / "weights" / "digits_pool_int.pkl"
OPTIONS = "--dataset digits --num_examples 20 --measure pgd,bound --eps 0,0.05,0.1 --restarts 1 --steps 20 --num_steps 20"


def maps_in_numpy(layers, x):
    """Class activation maps of one image from the content of the file, by correlation with scipy."""
    (kernel_0, bias_0), pool, (kernel_1, bias_1), _, (head,) = layers

    def conv(x, kernel, bias):
        planes = [sum(scipy.signal.correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(x.shape[-1])) for o in range(len(bias))]
        return np.stack(planes, axis=-1) + bias

    def halved(x):
        width = len(pool[0])
        h, w, c = x.shape
        return x.reshape(h // width, width, w // width, width, c).max(axis=(1, 3))

    return halved(conv(np.maximum(halved(conv(x, kernel_0, bias_0)), 0), kernel_1, bias_1)) @ head[0, 0]


@pytest.fixture(scope="module")
def stored():
    return results.read_result(WEIGHTS.with_suffix(".json"))


def test_the_file_is_read_as_numpy_reads_it(stored):
    released, test = paper.loads(WEIGHTS.read_bytes()), data.load_split("digits", "test")
    network = irob.create(released.network, (28, 28, 1), released.num_classes)
    layers = pickle.loads(WEIGHTS.read_bytes())
    right = []
    for image, label in zip(test.images[:20], test.labels[:20], strict=True):
        x = image / np.float32(255)
        expected = maps_in_numpy(layers, x)
        maps, logits = network.explain(released.params, x)
        np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(logits, expected.mean(axis=(0, 1)), atol=1e-4 * np.abs(expected).max())
        right.append(expected.mean(axis=(0, 1)).argmax() == label)
    (clean,) = [record for record in stored.records if record.metric == "clean_accuracy"]
    assert clean.value == np.mean(right)


def test_it_is_evaluated_and_reported_as_stored(stored, commands, tmp_path):
    file = tmp_path / "digits_pool_int.json"
    commands.run("evaluate", "--weights", WEIGHTS, *OPTIONS.split(), "--out", file)
    found = results.read_result(file)
    overall = [record for record in found.records if record.metric != "class_accuracy"]
    assert [record.settings for record in overall] == [record.settings for record in stored.records]
    for record in overall:
        of_classes = [each for each in found.records if each.has(measure="pgd", metric="class_accuracy", eps=record.get("eps"))]
        if record.metric in ("clean_accuracy", "robust_accuracy"):
            assert sum(each.n * each.value for each in of_classes) == pytest.approx(record.n * record.value)
    for ours, expected in zip(overall, stored.records, strict=True):
        # Rounding may decide one image of twenty otherwise on another machine, and where an attack ends.
        assert ours.value == pytest.approx(expected.value, rel=0.02, abs=1.01 / 20 if "accuracy" in ours.metric else 1e-3), expected
    assert found.provenance["weights"] == stored.provenance["weights"]
    commands.run("report", "--inputs", file, "--out", tmp_path / "report")
    records = (tmp_path / "report" / "records.csv").read_text().splitlines()
    assert len(records) == 1 + len(found.records)
    page = (tmp_path / "report" / "report.md").read_text()
    assert all(f"{record.value:.3f}" in page for record in found.records)
