import authors_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import irob
from experiments import protocols
from experiments.evaluator import Evaluator
from experiments.measures import aai
from experiments.measures.task import Task

PAPER = protocols.PROTOCOLS["paper"]._replace(steps=20)
STANDARD = protocols.PROTOCOLS["standard"]._replace(steps=12, restarts=2)
EPS = (0.0, 0.05, 0.2)


def measured(trained, digits, protocol, batch_size=5, **options):
    return aai.measure(Task(Evaluator(*trained, digits, batch_size, seed=3), protocol, "linf", EPS, **options))


def records(found, over):
    return [record for record in found.records if record["over"] == over]


def test_paper_is_a_plain_loop(trained, digits):
    """NumPy around the gradient, SciPy's tau."""
    net, params = trained
    found = measured(trained, digits, PAPER, k=4)
    drawn = PAPER.draws["aai"](24, 10)
    labels = digits.labels[drawn.indices]
    x, noise = digits.images[drawn.indices] / np.float32(255), drawn.noise((28, 28, 1))
    maps = jax.jit(jax.vmap(lambda x, t: net.explain(params, x).maps[..., t]))
    predict = lambda x: np.argmax(jax.vmap(lambda x: net.explain(params, x).logits)(x), axis=1)
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
        assert record["n"] == unchanged.sum() and record["k"] == 4
        np.testing.assert_allclose(record["value"], np.mean(np.array(taus)[unchanged]), atol=0.01)


def test_without_perturbation_tau_is_one(trained, digits):
    for protocol in (PAPER, STANDARD):
        for record in measured(trained, digits, protocol).records:
            if record["eps"] == 0:
                assert record["value"] == 1.0 and record["metric"] == "kendall_tau" and record["attack"] == "aai"


def test_standard_keeps_every_prediction_and_tau_falls(trained, digits):
    found = measured(trained, digits, STANDARD)
    assert [record["n"] for record in records(found, "unchanged")] == [24, 24, 24]
    assert (np.diff(found.arrays["cam/taus"], axis=0) <= 0).all()
    assert records(found, "all")[-1]["value"] < 0.9
    assert (found.arrays["cam/predictions"] == found.arrays["clean_predictions"]).all()


def test_results_do_not_depend_on_the_batch_size(trained, digits):
    a, b = (measured(trained, digits, STANDARD, batch_size) for batch_size in (5, 3))
    np.testing.assert_array_equal(a.arrays["cam/predictions"], b.arrays["cam/predictions"])
    np.testing.assert_allclose(a.arrays["cam/taus"], b.arrays["cam/taus"], atol=0.02)


@pytest.mark.parametrize("protocol", [PAPER, STANDARD])
def test_a_constant_map_has_no_tau(trained, digits, protocol):
    net, params = trained
    deaf = {**params, "conv_2": {"kernel": np.zeros_like(params["conv_2"]["kernel"]), "bias": np.ones(100, np.float32)}}
    for record in measured((net, deaf), digits, protocol).records:
        assert record["n"] == 0 and record["value"] is None


@pytest.mark.parametrize("protocol", [PAPER, STANDARD])
def test_a_network_of_nan_has_no_tau(trained, digits, protocol):
    net, params = trained
    broken = jax.tree.map(lambda a: np.full_like(a, np.nan), params)
    for record in measured((net, broken), digits, protocol).records:
        assert record["n"] == 0 and record["value"] is None


@authors_weights.needed
@pytest.mark.parametrize(
    ("name", "expected"),
    [("mnist_smallgap_normal_100", [0.908, 0.799, 0.348, -0.09]), ("mnist_smallgap_int_100", [0.982, 0.968, 0.941, 0.913])],
)
def test_the_authors_taus_on_their_networks(name, expected):
    network, params = irob.create("small", (28, 28, 1), 10), authors_weights.parameters(name)
    evaluator = Evaluator(network, params, authors_weights.mnist_test_images(), 50, seed=99)
    found = aai.measure(Task(evaluator, protocols.PROTOCOLS["paper"], "linf", (0.05, 0.1, 0.2, 0.3)))
    np.testing.assert_allclose([record["value"] for record in records(found, "unchanged")], expected, atol=0.01)
