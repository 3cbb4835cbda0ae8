"""The engine: each image computed once, whatever the batches, and found again under everything that decides its result."""

import functools

import jax.numpy as jnp
import numpy as np

from experiments.evaluation.cache import ResultCache
from experiments.evaluation.engine import Evaluation, key_of
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions
from experiments.evaluation.run import Chosen, run_measures
from experiments.reports.records import mean_record
from experiments.runtime import devices, provenance
from irob.batches import predicted_class

CALLS = []


@functools.lru_cache
def weighted_sum(network, spec):
    def check(shared, images, labels, indices, more):
        _, scale = shared
        return {"sum": jnp.sum(images.astype(jnp.float32), axis=(1, 2, 3)) * scale + spec * more, "index": indices}

    pmapped = devices.pmap_full_precision(check)
    return lambda *arguments: (CALLS.append(1), pmapped(*arguments))[1]


def test_each_image_has_its_own_result_and_is_computed_once(trained, digits):
    evaluation = Evaluation(trained, digits, batch_size=2, cache=ResultCache())
    indices, more = np.array([20, 3, 7, 11, 0]), np.array([0.5, 1.5, 2.5, 3.5, 4.5], np.float32)

    def found(spec, scale, indices=indices, more=more):
        before = len(CALLS)
        result = evaluation.map_examples("sums", weighted_sum, spec, (np.float32(scale),), indices, more)
        return result, len(CALLS) - before

    first, computed = found(3, 2.0)
    assert computed == 1 and devices.num_devices() == 4
    np.testing.assert_allclose(first["sum"], 2 * digits.images[indices].sum(axis=(1, 2, 3), dtype=float) + 3 * more)
    np.testing.assert_array_equal(first["index"], indices)
    again, computed = found(3, 2.0)
    assert computed == 0
    np.testing.assert_array_equal(again["sum"], first["sum"])
    for other in ((4, 2.0), (3, 1.0)):  # another spec, another argument
        assert found(*other)[1] == 1
    assert found(3, 2.0, more=more + 1)[1] == 1


def test_new_images_alone_are_computed(trained, digits):
    evaluation = Evaluation(trained, digits, batch_size=1)
    few = evaluation.map_examples("clean", constant_check, None, (), np.arange(3))
    evaluation.split = None  # asked for a known image it would fail
    again = evaluation.map_examples("clean", constant_check, None, (), np.array([2, 0]))
    np.testing.assert_array_equal(again["index"], few["index"][[2, 0]])


@functools.lru_cache
def constant_check(network, spec):
    return devices.pmap_full_precision(lambda shared, images, labels, indices: {"index": indices})


SHAPES = []


@functools.lru_cache
def traced_check(network, spec):
    def check(shared, images, labels, indices):
        SHAPES.append(images.shape[0])
        return {"index": indices}

    return devices.pmap_full_precision(check)


def test_a_measure_compiles_a_check_for_one_batch_size_however_many_images_survive(trained, digits):
    def run(evaluation, options):
        for survivors in (24, 17, 5, 1):
            evaluation.map_examples("survivors", traced_check, None, (), np.arange(survivors))
        return Measured([mean_record("found", np.ones(3))], {"indices": np.arange(24)})

    measure = Measure("Survivors", {"standard": MeasureOptions()}, run, ())
    run_measures(Evaluation(trained, digits), {"survivors": Chosen(measure, MeasureOptions())})
    assert SHAPES == [6]  # 24 images on four devices


def test_a_result_names_the_revision_that_measured_though_the_checkout_changes_meanwhile(trained, digits, monkeypatch):
    def run(evaluation, own):
        monkeypatch.setattr(provenance, "git_revision", lambda: "of later")
        return Measured([mean_record("one", np.ones(2))], {"indices": np.arange(2)})

    monkeypatch.setattr(provenance, "git_revision", lambda: "that measured")
    measure = Measure("One", {}, run, (), describe=lambda _: "ones")
    result, _ = run_measures(Evaluation(trained, digits), {"one": Chosen(measure, MeasureOptions())})
    assert result.provenance["git_revision"] == "that measured" and provenance.git_revision() == "of later"


def test_a_key_tells_apart_what_decides_a_result():
    keys = [
        key_of(weighted_sum, 1, ()),
        key_of(weighted_sum, 2, ()),
        key_of(constant_check, 1, ()),
        key_of(weighted_sum, 1, (np.float32(0.1),)),
        key_of(weighted_sum, 1, (np.float64(0.1),)),
        key_of(weighted_sum, 1, (np.zeros(2), np.zeros(3))),
        key_of(weighted_sum, 1, (np.zeros(3), np.zeros(2))),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(weighted_sum, 1, (np.float32(0.1),)) == keys[3]


def test_logits_that_are_not_finite_predict_no_class():
    assert int(predicted_class(jnp.array([1.0, jnp.nan, 0.0]))) == -1
    assert int(predicted_class(jnp.array([1.0, 3.0, 0.0]))) == 1
