import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import irob


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_is_scipys(n, share):
    successes = int(share * n)
    expected = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(irob.metrics.wilson_interval(successes, n), [expected.low, expected.high], atol=1e-6)


def test_robust_accuracy_counts_each_example_once_and_no_padding():
    correct = np.array([True, False, True, True, True])
    assert irob.robust_accuracy(correct).value == 0.8
    counted = irob.robust_accuracy(correct, np.array([True, True, True, False, False]))
    assert (counted.value, counted.n) == (2 / 3, 3)
    assert counted.low < 2 / 3 < counted.high


def test_worst_case_needs_every_attempt_withstood():
    attempts = np.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(irob.metrics.worst_case(attempts), [True, False, False])


def test_mean_with_error():
    mean, error = irob.metrics.mean_with_error(np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose([mean, error], [2.5, scipy.stats.sem([1, 2, 3, 4])])
    assert np.isnan(irob.metrics.mean_with_error(np.array([1.0]))[1])


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="at least one"):
        irob.metrics.mean_with_error(np.array([]))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_bad_proportions(successes, n):
    with pytest.raises(ValueError, match="a proportion needs"):
        irob.metrics.wilson_interval(successes, n)
