"""Rewritten functions: the same values and derivatives, by other operations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irob import convolutions
from irob.rewriting import output_shapes, prepared, softplus

CUBE = {"relu": lambda x: x**3}


@pytest.mark.parametrize(
    "function",
    [
        lambda p, x: jax.nn.relu(x) + p,
        jax.jit(lambda p, x: jax.nn.relu(x) + p),
        lambda p, x: jax.jit(jax.nn.relu)(x) + jax.jit(jax.nn.relu)(p),
    ],
    ids=["plain", "jit", "the same jitted function twice"],
)
def test_an_activation_is_found_wherever_it_is(function):
    assert float(prepared(function, 1.0, 3.0, CUBE)(2.0)) == 9.0
    assert float(jax.jit(lambda p, x: prepared(function, p, x, CUBE)(x))(1.0, 2.0)) == 9.0
    np.testing.assert_allclose(jax.vmap(prepared(function, 1.0, 0.0, CUBE))(jnp.array([1.0, 2.0])), [2.0, 9.0])


def test_trees_go_in_and_come_out():
    function = lambda tree, x: {"sum": tree["a"] + 2.0 * x, "same": tree, "none": None}
    out = prepared(function, {"a": 1.0}, 0.0)(2.0)
    assert float(out["sum"]) == 5.0 and float(out["same"]["a"]) == 1.0 and out["none"] is None


def test_what_depends_on_the_parameters_alone_is_computed_once():
    counted = []
    rules = {"relu": lambda x: counted.append(1) or x}
    function = prepared(lambda p, x: jax.nn.relu(p) * x, 2.0, 1.0, rules)
    assert [float(function(x)) for x in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0] and len(counted) == 1


def test_loops_and_conditions_stay_as_they_are():
    loop = lambda p, x: jax.lax.scan(lambda c, _: (c * p + jax.lax.cond(c > 1, jnp.sin, jnp.cos, c), None), x, None, length=3)[0]
    assert float(prepared(loop, 0.5, 1.0)(2.0)) == pytest.approx(float(loop(0.5, 2.0)))
    again = jax.checkpoint(lambda p, x: jnp.sin(x) * p)
    assert float(jax.grad(lambda p: prepared(again, p, 1.0)(2.0))(3.0)) == pytest.approx(np.sin(2.0))


class Net(nn.Module):
    """Shapes with a fast form, one with explicit padding, one in groups, one dilated."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (4, 4), 2)(x))
        x = nn.relu(nn.Conv(20, (3, 3))(x))
        x = nn.relu(nn.Conv(20, (3, 3), padding=((1, 1), (1, 1)), strides=2)(x))
        x = nn.relu(nn.Conv(20, (3, 3), feature_group_count=4)(x))
        x = nn.relu(nn.Conv(20, (3, 3), kernel_dilation=2)(x))
        return nn.Conv(3, (4, 4))(x).mean(axis=(-3, -2))


@pytest.fixture(scope="module")
def net():
    params = Net().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return lambda params, x: Net().apply(params, x[None])[0], params, jax.random.uniform(jax.random.key(1), (16, 16, 3))


def assert_close(a, b, rtol=2e-5):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, atol=rtol * np.abs(other).max())


def test_convolutions_have_the_same_values_and_gradients(net, monkeypatch):
    function, params, x = net
    taken, specialize = [], convolutions.specialize
    monkeypatch.setattr(convolutions, "specialize", lambda kernel, *rest: taken.append(kernel.shape) or specialize(kernel, *rest))
    fast = lambda params, x: prepared(function, params, x)(x)
    assert_close(jax.jit(fast)(params, x), function(params, x))
    assert taken == [(4, 4, 3, 16), (3, 3, 16, 20), (3, 3, 20, 20)], "those without groups and dilation; the last one is averaged"
    loss = lambda function: lambda params, x: jnp.sum(jnp.sin(function(params, x)))
    gradients = lambda function: jax.jit(jax.grad(loss(function), (0, 1)))(params, x)
    assert_close(gradients(fast), gradients(function))


KERNELS = 0.2 * np.random.default_rng(3).normal(size=(3, 3, 3, 4, 4)).astype(np.float32)


def repeated(kernels, x):
    """Three convolutions in a loop over their kernels."""
    layer = lambda h, kernel: (jax.nn.relu(nn_conv(kernel, h)), jnp.mean(h))
    return jax.lax.scan(layer, x[None], kernels)


def remembered(kernels, x):
    """Convolutions that are computed again for the gradient."""
    block = jax.checkpoint(lambda kernel, h: jax.nn.relu(nn_conv(kernel, h)))
    return block(kernels[1], block(kernels[0], x[None]))


def chosen(kernels, x):
    """One of two convolutions."""
    return jax.lax.cond(jnp.sum(x) > 0, lambda h: nn_conv(kernels[0], h), lambda h: jax.nn.relu(nn_conv(kernels[1], h)), x[None])


def nn_conv(kernel, h):
    return jax.lax.conv_general_dilated(h, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("function", "count"), [(repeated, 1), (remembered, 2), (chosen, 2)])
def test_convolutions_in_loops_checkpoints_and_conditions_are_fast_too(function, count, monkeypatch):
    x = np.random.default_rng(4).normal(size=(6, 5, 4)).astype(np.float32)
    taken, specialize = [], convolutions.specialize
    monkeypatch.setattr(convolutions, "specialize", lambda *given: taken.append(1) or specialize(*given))
    fast = lambda kernels, x: prepared(function, kernels, x)(x)
    assert_close(fast(KERNELS, x), function(KERNELS, x))
    assert len(taken) >= count
    loss = lambda f: lambda kernels, x: sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(f(kernels, x)))
    for sign in (1, -1):
        gradients = [jax.jit(jax.grad(loss(f), (0, 1)))(KERNELS, sign * x) for f in (fast, function)]
        assert_close(*gradients)
    smooth = prepared(function, KERNELS, x, {"relu": softplus(1.0)})(x)
    expected = jax.tree.map(lambda part: part, function(KERNELS, x))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(smooth), jax.tree.leaves(expected), strict=True))


K = 0.1 * np.random.default_rng(0).normal(size=(3, 3, 2, 20)).astype(np.float32)
H = np.random.default_rng(1).normal(size=(1, 6, 8, 2)).astype(np.float32)
CONV = lambda k, h: jax.lax.conv_general_dilated(h, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
    "tail",
    [
        lambda y: y,
        lambda y: y + np.arange(20, dtype=np.float32),
        lambda y: np.arange(20, dtype=np.float32).reshape(1, 1, 1, 20) + 2.0 * y / 3.0,
        lambda y: (y + 1.0) @ np.ones((20, 3), np.float32) + np.arange(3, dtype=np.float32),
        lambda y: jnp.mean(y, axis=(1, 2)) @ np.ones((20, 3), np.float32) + np.arange(3, dtype=np.float32),
        lambda y: (jnp.squeeze(y + np.arange(20, dtype=np.float32), 0) @ np.ones((20, 3), np.float32), jnp.mean(y, axis=(1, 2))[0]),
        lambda y: jnp.sum(jnp.squeeze(y, 0), axis=(0, 1)) - 1.0,
        lambda y: jnp.sum(y, axis=(1, 2)) * jnp.sum(y, axis=(1, 2)) + jax.nn.relu(y)[0, 0, 0],
        lambda y: jnp.mean(y, axis=(0, 1, 2)),
        lambda y: jnp.mean(y, axis=3) / (1.0 + y[..., 0] ** 2),
        lambda y: 1.0 / (2.0 + jnp.cos(jnp.mean(y, axis=(1, 2)))),
        lambda y: y + np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1),
        lambda y: y @ np.ones((20, 1), np.float32) + 1.0,
        lambda y: jnp.maximum(0.0, jnp.var(y, axis=(0, 1, 2))) * y,
        lambda y: jnp.swapaxes(y, 1, 2) @ np.ones((20, 3), np.float32),
    ],
)
def test_what_follows_a_convolution_linearly_is_folded_and_nothing_else(tail):
    function = lambda k, h: tail(CONV(k, h))
    assert_close(prepared(function, K, H)(H), function(K, H))
    loss = lambda f: lambda k, h: sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(f(k, h)))
    fast = lambda k, h: prepared(function, k, h)(h)
    assert_close(jax.grad(loss(fast), (0, 1))(K, H), jax.grad(loss(function), (0, 1))(K, H))


def test_the_logits_of_a_mean_compute_no_convolution():
    function = lambda k, h: jnp.mean(CONV(k, h), axis=(1, 2)) @ np.ones((20, 3), np.float32)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(prepared(function, K, H))(H))
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda h: function(K, h))(H))


def test_softplus_for_every_relu_and_nothing_else():
    x = jnp.linspace(-2.0, 2.0, 9)
    function = lambda p, x: jax.nn.relu(x) + jnp.maximum(x, 0.0) + jax.nn.relu6(x) + jax.nn.softplus(x) + jax.nn.logsumexp(x)
    expected = 2 * jax.nn.softplus(x) + jnp.maximum(x, 0.0) + jax.nn.relu6(x) + jax.nn.logsumexp(x)
    np.testing.assert_allclose(prepared(function, (), x, {"relu": softplus(1.0)})(x), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="beta of a softplus must be positive"):
        softplus(0.0)
    smooth = prepared(lambda p, x: jax.nn.relu(x), (), 0.0, {"relu": softplus(1.0)})
    p = 1 / (1 + np.exp(-np.asarray(x)))
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(smooth)))(x), p * (1 - p), rtol=1e-5)


def test_shapes_of_outputs(net):
    function, params, x = net
    shapes = output_shapes(jax.make_jaxpr(jax.jit(function))(params, x), "conv_general_dilated")
    assert shapes[0] == (1, 8, 8, 16) and shapes[-1] == (1, 4, 4, 3) and len(shapes) == 6
