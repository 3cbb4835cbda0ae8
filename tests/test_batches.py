"""Whole batches in one call, against the functions of one example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.attacks import ATTACKS, AttackResult


@pytest.fixture(scope="module")
def both(trained, digits):
    return irob.bind(trained.network, trained.params), digits.images / np.float32(255), digits.labels


def predicted(model, x):
    return np.argmax(jax.jit(jax.vmap(lambda x: model(x).logits))(x), axis=1)


def test_an_attack_is_pgd_on_each_image(both):
    model, x, labels = both
    ball = irob.LInf(0.08)
    found = irob.attack(model, x, labels, ball, key=3, num_steps=8, batch_size=9)
    key, frozen = jax.random.fold_in(jax.random.key(3), 0), model.frozen()

    def one(x, label, i):
        objective = lambda z: (irob.margin_loss(frozen(z).logits, label),) * 2
        return ATTACKS["pgd"](objective, ball, x, key=jax.random.fold_in(key, i), num_steps=8).x_adv

    expected = jax.jit(jax.vmap(one))(x, labels, np.arange(24))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert isinstance(found, np.ndarray) and np.abs(found - x).max() <= 0.08 + 1e-6


def test_results_depend_neither_on_the_batch_size_nor_on_the_form_of_the_classifier(both):
    model, x, labels = both
    one = irob.attack(model, x, labels, irob.L2(1.0), num_steps=5, batch_size=24)
    for other in (
        irob.attack(model, x, labels, irob.L2(1.0), num_steps=5, batch_size=5),
        irob.attack(lambda z: model(z).logits, x, labels, irob.L2(1.0), num_steps=5),
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_broken_is_not_attacked_again(both):
    """A method that writes down which images it sees, restart by restart: the second sees those that the first left."""
    model, x, labels = both
    seen = []

    def method(objective, ball, x, *, key, num_steps, start=None):
        jax.debug.callback(lambda total: seen.append(float(total)), jnp.sum(x), ordered=False)
        return ATTACKS["pgd"](objective, ball, x, key=key, num_steps=num_steps, start=start)

    x_adv = irob.attack(model, x, labels, irob.LInf(0.1), method=method, num_steps=3, restarts=2, batch_size=24)
    jax.effects_barrier()
    first, second = set(np.round(seen[:24], 3)), set(np.round(seen[24:], 3))
    once = irob.attack(model, x, labels, irob.LInf(0.1), num_steps=3, restarts=1, batch_size=24)
    broken = predicted(model, once) != labels
    assert 0 < broken.sum() < 24 and len(first) == 24 and len(second) == 24 - broken.sum()
    np.testing.assert_array_equal(x_adv[broken], once[broken])


def test_targets_and_given_starts(both):
    model, x, labels = both
    targets = (labels + 1) % 10
    x_adv = irob.attack(model, x, labels, irob.LInf(0.3), targets=targets, num_steps=20)
    assert np.mean(predicted(model, x_adv) == targets) > 0.8
    still = lambda objective, ball, x, *, key, num_steps, start=None: AttackResult(x if start is None else start, 0.0)
    start = np.clip(x + 0.2, 0, 1)
    moved = irob.attack(model, x, labels, irob.LInf(0.05), method=still, start=start)
    np.testing.assert_allclose(moved, np.clip(start, x - 0.05, x + 0.05), atol=1e-6)


def test_evaluation_is_the_worst_case_over_losses_and_restarts(both):
    model, x, labels = both
    found = irob.evaluate(model, x, labels, irob.LInf(0.06), num_steps=6, restarts=2, batch_size=10)
    clean = predicted(model, x)
    assert found.clean.value == np.mean(clean == labels) and found.robust.n == 24
    np.testing.assert_array_equal(predicted(model, found.x_adv), found.predictions)
    assert found.robust.value == np.mean(found.predictions == labels) < found.clean.value
    np.testing.assert_array_equal(found.x_adv[clean != labels], x[clean != labels])
    for loss in ("margin", "cross_entropy"):
        alone = irob.evaluate(model, x, labels, irob.LInf(0.06), losses=(loss,), num_steps=6, restarts=1)
        assert alone.robust.value >= found.robust.value
    low, high = irob.metrics.wilson_interval(int(24 * found.robust.value + 0.5), 24)
    assert (found.robust.low, found.robust.high) == pytest.approx((low, high))


def test_another_call_compiles_nothing(both):
    model, x, labels = both
    traced = []

    def classifier(x):
        traced.append(1)
        return model(x).logits

    for eps in (0.1, 0.2):
        irob.attack(classifier, x, labels, irob.LInf(eps), num_steps=2, batch_size=8)
        if eps == 0.1:
            count = len(traced)
    assert len(traced) == count + 1  # the check of its shape
    bars = []
    irob.attack(classifier, x, labels, irob.LInf(0.1), num_steps=2, batch_size=8, progress=lambda rows: bars.append(len(rows)) or rows)
    assert bars == [3]


def test_check_says_what_is_wrong(both):
    model, x, labels = both
    found = irob.check(model, x, labels)
    assert found.num_classes == 10 and found.clean.value == np.mean(predicted(model, x) == labels) and found.vanishing_gradients == 0
    masked = irob.check(lambda z: jnp.round(model(z).logits), x, labels)
    assert masked.vanishing_gradients == 1.0
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="gives other logits of the same image a second time"):
        irob.check(lambda z: model(z).logits + random.normal(size=10).astype(np.float32), x, labels)
    with pytest.raises(ValueError, match="the classifier returns probabilities: give its logits"):
        irob.check(lambda z: jax.nn.softmax(model(z).logits), x, labels)
    with pytest.raises(ValueError, match=r"the classifier has logits that are not finite at image 0 and 23 others"):
        irob.check(lambda z: model(z).logits / 0.0, x, labels)
    with pytest.raises(ValueError, match=r"the classifier has a gradient that is not finite at image"):
        irob.check(lambda z: model(z).logits + jnp.sqrt(jnp.sum(z[:1, :1] * 0.0)), x, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 28, 28), np.float32)}, r"images must be \[n, H, W, c\], got shape \(2, 28, 28\)"),
        ({"images": np.zeros((24, 28, 28, 1), np.uint8)}, "images must be floats in .*, got uint8: divide uint8 pixels by 255"),
        ({"images": np.full((24, 28, 28, 1), 2.0)}, r"images must be in \[0, 1\], got 2 .. 2"),
        ({"labels": np.zeros(3, int)}, r"labels must be 24 whole numbers, one for each image, got int64 of shape \(3,\)"),
        ({"labels": np.full(24, 10)}, "labels must be in 0 .. 9, got 10 .. 10"),
        ({"labels": np.full(24, 0.5)}, "labels must be 24 whole numbers"),
        ({"targets": np.full(24, -1)}, "targets must be in 0 .. 9, got -1 .. -1"),
        ({"targets": "labels"}, "targets must differ from the labels, 24 do not"),
        ({"ball": 0.1}, r"ball must be such as irob.LInf\(8 / 255\), got float"),
        ({"ball": irob.LInf(8.0)}, r"the radius of LInf must be in \[0, 1\] for pixels in \[0, 1\], got 8"),
        ({"ball": irob.L2(-0.1)}, r"the radius of L2 must be in .*, got -0.1"),
        ({"method": "fgsmm"}, "unknown method 'fgsmm': choose one of pgd"),
        ({"loss": "hinge"}, "unknown loss 'hinge': choose one of"),
        ({"model": lambda x: jnp.zeros((3, 4))}, r"returns logits \[C\], this one returns shape \(3, 4\)"),
    ],
)
def test_bad_input_is_refused(both, change, message, unchecked):
    model, x, labels = both
    change = {"targets": labels} if change.get("targets") is not None and isinstance(change["targets"], str) else change
    given = {"model": model, "images": x, "labels": labels, "ball": irob.LInf(0.1)} | change
    with pytest.raises(ValueError, match=message):
        irob.attack(**given)
