import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import irob
from irob.discrepancies import l2_norm

# XLA on CPU takes subnormal numbers for zero.
maps = hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-10, 10, width=32, allow_subnormal=False))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (irob.discrepancies.one_class(2, 4), [0, 0, 1, 0]),
        (irob.two_class(2, 0, 4), [0.5, 0, 0.5, 0]),
        (irob.discrepancies.all_class(4), [0.25] * 4),
        (irob.discrepancies.top_k_classes(jnp.array([1.0, 3.0, 3.0, 3.0]), 2), [0, 0.5, 0.5, 0]),
        (irob.discrepancies.soft_two_class(jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0])), 1), [1 / 8, 1, 3 / 8, 4 / 8]),
    ],
)
def test_class_weights_by_hand(weights, expected):
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("gap", [0.0, 30.0, 300.0])
def test_soft_weights_of_saturated_logits_are_finite_and_sum_to_two(gap):
    f = jnp.array([gap, 0.0, 1.0])
    np.testing.assert_allclose(jnp.sum(irob.discrepancies.soft_two_class(f, 0)), 2.0, rtol=1e-6)
    assert np.isfinite(jax.jacrev(irob.discrepancies.soft_two_class)(f, 0)).all()


def test_soft_weights_let_the_gradient_through():
    f = jnp.array([0.0, 1.0, 2.0])
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(jax.jacrev(irob.discrepancies.soft_two_class)(f, 0)[1], [0, p * (1 - p), -p * (1 - p)], rtol=1e-5, atol=1e-7)


@given(maps, maps, st.integers(1, 6), st.sampled_from(["l1", "l2"]), st.booleans())
def test_discrepancy_against_numpy(clean, attacked, k, norm, all_pixels):
    weights = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    expected = 0.0
    for c in range(4):
        difference = (attacked - clean)[:, :, c].ravel().astype(np.float64)
        if not all_pixels:
            difference = difference[np.argsort(-clean[:, :, c].ravel(), kind="stable")[:k]]
        expected += weights[c] * np.linalg.norm(difference, {"l1": 1, "l2": 2}[norm])
    pixels = None if all_pixels else irob.discrepancies.top_k_pixels(jnp.asarray(clean), k)
    np.testing.assert_allclose(irob.discrepancy(clean, attacked, jnp.asarray(weights), pixels, norm), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", irob.discrepancies.NORMS)
def test_equal_maps_have_no_discrepancy_and_no_gradient(norm, random):
    m = jnp.asarray(random.normal(size=(3, 2, 4)).astype(np.float32))
    value, gradient = jax.value_and_grad(lambda other: irob.discrepancy(m, other, irob.discrepancies.all_class(4), norm=norm))(m)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(m.shape))


def test_l2_gradient_is_the_unit_vector(random):
    d = jnp.asarray(random.normal(size=(3, 2, 1)).astype(np.float32))
    gradient = jax.grad(lambda d: l2_norm(d)[0])(d)
    np.testing.assert_allclose(gradient, d / np.linalg.norm(d), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: irob.discrepancies.top_k_classes(jnp.zeros(4), 5), r"k must be in 1\.\.4"),
        (lambda: irob.discrepancies.top_k_pixels(jnp.zeros((2, 2, 3)), 0), r"k must be in 1\.\.4"),
        (lambda: irob.discrepancy(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.ones(2), norm="l3"), "unknown norm 'l3'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(
    hnp.arrays(np.float32, (2, 3, 2, 4), elements=st.floats(-100, 100, width=32, allow_subnormal=False)),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_proposition_1_holds_whenever_the_target_wins(pair, label, target):
    """Any maps at all: the bound needs nothing but completeness."""
    clean, attacked = (irob.Explanation(jnp.asarray(m), jnp.mean(m, axis=(0, 1))) for m in pair)
    if attacked.logits[target] >= attacked.logits[label]:
        bound = irob.proposition_1_sides(clean, attacked, label, target)
        assert bound.discrepancy >= bound.half_gap - 1e-4


def test_proposition_1_sides_by_hand():
    clean = irob.Explanation(jnp.array([[[4.0, 0.0], [2.0, 0.0]]]), jnp.array([3.0, 0.0]))
    attacked = irob.Explanation(jnp.array([[[1.0, 1.0], [1.0, 3.0]]]), jnp.array([1.0, 2.0]))
    discrepancy, margin = irob.proposition_1_sides(clean, attacked, 0, 1)
    np.testing.assert_allclose([discrepancy, margin], [0.5 * (4 / 2 + 4 / 2), 1.5])


def test_one_class_discrepancy_has_no_such_bound():
    """The true class's map stays, the other's rises: the prediction changes and the one-class measure sees nothing."""
    clean, attacked = jnp.zeros((1, 1, 2)).at[..., 0].set(1.0), jnp.ones((1, 1, 2)).at[..., 1].set(2.0)
    assert irob.discrepancy(clean, attacked, irob.discrepancies.one_class(0, 2)) == 0.0


def test_squared_l2_is_the_square_of_l2(random):
    difference = random.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(irob.discrepancies.NORMS["squared_l2"](difference), np.sum(difference**2, axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(
        irob.discrepancies.NORMS["squared_l2"](difference), irob.discrepancies.NORMS["l2"](difference) ** 2, rtol=1e-5
    )


def test_normalised_divides_by_the_range_of_the_clean_map():
    clean = np.zeros((1, 3, 3), np.float32)
    clean[0, :, 0] = [-1.0, 0.0, 3.0]
    clean[0, :, 1] = [0.5, 0.0, 0.0]
    weights = irob.discrepancies.normalized(np.array([0.5, 0.25, 0.25], np.float32), clean)
    np.testing.assert_allclose(weights, [0.125, 0.5, 0.0])  # a constant map does not count
