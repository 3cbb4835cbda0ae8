import itertools

import authors_weights
import jax
import numpy as np
import pytest

import irob
from experiments import protocols
from experiments.evaluator import Evaluator
from experiments.measures import pgd

SHORT = protocols.PROTOCOLS["standard"]._replace(steps=6, restarts=2)


def outcomes(network, split, batch_size=5, protocol=SHORT, eps=(0.0, 0.02, 0.05, 0.1)):
    evaluator = Evaluator(*network, split, batch_size, seed=3)
    return list(pgd.ladder(evaluator, protocol, "linf", eps, np.arange(len(split.labels))))


def test_accuracy_falls_along_the_ladder(trained, digits):
    found = outcomes(trained, digits)
    assert found[0].correct.mean() > 0.7
    assert found[-1].correct.mean() < found[0].correct.mean()
    for weaker, stronger in itertools.pairwise(found):
        assert not np.any(stronger.correct & ~weaker.correct)


def test_results_do_not_depend_on_the_batch_size_or_the_company(trained, digits):
    whole = outcomes(trained, digits, batch_size=5)
    for other in (outcomes(trained, digits, batch_size=2), outcomes(trained, digits.first(9))):
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_array_equal(a.correct[: len(b.correct)], b.correct)


def test_clean_is_the_argmax(trained, digits):
    net, params = trained
    logits = jax.vmap(lambda x: net.explain(params, x).logits)(digits.images / np.float32(255))
    np.testing.assert_array_equal(outcomes(trained, digits)[0].correct, np.argmax(logits, axis=1) == digits.labels)


def test_paper_protocol_is_a_plain_loop(trained, digits):
    """20 steps instead of 200; NumPy around the input gradient."""
    net, params = trained
    protocol = protocols.PROTOCOLS["paper"]._replace(steps=20)
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, t: pgd.plain_cross_entropy(net.explain(params, x).logits, t))))
    x = digits.images / np.float32(255)
    for eps in (0.05, 0.1):
        x_adv = x.copy()
        for _ in range(20):
            x_adv = np.clip(
                np.clip(x_adv + np.float32(0.01) * np.sign(gradient(x_adv, digits.labels)), x - np.float32(eps), x + np.float32(eps)), 0, 1
            )
        expected = np.argmax(jax.vmap(lambda x: net.explain(params, x).logits)(x_adv), axis=1) == digits.labels
        (_, found) = outcomes(trained, digits, protocol=protocol, eps=(0.0, eps))
        assert np.sum(found.correct != expected) <= 1


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 8.0)])
def test_other_norms(trained, digits, norm, eps):
    evaluator = Evaluator(*trained, digits, 6, seed=3)
    clean, attacked = pgd.ladder(evaluator, SHORT, norm, (0.0, eps), np.arange(24))
    assert attacked.correct.mean() < clean.correct.mean()


def test_broken_networks_count_as_broken(trained, digits):
    net, params = trained
    params = jax.tree.map(lambda a: np.full_like(a, np.nan), params)
    assert not any(outcome.correct.any() for outcome in outcomes((net, params), digits))


def test_records():
    outcome = pgd.Outcome(0.1, np.zeros(100, int), np.array([True] * 79 + [False] * 21))
    record = pgd.record(protocols.PROTOCOLS["paper"], "linf", outcome)
    assert record["value"] == 0.79 and record["n"] == 100 and record["metric"] == "robust_accuracy"
    np.testing.assert_allclose(record["ci95"], irob.wilson_interval(79, 100))
    assert pgd.record(SHORT, "linf", outcome._replace(eps=0.0))["metric"] == "clean_accuracy"


@authors_weights.needed
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist_smallgap_normal_100", {0: 1.0, 0.05: 0.53, 0.1: 0.045}),
        ("mnist_smallgap_int_100", {0: 0.935, 0.3: 0.79, 0.35: 0.18, 0.4: 0.14}),
    ],
)
def test_paper_protocol_gives_the_authors_numbers_on_their_networks(name, expected):
    network, split = irob.create("small", (28, 28, 1), 10), authors_weights.mnist_test_images()
    evaluator = Evaluator(network, authors_weights.parameters(name), split, 50, seed=99)
    protocol = protocols.PROTOCOLS["paper"]
    found = pgd.ladder(evaluator, protocol, "linf", tuple(expected), protocol.draws["pgd"](10_000, 10).indices)
    for outcome, value in zip(found, expected.values(), strict=True):
        assert abs(outcome.correct.sum() - 200 * value) <= 1.01


@authors_weights.needed
def test_standard_protocol_is_as_strong_as_the_strongest_attack_known():
    """The paper's protocol reads 18% here."""
    network, split = irob.create("small", (28, 28, 1), 10), authors_weights.mnist_test_images()
    evaluator = Evaluator(network, authors_weights.parameters("mnist_smallgap_int_100"), split, 50, seed=99)
    indices = protocols.PROTOCOLS["paper"].draws["pgd"](10_000, 10).indices
    (outcome,) = [o for o in pgd.ladder(evaluator, protocols.PROTOCOLS["standard"], "linf", (0.35,), indices)]
    assert outcome.correct.mean() <= 0.01
