"""The measure of the unforeseen attacks."""

import authors_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments import protocols
from experiments.evaluator import Evaluator
from experiments.measures import unforeseen
from experiments.measures.task import Task

STANDARD, PAPER = protocols.PROTOCOLS["standard"], protocols.PROTOCOLS["paper"]
TWO_SIZES = lambda attack, dataset: protocols.Sizes("imagenet-100", (0.01, 1.0), (0.9, 0.6))
QUICK = STANDARD._replace(unforeseen=STANDARD.unforeseen._replace(steps=4, sizes=TWO_SIZES))


def task(trained, digits, protocol, batch_size=5, **options):
    return Task(Evaluator(*trained, digits, batch_size, seed=3), protocol, "linf", (0.0,), dataset="digits", **options)


@pytest.fixture(scope="module")
def quick(trained, digits):
    return unforeseen.measure(task(trained, digits, QUICK, num_examples=10, attacks=("jpeg_linf", "elastic")))


def test_every_attack_has_a_record_for_each_size_and_a_sum(quick):
    (clean, *records) = quick.records
    assert clean["metric"] == "clean_accuracy" and clean["attack"] == "none"
    assert [(r["attack"], r["metric"], r.get("eps")) for r in records] == [
        (attack, *rest)
        for attack in ("jpeg_linf", "elastic")
        for rest in (("robust_accuracy", 0.01), ("robust_accuracy", 1.0), ("uar", None))
    ]
    for attack in ("jpeg_linf", "elastic"):
        correct = quick.arrays[f"{attack}/predictions"] == quick.arrays["labels"]
        *sizes, uar = (r for r in records if r["attack"] == attack)
        assert [r["value"] for r in sizes] == pytest.approx(correct.mean(axis=1)) and [r["ata"] for r in sizes] == [0.9, 0.6]
        assert uar["value"] == pytest.approx(correct.mean(axis=1).sum() / 1.5) and uar["calibration"] == "imagenet-100"


def test_results_do_not_depend_on_the_batch_size(trained, digits, quick):
    again = unforeseen.measure(task(trained, digits, QUICK, batch_size=2, num_examples=10, attacks=("elastic",)))
    for key in ("elastic/predictions", "elastic/shown_predictions"):
        assert np.mean(again.arrays[key] != quick.arrays[key]) <= 0.05  # rounding may turn an image at the edge


def test_pictures_show_what_was_measured(trained, quick):
    network, params = trained
    shown = quick.arrays["elastic/shown"]
    assert shown.shape == (2, unforeseen.SHOWN, 28, 28, 1)
    predictions = np.argmax(jax.vmap(jax.vmap(lambda x: network.explain(params, x).logits))(jnp.asarray(shown)), axis=-1)
    np.testing.assert_array_equal(predictions, quick.arrays["elastic/shown_predictions"])
    assert np.abs(shown[0] - quick.arrays["shown/images"]).max() < 0.05 < np.abs(shown[1] - quick.arrays["shown/images"]).max()


def test_an_attack_is_a_plain_loop(trained, digits):
    """The paper's flavour, targeted, last iterate, written out with the renderer and the gradient alone."""
    network, params = trained
    protocol = PAPER._replace(unforeseen=PAPER.unforeseen._replace(steps=3))
    found = unforeseen.measure(task(trained, digits, protocol, attacks=("jpeg_linf",)))
    drawn = PAPER.draws["unforeseen"](24, 10)
    labels, eps = digits.labels[drawn.indices], np.float32(0.25)
    for i in range(4):
        x, target = digits.images[drawn.indices[i]].astype(np.float32) / 255, (labels[i] + drawn.shifts[i]) % 10
        key = jax.random.fold_in(unforeseen.key_of(3, "jpeg_linf"), drawn.indices[i])
        v = np.asarray(irob.UNFORESEEN["jpeg_linf"].vary(key, x, eps).start)
        render = lambda v, x=x: irob.UNFORESEEN["jpeg_linf"].vary(jax.random.key(0), x, eps).render(v)
        logits = lambda v: network.explain(params, render(v)).logits  # noqa: B023
        for _ in range(3):
            gradient = jax.grad(lambda v: jax.nn.logsumexp(logits(v)) - logits(v)[target])(v)  # noqa: B023
            v = np.clip(v - eps / np.sqrt(3) * np.sign(gradient), -eps, eps).astype(np.float32)
        assert found.arrays["jpeg_linf/predictions"][0, i] == np.argmax(logits(v))
        if i < unforeseen.SHOWN:
            assert np.mean(np.abs(found.arrays["jpeg_linf/shown"][0, i] - render(v)) > 1e-3) < 0.02


def test_a_network_that_says_nothing_is_right_nowhere(trained, digits):
    network, params = trained
    silent = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    protocol = PAPER._replace(unforeseen=PAPER.unforeseen._replace(steps=2))
    found = unforeseen.measure(task((network, silent), digits, protocol, attacks=("jpeg_linf",)))
    assert [r["value"] for r in found.records] == [0.0, 0.0] and (found.arrays["jpeg_linf/predictions"] == -1).all()


def test_sizes():
    cifar, other = (protocols.calibrated("jpeg_l1", dataset) for dataset in ("cifar10", "mnist"))
    assert cifar.source == "cifar-10" and cifar.eps == (2, 8, 64, 256, 512, 1024)
    assert other.source == "imagenet-100" and other.eps[-1] == 131072
    assert protocols.calibrated("fog", "cifar10").source == "imagenet-100"
    for attack in irob.UNFORESEEN:
        for dataset in ("cifar10", "restricted_imagenet"):
            sizes = protocols.calibrated(attack, dataset)
            assert len(sizes.eps) == len(sizes.ata) == 6 and list(sizes.eps) == sorted(sizes.eps)
            assert all(0 < ata < 1 for ata in sizes.ata)
    assert protocols.authors_size("jpeg_linf", "restricted_imagenet").eps == (0.062,) and protocols.authors_size("elastic", "mnist") is None


@authors_weights.needed
@pytest.mark.parametrize(("name", "expected"), [("mnist_smallgap_normal_100", (0.715, 0.495)), ("mnist_smallgap_int_100", (0.920, 0.900))])
def test_the_authors_accuracies_under_jpeg(name, expected):
    """Their random starts are not known: within three points."""
    network, params = irob.create("small", (28, 28, 1), 10), authors_weights.parameters(name)
    evaluator = Evaluator(network, params, authors_weights.mnist_test_images(), 100, seed=99)
    found = unforeseen.measure(Task(evaluator, PAPER, "linf", (0.0,), dataset="mnist", attacks=("jpeg_linf", "jpeg_l2")))
    accuracies = [r["value"] for r in found.records if r["metric"] == "robust_accuracy"]
    np.testing.assert_allclose(accuracies, expected, atol=0.0301)
