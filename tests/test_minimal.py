import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.attacks.minimal import lower_end, upper_end


def plain_bisection(threshold, start, limit, rounds):
    """The authors' rule in plain Python: go up while the trial says so."""
    value, lower, upper, tried = np.float32(start), np.float32(0), np.float32(limit), []
    for _ in range(rounds):
        tried.append(value)
        if value < threshold:
            lower = value
            value = min(2 * value, (lower + upper) / 2)
        else:
            upper = value
            value = (lower + upper) / 2
    return lower, upper, tried


@pytest.mark.parametrize("last", [lower_end, upper_end])
@hypothesis.given(st.floats(0.0, 1.25, width=32, allow_subnormal=False), st.sampled_from([0.05, 0.3, 1.0]), st.integers(1, 14))
def test_bisect_is_the_plain_rule(last, threshold, start, rounds):
    found = irob.attacks.bisect(lambda value: (value < threshold, 2.0 * value), start, 1.0, rounds, last)
    lower, upper, tried = plain_bisection(np.float32(threshold), start, 1.0, rounds)
    tried.append(last(lower, upper))
    np.testing.assert_array_equal([found.lower, found.upper], [lower, upper])
    np.testing.assert_array_equal(found.values, tried)
    np.testing.assert_array_equal(found.outcomes, 2 * np.array(tried))


@pytest.mark.parametrize(("start", "limit", "rounds"), [(0.0, 1.0, 5), (2.0, 1.0, 5), (0.1, 1.0, 0)])
def test_bisect_refuses_nonsense(start, limit, rounds):
    with pytest.raises(ValueError, match="0 < start <= limit"):
        irob.attacks.bisect(lambda value: (value < 0.5, None), start, limit, rounds)


def linear(weights):
    """Logits (0, <w, x> - 1): class 1 is reached in l-inf when eps ||w||_1 passes 1 - <w, x>."""
    return lambda x: jnp.stack([jnp.zeros(()), jnp.sum(weights * x) - 1.0])


def test_smallest_eps_of_a_linear_classifier_is_known(random):
    weights = random.uniform(0.2, 1.0, (2, 2, 1)).astype(np.float32)
    x = np.full((2, 2, 1), 0.1, np.float32)
    logits = linear(weights)

    def attack(eps):
        return irob.pgd(lambda z: irob.margin_loss(logits(z), 0), irob.LInf(eps), x, step_sizes=irob.constant_steps(eps, 2))

    found = irob.attacks.smallest_eps(attack, lambda z: irob.margin_loss(logits(z), 0) > 0.0, rounds=16)
    expected = (1.0 - np.sum(weights * x)) / np.sum(weights)
    assert found.found
    assert expected < found.eps < expected + 1e-3
    np.testing.assert_allclose(found.x_adv, x + found.eps, rtol=1e-6)


def test_where_nothing_succeeds_the_limit_is_attacked():
    found = irob.attacks.smallest_eps(lambda eps: jnp.full((1, 1, 1), eps), lambda z: z[0, 0, 0] > 2.0, limit=0.5)
    assert not found.found
    assert float(found.eps) == 0.5 and float(found.x_adv[0, 0, 0]) == 0.5


def test_the_search_vectorises():
    """Each example of a batch gets its own answer."""
    thresholds = np.array([0.01, 0.2, 0.9], np.float32)

    def one(threshold):
        return irob.attacks.smallest_eps(lambda eps: jnp.full((1, 1, 1), eps), lambda z: z[0, 0, 0] >= threshold, rounds=14).eps

    np.testing.assert_allclose(jax.vmap(one)(thresholds), thresholds, atol=1e-3)
