"""Explanation metrics beside those of Quantus, where it is installed: the same maps on the same network and images."""

import jax
import numpy as np
import pytest

import irob
import irob.metrics.explanations as ex
from irob.maps import gradient_x_input


@pytest.fixture(scope="module")
def peers():
    """Quantus, what its metrics take, and the same for ours."""
    pytest.importorskip("torch")
    quantus = pytest.importorskip("quantus")
    from experiments.benchmarks.attack_groups import trained_on_digits
    from experiments.benchmarks.peers import TorchNetwork

    network, params, x, labels = trained_on_digits()
    x, labels = x[:40], labels[:40]
    explain = network.frozen(params)
    score = lambda z, t: explain(z).logits[t]
    maps = np.asarray(jax.vmap(lambda x, t: gradient_x_input(lambda z: score(z, t), x))(x, labels))
    model = TorchNetwork(irob.create("small", (28, 28, 1), 10), params).requires_grad_(False).eval()
    first = lambda array: np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    given = {"model": model, "x_batch": first(x), "y_batch": labels.astype(int), "a_batch": first(maps), "device": "cpu"}
    return quantus, given, explain, x, labels, maps


PLAIN = {"normalise": False, "disable_warnings": True, "display_progressbar": False}


@pytest.mark.parametrize(("theirs", "ours"), [("Sparseness", ex.gini), ("Complexity", ex.entropy)])
def test_complexity(peers, theirs, ours):
    quantus, given, _, _, _, maps = peers
    found = getattr(quantus, theirs)(abs=True, **PLAIN)(**given)
    np.testing.assert_allclose(jax.vmap(ours)(maps), found, atol=2e-5)


def test_pixel_flipping(peers):
    quantus, given, explain, x, labels, maps = peers
    metric = quantus.PixelFlipping(features_in_step=28, perturb_baseline="black", return_auc_per_sample=False, abs=False, **PLAIN)
    found = np.array(metric(**given, softmax=True))
    probability = lambda z, t: jax.nn.softmax(explain(z).logits)[t]
    of_image = lambda x, t, a: ex.replacement_curve(lambda z: probability(z, t), x, 0 * x, a[..., 0], steps=28)
    np.testing.assert_allclose(jax.jit(jax.vmap(of_image))(x, labels, maps)[:, 1:], found, atol=1e-5)  # theirs leave out the start


def test_faithfulness_correlation(peers):
    """Other subsets, so that single values differ, and means hardly do."""
    quantus, given, explain, x, labels, maps = peers
    pearson = quantus.similarity_func.correlation_pearson
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=100, subset_size=224, perturb_baseline="black", similarity_func=pearson, return_aggregate=False, abs=False, **PLAIN
    )
    found = np.array(metric(**given, softmax=False))
    of_image = lambda x, t, a, key: ex.faithfulness_correlation(lambda z: explain(z).logits[t], x, 0 * x, a[..., 0], key)
    ours = jax.jit(jax.vmap(of_image))(x, labels, maps, jax.random.split(jax.random.key(0), len(x)))
    assert abs(np.mean(ours) - found.mean()) < 0.02 and np.corrcoef(ours, found)[0, 1] > 0.7
