import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

import irob

logits = hnp.arrays(np.float32, 5, elements=st.floats(-50, 50, width=32, allow_subnormal=False))


@given(logits, st.integers(0, 4))
def test_cross_entropy_is_minus_the_log_probability(f, t):
    expected = -scipy.special.log_softmax(f.astype(np.float64))[t]
    np.testing.assert_allclose(irob.cross_entropy(jnp.asarray(f), t), expected, rtol=1e-5, atol=1e-5)


@given(logits, logits)
def test_kl_divergence_is_scipys_relative_entropy(f, g):
    p, q = (scipy.special.softmax(v.astype(np.float64)) for v in (f, g))
    np.testing.assert_allclose(irob.losses.kl_divergence(jnp.asarray(f), jnp.asarray(g)), scipy.stats.entropy(p, q), rtol=1e-3, atol=1e-4)


def test_kl_divergence_is_from_the_first_to_the_second():
    p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(irob.losses.kl_divergence(p, q), 0.75 * np.log(1.5) + 0.25 * np.log(0.5), rtol=1e-5)


@given(logits, st.integers(0, 4))
def test_margin_is_the_lead_of_the_best_other_class(f, t):
    expected = np.delete(f, t).max() - f[t]
    np.testing.assert_allclose(irob.margin_loss(jnp.asarray(f), t), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("f", "t", "expected"),
    [
        ([3.0, 1.0, 0.0, -1.0], 0, -2 / 3),
        ([3.0, 1.0, 0.0, -1.0], 1, 2 / 3),
        ([3.0, 1.0, 0.0, -1.0], 2, 1.0),
        ([3.0, 1.0, 0.0, -1.0], 3, 4 / 3),
    ],
)
def test_dlr_by_hand(f, t, expected):
    np.testing.assert_allclose(irob.losses.dlr(jnp.array(f), t), expected, rtol=1e-6)


@given(logits, st.integers(0, 4), st.floats(0.5, 4), st.floats(-3, 3))
def test_dlr_ignores_shift_and_scale(f, t, scale, shift):
    f = np.arange(5, dtype=np.float32)[np.argsort(f)] + 0.1 * np.sin(f)
    np.testing.assert_allclose(irob.losses.dlr(jnp.asarray(f * scale + shift), t), irob.losses.dlr(jnp.asarray(f), t), rtol=1e-4, atol=1e-4)


def test_dlr_refuses_two_classes():
    with pytest.raises(ValueError, match="use margin_loss instead"):
        irob.losses.dlr(jnp.zeros(2), 0)


@pytest.mark.parametrize("loss", [irob.cross_entropy, irob.margin_loss, irob.losses.dlr])
def test_gradients_by_finite_differences(loss, random):
    check_grads(lambda f: loss(f, 1), (random.normal(size=5).astype(np.float32),), order=1, modes=["rev"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("gap", [1.0, 20.0, 60.0])
def test_cross_entropy_keeps_its_gradient_on_confident_networks(gap):
    """Against float64: where softmax_t rounds to 1, softmax - onehot would lose the true class."""
    f = np.array([gap, 0.0, -1.0])
    others = np.exp(f[1:]) / np.exp(f).sum()
    expected = np.array([-others.sum(), *others])
    np.testing.assert_allclose(jax.grad(irob.cross_entropy)(jnp.float32(f), 0), expected, rtol=1e-4)


@pytest.mark.parametrize("gap", [-30.0, 0.0, 5.0, 9.9, 10.1, 60.0, 1e3, 1e30])
def test_the_logarithm_of_the_cross_entropy(gap):
    """Against float64 where that has it; its gradient is that of the cross-entropy over the cross-entropy, which tends to that of the margin."""
    logits = np.array([0.2, gap, -0.3], np.float32)
    exact = np.logaddexp(0.0, np.logaddexp(0.2, -0.3) - np.float64(gap))
    if exact > 1e-300:
        np.testing.assert_allclose(irob.losses.log_cross_entropy(logits, 1), np.log(exact), rtol=2e-6, atol=1e-6)
    gradient = jax.grad(irob.losses.log_cross_entropy)(logits, 1)
    others = np.exp([0.2, -0.3]) / np.sum(np.exp([0.2, -0.3]))
    odds = np.logaddexp(0.2, -0.3) - np.float64(gap)
    slope = 1.0 if odds < -300 else 1 / (1 + np.exp(-odds)) / np.logaddexp(0.0, odds)
    np.testing.assert_allclose(gradient, slope * np.array([others[0], -1.0, others[1]]), rtol=1e-5)


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0, 80.0])
def test_the_gradient_of_kl_keeps_its_digits_on_confident_networks(gap):
    """q - p in float64, for the class that both are sure of minus the sum of the others."""
    f, g = np.array([gap, 0.0, -1.0]), np.array([gap - 1.0, 0.5, -1.0])
    p, q = (np.exp(h - np.logaddexp.reduce(h)) for h in (f, g))
    others = (q - p)[1:]
    gradient = jax.grad(irob.losses.kl_divergence, 1)(f.astype(np.float32), g.astype(np.float32))
    np.testing.assert_allclose(gradient, [-others.sum(), *others], rtol=2e-4)


def test_losses_are_finite_for_saturated_logits():
    f = jnp.array([200.0, 0.0, -200.0])
    for loss in (irob.cross_entropy, irob.margin_loss):
        value, gradient = jax.value_and_grad(loss)(f, 0)
        assert np.isfinite(value) and np.isfinite(gradient).all()
