import itertools

import authors_weights
import jax
import numpy as np
import optax
import pytest
from conftest import SHARED

import irob
from experiments import data, protocols
from experiments.cli import UserError

SHORT = protocols.PROTOCOLS["standard"]._replace(steps=6, restarts=2)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "test").first(24)


@pytest.fixture(scope="module")
def network():
    """The small network after a few plain gradient steps, so that its predictions are right."""
    network = irob.create("small", (28, 28, 1), 10)
    train = data.load("digits", "train")
    x, labels = train.images[:300] / np.float32(255), train.labels[:300]

    def loss(params):
        return jax.numpy.mean(jax.vmap(lambda x, t: irob.cross_entropy(network.explain(params, x).logits, t))(x, labels))

    params, adam = network.initial_params(), optax.adam(3e-3)
    state = adam.init(params)

    @jax.jit
    def step(params, state):
        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(40):
        params, state = step(params, state)
    return network, jax.tree.map(np.asarray, params)


def outcomes(network, split, batch_size=5, protocol=SHORT, eps=(0.0, 0.02, 0.05, 0.1)):
    evaluator = protocols.Evaluator(*network, split, batch_size, seed=3)
    return list(evaluator.ladder(protocol, "linf", eps, np.arange(len(split.labels))))


def test_accuracy_falls_along_the_ladder(network, digits):
    found = outcomes(network, digits)
    assert found[0].correct.mean() > 0.7
    assert found[-1].correct.mean() < found[0].correct.mean()
    for weaker, stronger in itertools.pairwise(found):
        assert not np.any(stronger.correct & ~weaker.correct)


def test_results_do_not_depend_on_the_batch_size_or_the_company(network, digits):
    whole = outcomes(network, digits, batch_size=5)
    for other in (outcomes(network, digits, batch_size=2), outcomes(network, digits.first(9))):
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_array_equal(a.correct[: len(b.correct)], b.correct)


def test_clean_is_the_argmax(network, digits):
    net, params = network
    logits = jax.vmap(lambda x: net.explain(params, x).logits)(digits.images / np.float32(255))
    np.testing.assert_array_equal(outcomes(network, digits)[0].correct, np.argmax(logits, axis=1) == digits.labels)


def test_paper_protocol_is_a_plain_loop(network, digits):
    """20 steps instead of 200; NumPy around the input gradient."""
    net, params = network
    protocol = protocols.PROTOCOLS["paper"]._replace(steps=20)
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, t: irob.cross_entropy(net.explain(params, x).logits, t))))
    x = digits.images / np.float32(255)
    for eps in (0.05, 0.1):
        x_adv = x.copy()
        for _ in range(20):
            x_adv = np.clip(
                np.clip(x_adv + np.float32(0.01) * np.sign(gradient(x_adv, digits.labels)), x - np.float32(eps), x + np.float32(eps)), 0, 1
            )
        expected = np.argmax(jax.vmap(lambda x: net.explain(params, x).logits)(x_adv), axis=1) == digits.labels
        (_, found) = outcomes(network, digits, protocol=protocol, eps=(0.0, eps))
        assert np.sum(found.correct != expected) <= 1


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 8.0)])
def test_other_norms(network, digits, norm, eps):
    evaluator = protocols.Evaluator(*network, digits, 6, seed=3)
    clean, attacked = evaluator.ladder(SHORT, norm, (0.0, eps), np.arange(24))
    assert attacked.correct.mean() < clean.correct.mean()


def test_broken_networks_count_as_broken(network, digits):
    net, params = network
    params = jax.tree.map(lambda a: np.full_like(a, np.nan), params)
    assert not any(outcome.correct.any() for outcome in outcomes((net, params), digits))


def test_the_papers_images():
    np.testing.assert_array_equal(protocols.authors_choice(10_000)[:5], [7653, 7865, 3226, 5912, 8237])
    assert len(protocols.authors_choice(10_000)) == 200


def test_choosing_examples():
    standard, paper = protocols.PROTOCOLS["standard"], protocols.PROTOCOLS["paper"]
    np.testing.assert_array_equal(protocols.chosen(standard, 50, 7), np.arange(7))
    assert len(protocols.chosen(standard, 50, None)) == 50
    for protocol, n, message in (
        (paper, 10, "its own 200 images"),
        (standard, 51, r"must be in 1\.\.50"),
        (standard, 0, r"must be in 1\.\.50"),
    ):
        with pytest.raises(UserError, match=message):
            protocols.chosen(protocol, 50, n)


def test_records():
    outcome = protocols.Outcome(0.1, np.array([True] * 79 + [False] * 21))
    record = protocols.record(protocols.PROTOCOLS["paper"], "linf", outcome)
    assert record["value"] == 0.79 and record["n"] == 100 and record["metric"] == "robust_accuracy"
    np.testing.assert_allclose(record["ci95"], irob.wilson_interval(79, 100))
    assert protocols.record(SHORT, "linf", outcome._replace(eps=0.0))["metric"] == "clean_accuracy"


def authors_test_images():
    import gzip

    directory = SHARED / "data" / "mnist"
    read = lambda name, skip: np.frombuffer(gzip.decompress((directory / name).read_bytes()), np.uint8)[skip:]
    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return data.Images(images, read("t10k-labels-idx1-ubyte.gz", 8).astype(np.int32), {})


@authors_weights.needed
@pytest.mark.parametrize(
    ("name", "expected"),
    [("mnist_smallgap_normal_100", {0: 1.0, 0.05: 0.53, 0.1: 0.045}), ("mnist_smallgap_int_100", {0: 0.935, 0.3: 0.79, 0.35: 0.18})],
)
def test_paper_protocol_gives_the_authors_numbers_on_their_networks(name, expected):
    network, split = irob.create("small", (28, 28, 1), 10), authors_test_images()
    evaluator = protocols.Evaluator(network, authors_weights.parameters(name), split, 50, seed=99)
    protocol = protocols.PROTOCOLS["paper"]
    found = evaluator.ladder(protocol, "linf", tuple(expected), protocol.choose(len(split.labels)))
    for outcome, value in zip(found, expected.values(), strict=True):
        assert abs(outcome.correct.sum() - 200 * value) <= 1.01


@authors_weights.needed
def test_standard_protocol_is_as_strong_as_the_strongest_attack_known():
    """The paper's protocol reads 18% here."""
    network, split = irob.create("small", (28, 28, 1), 10), authors_test_images()
    evaluator = protocols.Evaluator(network, authors_weights.parameters("mnist_smallgap_int_100"), split, 50, seed=99)
    indices = protocols.authors_choice(10_000)
    (outcome,) = [o for o in evaluator.ladder(protocols.PROTOCOLS["standard"], "linf", (0.35,), indices)]
    assert outcome.correct.mean() <= 0.01
