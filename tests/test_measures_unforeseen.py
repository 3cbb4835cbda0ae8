"""The measure of the unforeseen attacks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_weights

from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import unforeseen
from experiments.runtime.errors import UserError
from irob.attacks import UNFORESEEN

STANDARD, PAPER = unforeseen.MEASURE.presets["standard"], unforeseen.MEASURE.presets["paper"]
QUICK = dataclasses.replace(STANDARD, num_steps=4, sizes="two", images=First(10))


@pytest.fixture(scope="module", autouse=True)
def two_sizes():
    unforeseen.SIZES["two"] = lambda attack, dataset: unforeseen.Sizes("imagenet-100", (0.01, 1.0), (0.9, 0.6))
    yield
    del unforeseen.SIZES["two"]


def measured(model, split, options, batch_size=5, **changes):
    return unforeseen.run(Evaluation(model, split, (0.0,), batch_size), dataclasses.replace(options, **changes))


@pytest.fixture(scope="module")
def quick(trained, digits):
    return measured(trained, digits, QUICK, unforeseen_attacks=("jpeg_linf", "elastic"))


def test_every_attack_has_a_record_for_each_size_and_a_sum(quick):
    (clean, *records) = quick.records
    assert clean.metric == "clean_accuracy" and clean["attack"] == "none"
    assert [(r["attack"], r.metric, r.get("eps")) for r in records] == [
        (attack, *rest)
        for attack in ("jpeg_linf", "elastic")
        for rest in (("robust_accuracy", 0.01), ("robust_accuracy", 1.0), ("uar", None))
    ]
    for attack in ("jpeg_linf", "elastic"):
        correct = quick.arrays[f"{attack}/predictions"] == quick.arrays["labels"]
        *sizes, uar = (r for r in records if r["attack"] == attack)
        assert [r.value for r in sizes] == pytest.approx(correct.mean(axis=1)) and [r["ata"] for r in sizes] == [0.9, 0.6]
        assert uar.value == pytest.approx(correct.mean(axis=1).sum() / 1.5) and uar["calibration"] == "imagenet-100"


def test_results_do_not_depend_on_the_batch_size(trained, digits, quick):
    again = measured(trained, digits, QUICK, batch_size=2, unforeseen_attacks=("elastic",))
    for key in ("elastic/predictions", "elastic/shown_predictions"):
        assert np.mean(again.arrays[key] != quick.arrays[key]) <= 0.05  # rounding may turn an image at the edge


def test_shown_images_are_what_was_measured(trained, quick):
    shown = quick.arrays["elastic/shown"]
    assert shown.shape == (2, unforeseen.SHOWN, 28, 28, 1)
    logits = jax.vmap(jax.vmap(lambda x: trained.network.explain(trained.params, x).logits))(jnp.asarray(shown))
    np.testing.assert_array_equal(np.argmax(logits, axis=-1), quick.arrays["elastic/shown_predictions"])
    assert np.abs(shown[0] - quick.arrays["shown/images"]).max() < 0.05 < np.abs(shown[1] - quick.arrays["shown/images"]).max()


def test_an_attack_is_a_plain_loop(trained, digits):
    """The paper's flavour, targeted, last iterate, written out with the renderer and the gradient alone."""
    found = measured(trained, digits, PAPER, num_steps=3, unforeseen_attacks=("jpeg_linf",))
    indices, offsets = PAPER.images.indices(24), PAPER.images.target_offsets(24, 10)
    labels, eps, vary = digits.labels[indices], np.float32(0.25), UNFORESEEN["jpeg_linf"].vary
    render = lambda v, x: vary(jax.random.key(0), x, eps).render(v)
    logits = jax.jit(lambda v, x: trained.network.explain(trained.params, render(v, x)).logits)
    gradient = jax.jit(jax.grad(lambda v, x, t: jax.nn.logsumexp(logits(v, x)) - logits(v, x)[t]))
    for i in range(4):
        x, target = digits.images[indices[i]].astype(np.float32) / 255, (labels[i] + offsets[i]) % 10
        v = np.asarray(vary(jax.random.fold_in(unforeseen.attack_key(3, "jpeg_linf"), indices[i]), x, eps).start)
        for _ in range(3):
            v = np.clip(v - eps / np.sqrt(3) * np.sign(gradient(v, x, target)), -eps, eps).astype(np.float32)
        assert found.arrays["jpeg_linf/predictions"][0, i] == np.argmax(logits(v, x))
        if i < unforeseen.SHOWN:
            assert np.mean(np.abs(found.arrays["jpeg_linf/shown"][0, i] - render(v, x)) > 1e-3) < 0.02


def test_a_network_that_predicts_no_class_is_correct_nowhere(trained, digits):
    broken = trained._replace(params=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), trained.params))
    found = measured(broken, digits, PAPER, num_steps=2, unforeseen_attacks=("jpeg_linf",))
    assert [r.value for r in found.records] == [0.0, 0.0] and (found.arrays["jpeg_linf/predictions"] == -1).all()


def test_sizes():
    cifar, other = (unforeseen.calibrated_sizes("jpeg_l1", dataset) for dataset in ("cifar10", "mnist"))
    assert cifar.source == "cifar-10" and cifar.eps == (2, 8, 64, 256, 512, 1024)
    assert other.source == "imagenet-100" and other.eps[-1] == 131072
    assert unforeseen.calibrated_sizes("fog", "cifar10").source == "imagenet-100"
    for attack in UNFORESEEN:
        for dataset in ("cifar10", "mnist"):
            sizes = unforeseen.calibrated_sizes(attack, dataset)
            assert len(sizes.eps) == len(sizes.ata) == 6 and list(sizes.eps) == sorted(sizes.eps)
    assert unforeseen.paper_sizes("jpeg_linf", "mnist").eps == (0.25,) and unforeseen.paper_sizes("elastic", "mnist") is None
    assert unforeseen.paper_sizes("jpeg_linf", "restricted_imagenet").eps == (0.062,)


def test_an_attack_that_is_not_calibrated_has_its_own_sizes_or_is_refused(trained, digits, monkeypatch):
    row = UNFORESEEN["elastic"]
    monkeypatch.setitem(UNFORESEEN, "mine", row._replace(eps=(0.5,)))
    assert unforeseen.calibrated_sizes("mine", "mnist") == unforeseen.Sizes("its own", (0.5,))
    monkeypatch.setitem(UNFORESEEN, "sizeless", row)
    evaluation = Evaluation(trained, digits, (0.0,), 5)
    for options, attack in ((STANDARD, "sizeless"), (PAPER, "elastic")):
        with pytest.raises(UserError, match=f"--unforeseen_attacks={attack}: there are no {options.sizes} sizes of this attack"):
            unforeseen.check(evaluation, dataclasses.replace(options, unforeseen_attacks=(attack,)))


@pytest.mark.slow
@released_weights.needed
@pytest.mark.parametrize(("name", "expected"), [("mnist_smallgap_normal_100", (0.715, 0.495)), ("mnist_smallgap_int_100", (0.920, 0.900))])
def test_the_authors_accuracies_under_jpeg(name, expected):
    """Their random starts are not known: within three points."""
    found = measured(
        released_weights.model(name),
        released_weights.mnist_test_images(),
        PAPER,
        batch_size=100,
        unforeseen_attacks=("jpeg_linf", "jpeg_l2"),
    )
    accuracies = [r.value for r in found.records if r.metric == "robust_accuracy"]
    np.testing.assert_allclose(accuracies, expected, atol=0.0301)
