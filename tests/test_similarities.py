"""Similarities of maps against SciPy, and NumPy written out in loops."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import irob
from irob.similarities import cosine, spearman, ssim


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.integers(-3, 3).map(float)))
def test_kendall_tau_is_scipys_with_ties(pair):
    expected = scipy.stats.kendalltau(pair[0].ravel(), pair[1].ravel()).statistic
    np.testing.assert_allclose(irob.kendall_tau(jnp.asarray(pair[0]), jnp.asarray(pair[1])), expected, rtol=1e-5, atol=1e-6)


def test_top_k_overlap_by_hand():
    a = np.arange(6, dtype=np.float32).reshape(2, 3, 1)  # largest: 5, 4, 3
    b = np.array([[0, 0, 9], [8, 7, 0]], np.float32)[..., None]  # largest: positions 2, 3, 4
    np.testing.assert_allclose(irob.similarities.top_k_overlap(a, b, 3), [2 / 3], rtol=1e-6)
    np.testing.assert_allclose(irob.similarities.top_k_overlap(a, a, 2), [1.0])
    np.testing.assert_allclose(irob.similarities.top_k_overlap(a, -a, 3), [0.0])


@given(st.integers(0, 2**31), st.floats(1e-12, 1e12))
def test_pearson_against_numpy(seed, scale):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, 4, 5)).astype(np.float32)
    expected = np.corrcoef(a.ravel().astype(np.float64), b.ravel().astype(np.float64))[0, 1]
    np.testing.assert_allclose(irob.similarities.pearson(a * np.float32(scale), b), expected, atol=1e-5)
    np.testing.assert_allclose(irob.similarities.pearson(a, -2 * a), -1.0, atol=1e-5)


def test_pearson_of_a_constant_map_is_nan():
    assert np.isnan(irob.similarities.pearson(np.ones((2, 2), np.float32), np.arange(4, dtype=np.float32).reshape(2, 2)))


def test_kendall_of_a_large_map_against_scipy(random):
    a, b = random.normal(size=(2, 20, 21)).astype(np.float32)
    expected = scipy.stats.kendalltau(a.ravel(), b.ravel()).statistic
    np.testing.assert_allclose(irob.kendall_tau(a, b), expected, atol=1e-5)


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.integers(-3, 3).map(float)))
def test_spearman_is_scipys_with_ties(pair):
    if np.ptp(pair[0]) == 0 or np.ptp(pair[1]) == 0:
        assert np.isnan(spearman(*pair))
    else:
        expected = scipy.stats.spearmanr(pair[0].ravel(), pair[1].ravel()).statistic
        np.testing.assert_allclose(spearman(*pair), expected, atol=1e-5)
    pair[1, 0, 0] = np.nan
    assert np.isnan(spearman(*pair))


@given(st.integers(0, 2**31), st.floats(1e-12, 1e12))
def test_cosine_against_numpy(seed, scale):
    a, b = np.random.default_rng(seed).normal(size=(2, 4, 5)).astype(np.float32)
    expected = np.sum(a.astype(float) * b) / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(cosine(a * np.float32(scale), b), expected, atol=1e-5)
    np.testing.assert_allclose(cosine(a, -2 * a), -1.0, atol=1e-5)
    assert np.isnan(cosine(a, 0 * a))


@pytest.mark.parametrize(("size", "window", "data_range"), [(9, 7, None), (8, 3, 1.0)])
def test_ssim_window_by_window(random, size, window, data_range):
    a = random.normal(size=(size, size + 1)).astype(np.float32)
    b = (a + 0.5 * random.normal(size=a.shape)).astype(np.float32)
    span = data_range or max(a.max(), b.max()) - min(a.min(), b.min())
    c1, c2, each = (0.01 * span) ** 2, (0.03 * span) ** 2, []
    for i in range(size - window + 1):
        for j in range(size + 1 - window + 1):
            u, v = (m[i : i + window, j : j + window].astype(float).ravel() for m in (a, b))
            covariance = np.cov(u, v)
            top = (2 * u.mean() * v.mean() + c1) * (2 * covariance[0, 1] + c2)
            each.append(top / ((u.mean() ** 2 + v.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)))
    np.testing.assert_allclose(ssim(a, b, window=window, data_range=data_range), np.mean(each), atol=1e-5)


def test_what_cannot_be_compared(unchecked):
    a, b = np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32)
    for similarity in (spearman, cosine, ssim):
        with pytest.raises(ValueError, match="one shape"):
            similarity(a, b)
    for window in (4, 5):
        with pytest.raises(ValueError, match="window"):
            ssim(a, a, window=window)
