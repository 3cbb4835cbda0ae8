"""The measure of explanation metrics against the functions that it is made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import explanations
from experiments.reports.entries import Entry
from experiments.reports.records import Record
from experiments.runtime.errors import UserError
from irob.maps import OwnGradients, frozen, map_of_class
from irob.metrics.explanations import METRICS, effective_pixels, on_pixels_of, replacement_curve, sampled_sensitivity

OPTIONS = explanations.Options(
    images=First(6),
    map=("cam",),
    draws=4,
    map_attack_steps=4,
    subset=50,
    subsets=8,
    curve_steps=7,
    baselines=("black", "mean"),
    road_fractions=(0.2, 0.6),
    noisy_draws=3,
)


@pytest.fixture(scope="module")
def measured(trained, digits):
    return explanations.run(Evaluation(trained, digits, (0.1,), 6), OPTIONS)


def values(measured, **which):
    (record,) = [record for record in measured.records if record.has(**which)]
    return record


def test_every_metric_is_recorded_once_for_each_map_and_baseline(measured):
    maps = ("cam", "random", "edges")
    for metric in METRICS.values():
        for name in metric.better:
            found = [record for record in measured.records if record.metric == name]
            count = (
                len(maps) - 1 if name.endswith("completeness_gap") else len(maps) if metric.of_map else 1
            )  # the sum of a feature map has no meaning
            assert len(found) == count * (2 if metric.of_baseline else 1), name
            assert {record["better"] for record in found} == {metric.better[name]}
    black, mean = (values(measured, metric="deletion", map="cam", baseline=name) for name in ("black", "mean"))
    assert black.value != mean.value


def test_values_are_those_of_the_functions(measured, trained, digits):
    evaluation = Evaluation(trained, digits, (0.1,))
    key = jax.random.wrap_key_data(jnp.asarray(evaluation.random_key(0)))
    network, params = trained.network, trained.params
    logits = lambda z: network.explain(params, z).logits
    for i in (0, 5):
        x = digits.images[i] / np.float32(255)
        label = jnp.argmax(logits(x))
        attribute = map_of_class("cam", OwnGradients(network), frozen(params), label)
        found = sampled_sensitivity(attribute, x, jax.random.fold_in(key, i), radius=OPTIONS.radius, draws=4)
        np.testing.assert_allclose(measured.arrays["cam/max_sensitivity"][i], found.largest, rtol=1e-3)
        shown = jnp.sum(on_pixels_of(attribute(x), (28, 28, 1)), axis=-1)
        np.testing.assert_allclose(measured.arrays["cam/effective_pixels"][i], effective_pixels(shown), rtol=1e-4)
        curve = replacement_curve(lambda z, label=label: jax.nn.softmax(logits(z))[label], x, 0 * x, shown, steps=7)
        np.testing.assert_allclose(measured.arrays["cam/black/deletion_curve"][i], curve, atol=1e-4)
    assert measured.arrays["cam/road_curve"].shape == (6, 2)
    assert "smoothed over 3 draws; ROAD at 0.2, 0.6" in explanations.describe(OPTIONS)


def test_maps_that_know_nothing_of_the_network(measured):
    assert values(measured, metric="max_sensitivity", map="random").value == 0.0
    assert values(measured, metric="mprt_last", map="edges").value == pytest.approx(1.0)
    assert values(measured, metric="random_logit", map="edges").value == pytest.approx(1.0)
    assert values(measured, metric="mprt_last", map="cam").value < 0.9


def test_fractions_that_leave_nothing_are_refused(trained, digits):
    with pytest.raises(UserError, match=r"--road_fractions=0.9999 leaves none of 784 positions"):
        explanations.check(Evaluation(trained, digits, (0.1,)), dataclasses.replace(OPTIONS, road_fractions=(0.5, 0.9999)))


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch(measured, trained, digits):
    again = explanations.run(Evaluation(trained, digits, (0.1,), 4), OPTIONS)
    for key, value in again.arrays.items():
        np.testing.assert_allclose(value, measured.arrays[key], rtol=2e-2, atol=2e-2, err_msg=key)


def test_masks_say_where_the_object_is(trained, digits, tmp_path):
    file = tmp_path / "masks.npy"
    np.save(file, digits.images[..., 0] > 127)
    options = dataclasses.replace(OPTIONS, images=First(2), masks=str(file))
    explanations.check(Evaluation(trained, digits, (0.1,)), options)
    measured = explanations.run(Evaluation(trained, digits, (0.1,), 2), options)
    edges = irob.metrics.explanations.edges(digits.images[0] / np.float32(255))[..., 0]
    mask = digits.images[0, ..., 0] > 127
    np.testing.assert_allclose(measured.arrays["edges/relevance_mass"][0], edges[mask].sum() / edges.sum(), rtol=1e-4)
    assert values(measured, metric="pointing_game", map="cam")["better"] == "higher"
    np.save(file, np.zeros((3, 28, 28), bool))
    with pytest.raises(UserError, match="--masks="):
        explanations.check(Evaluation(trained, digits, (0.1,)), options)
    file.write_text("none")
    with pytest.raises(UserError, match=r"cannot be read as an \.npy file"):
        explanations.check(Evaluation(trained, digits, (0.1,)), options)


def test_the_report_puts_maps_side_by_side(measured):
    from experiments.reports.results import MeasureInfo, Result

    records = [Record("explanations", r.metric, r.n, r.value, r.ci95, r.settings) for r in measured.records]
    result = Result("int", "digits", "standard", 0, {"explanations": MeasureInfo(6, "", {})}, records, {"name": "digits"}, {})
    entry = Entry("int", result, measured.arrays)
    (table,) = explanations.tables("Explanation metrics", [entry])
    assert table.header[5:] == ["cam", "random", "edges"] and all(len(row) == 8 for row in table.rows)
    other = [
        Record("explanations", "gini", 6, 0.5, (0.4, 0.6), {"map": name, "better": "higher"}) for name in ("saliency", "edges")
    ]  # a network of other maps has its values under their names
    both = explanations.tables("Metrics", [entry, Entry("other", dataclasses.replace(result, records=other), {})])[0]
    assert both.header[5:] == ["cam", "saliency", "random", "edges"] and all(len(row) == 9 for row in both.rows)
    (last,) = [row for row in both.rows if row[0].text == "other"]
    assert [bool(cell.text) for cell in last[5:]] == [False, True, False, True]
    names = [picture.name for picture in explanations.pictures([entry], list("0123456789"))]
    assert names == ["explanations_deletion_curve", "explanations_mprt_curve"]
