"""Kendall's tau under the top-k attack: NumPy around the gradient, SciPy's tau, the authors' numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_weights
import scipy.stats

from experiments.evaluation.engine import Evaluation
from experiments.evaluation.measures import aai

PAPER = dataclasses.replace(aai.MEASURE.presets["paper"], num_steps=20)
STANDARD = dataclasses.replace(aai.MEASURE.presets["standard"], num_steps=12, restarts=2)
EPS = (0.0, 0.05, 0.2)


def measured(model, split, options, batch_size=5, **changes):
    return aai.run(Evaluation(model, split, EPS, batch_size), dataclasses.replace(options, **changes))


def records(found, over):
    return [record for record in found.records if record["over"] == over]


def test_paper_is_a_plain_loop(trained, digits):
    network, params = trained.network, trained.params
    found = measured(trained, digits, PAPER, k=4)
    draw = PAPER.images
    indices, noise = draw.indices(24), draw.noise(24, 10, (28, 28, 1))
    labels, x = digits.labels[indices], digits.images[indices] / np.float32(255)
    maps = jax.jit(jax.vmap(lambda x, t: network.explain(params, x).maps[..., t]))
    predict = lambda x: np.argmax(jax.vmap(lambda x: network.explain(params, x).logits)(x), axis=1)
    clean = np.asarray(maps(x, labels)).reshape(24, -1)
    places = np.zeros_like(clean)
    np.put_along_axis(places, np.argsort(-clean, axis=1, kind="stable")[:, :4], 1.0, axis=1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(places * maps(x, labels).reshape(24, -1))))
    for row, eps in enumerate(EPS[1:], start=1):
        x_adv = np.clip(x + np.float32(eps) * noise, 0, 1)
        for _ in range(20):
            x_adv = np.clip(np.clip(x_adv - np.float32(0.01) * np.sign(gradient(x_adv)), x - np.float32(eps), x + np.float32(eps)), 0, 1)
        moved = np.asarray(maps(x_adv, labels)).reshape(24, -1)
        taus = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(clean, moved, strict=True)]
        np.testing.assert_allclose(found.arrays["cam/taus"][row], taus, atol=0.02)
        unchanged = predict(x_adv) == predict(x)
        (record,) = [record for record in records(found, "unchanged") if record["eps"] == eps]
        assert record.n == unchanged.sum() and record["k"] == 4
        np.testing.assert_allclose(record.value, np.mean(np.array(taus)[unchanged]), atol=0.01)


@pytest.fixture(scope="module")
def standard(trained, digits):
    return measured(trained, digits, STANDARD)


def test_without_perturbation_tau_is_one(standard):
    for record in standard.records:
        if record["eps"] == 0:
            assert record.value == 1.0 and record.metric == "kendall_tau" and record["attack"] == "aai"


def test_standard_keeps_every_prediction_and_tau_falls(standard):
    assert [record.n for record in records(standard, "unchanged")] == [24, 24, 24]
    assert (np.diff(standard.arrays["cam/taus"], axis=0) <= 0).all()
    assert records(standard, "all")[-1].value < 0.9
    assert (standard.arrays["cam/predictions"] == standard.arrays["clean_predictions"]).all()


def test_results_do_not_depend_on_the_batch_size(trained, digits, standard):
    again = measured(trained, digits, STANDARD, batch_size=3)
    np.testing.assert_array_equal(again.arrays["cam/predictions"], standard.arrays["cam/predictions"])
    np.testing.assert_allclose(again.arrays["cam/taus"], standard.arrays["cam/taus"], atol=0.02)


@pytest.mark.parametrize("options", [PAPER, STANDARD])
@pytest.mark.parametrize("which", ["constant", "not finite"])
def test_a_map_that_is_constant_or_not_finite_has_no_tau(trained, digits, options, which):
    params = trained.params
    deaf = {**params, "conv_2": {"kernel": np.zeros_like(params["conv_2"]["kernel"]), "bias": np.ones(100, np.float32)}}
    broken = deaf if which == "constant" else jax.tree.map(lambda a: np.full_like(a, np.nan), params)
    for record in measured(trained._replace(params=broken), digits, options).records:
        assert record.n == 0 and record.value is None


@pytest.mark.slow
@released_weights.needed
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("mnist_smallgap_normal_100", [0.908, 0.799, 0.348, -0.09]), ("mnist_smallgap_int_100", [0.982, 0.968, 0.941, 0.913])],
)
def test_the_authors_taus_on_their_networks(name, theirs):
    """Which are those of the guide."""
    recorded = released_weights.recorded(name, "aai", "kendall_tau", over="unchanged")
    expected = [recorded[eps] for eps in (0.05, 0.1, 0.2, 0.3)]
    np.testing.assert_allclose(expected, theirs, atol=0.0006)
    evaluation = Evaluation(released_weights.model(name), released_weights.mnist_test_images(), (0.05, 0.1, 0.2, 0.3), 50)
    found = aai.run(evaluation, aai.MEASURE.presets["paper"])
    np.testing.assert_allclose([record.value for record in records(found, "unchanged")], expected, atol=0.01)
