import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob import convolutions
from irob.maps import Smoother
from irob.models import CAMNetwork, Conv, MaxPool

COUNTS = [
    ("small", (28, 28, 1), 10, 166_396),
    ("pool", (28, 28, 1), 10, 52_736),
    ("small", (32, 32, 3), 10, 166_908),
    ("wresnet", (32, 32, 3), 10, 463_008),
    ("wresnet", (224, 224, 3), 9, 462_944),
]
SHAPES = [("small", (28, 28, 1)), ("pool", (28, 28, 1)), ("wresnet", (8, 8, 3))]


@pytest.mark.parametrize(("name", "shape", "classes", "count"), COUNTS)
def test_parameter_counts(name, shape, classes, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(irob.create(name, shape, classes).initial_params())) == count


def test_initial_weights_are_the_authors():
    kernel = irob.create("small", (28, 28, 1), 10).initial_params(seed=99)["conv_0"]["kernel"]
    np.testing.assert_allclose(kernel[0, 0, 0, :4], [-0.0356, 0.2207, 0.5518, 0.2716], atol=5e-5)


def test_initial_params_have_the_structure_of_linens(random):
    network = irob.create("pool", (28, 28, 1), 10)
    linen = jax.jit(network.init)(jax.random.key(0), jnp.zeros((28, 28, 1)))["params"]
    ours = network.initial_params()
    assert jax.tree.map(np.shape, linen) == jax.tree.map(np.shape, ours)
    assert abs(np.std(linen["conv_1"]["kernel"]) / np.std(ours["conv_1"]["kernel"]) - 1) < 0.02


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_explain_is_the_linen_definition(name, shape, random):
    """The folded form with its separate reading of the logits, against features, head and mean as they are defined."""
    network = irob.create(name, shape, 10)
    params, x = network.initial_params(3), random.random(shape).astype(np.float32)
    params = jax.tree.map(lambda a: a + 0.01, params)
    explained, defined = jax.jit(lambda p: (network.explain(p, x), network.apply({"params": p}, x)))(params)
    np.testing.assert_allclose(explained.maps, defined.maps, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(explained.logits, np.mean(defined.maps, axis=(0, 1)), rtol=1e-3, atol=1e-4)

    def gradient(explain):
        return jax.jit(jax.grad(lambda p: jnp.sum(explain(p).maps[..., 1] ** 2) + irob.cross_entropy(explain(p).logits, 3)))(params)

    for ours, linens in zip(
        jax.tree.leaves(gradient(lambda p: network.explain(p, x))),
        jax.tree.leaves(gradient(lambda p: network.apply({"params": p}, x))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, linens, rtol=1e-3, atol=1e-4 * np.abs(linens).max())


FORMS = [
    pytest.param(*each, on_cpu, marks=() if on_cpu or "small" in each else pytest.mark.slow) for each in SHAPES for on_cpu in (True, False)
]


@pytest.mark.parametrize(("name", "shape", "on_cpu"), FORMS)
def test_frozen_equals_explain_in_values_and_input_gradients(name, shape, on_cpu, random, monkeypatch):
    """With the forms that are chosen on CPU, and with those of other devices."""
    monkeypatch.setattr(convolutions, "on_cpu", lambda: on_cpu)
    network = irob.create(name, shape, 10)
    params = jax.tree.map(lambda a: a + 0.01, network.initial_params(3))
    x = random.random((2, *shape)).astype(np.float32)
    frozen = network.frozen(params)
    for one in (lambda e: e.maps, lambda e: e.logits):
        ours, plain = jax.jit(jax.vmap(lambda x, one=one: (one(frozen(x)), one(network.explain(params, x)))))(x)
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4)
        gradients = [
            jax.jit(jax.vmap(jax.grad(lambda x, f=f, one=one: jnp.sum(one(f(x)) ** 2))))(x)
            for f in (frozen, lambda x: network.explain(params, x))
        ]
        np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4 * np.abs(gradients[1]).max())


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize(("name", "shape"), SHAPES[:2])
def test_frozen_refuses_gradients_in_its_parameters(name, shape, on_cpu, monkeypatch):
    """Zeros instead would train nothing, silently."""
    monkeypatch.setattr(convolutions, "on_cpu", lambda: on_cpu)
    network = irob.create(name, shape, 10)
    with pytest.raises(ValueError, match=r"use explain\(params, x\) instead"):
        jax.grad(lambda p: network.frozen(p)(jnp.full(shape, 0.5)).logits[0])(network.initial_params())


def test_fold_head_is_the_same_function(small, random):
    network, params = small
    x = random.random((28, 28, 1)).astype(np.float32)
    folded, folded_params = network.fold_head(params)
    assert folded_params["conv_2"]["kernel"].shape == (7, 7, 32, 10)
    np.testing.assert_allclose(folded.explain(folded_params, x).maps, network.explain(params, x).maps, rtol=1e-4, atol=1e-4)


def test_nothing_to_fold_in_networks_that_end_otherwise():
    for name in ("pool", "wresnet"):
        network = irob.create(name, (8, 8, 1), 10)
        params = network.initial_params()
        assert network.fold_head(params) == (network, params)


IDENTITY = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}


def test_max_pool_by_hand_with_ties_to_the_first():
    network = CAMNetwork((Conv(1, 1), MaxPool(2)), (2, 4, 1), 2)
    params = network.initial_params() | {"conv_0": IDENTITY}
    x = np.array([[0.1, 0.5, 0.2, 0.2], [0.3, 0.4, 0.2, 0.2]], np.float32)[..., None]
    np.testing.assert_allclose(network.features(params, x)[..., 0], [[0.5, 0.2]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(network.features(params, x)))(x)[..., 0]
    np.testing.assert_array_equal(gradient, [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_a_shortcut_averages_squares_and_pads_channels_on_both_sides():
    """The convolutions around it give zeros, so the features are the shortcut's: of the output of the first layer, two back."""
    network = CAMNetwork((Conv(2, 1), Conv(3, 1, 2), Conv(6, 1, shortcut=True)), (2, 2, 2), 2)
    zeros = jax.tree.map(np.zeros_like, network.initial_params())
    params = zeros | {"conv_0": zeros["conv_0"] | {"kernel": np.eye(2, dtype=np.float32)[None, None]}}
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 8
    np.testing.assert_allclose(network.features(params, x)[0, 0], [0, 0, 3 / 8, 4 / 8, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", (28, 28, 1), 10), "unknown network 'tiny': choose one of"),
        (("small", (30, 28, 1), 10), r"multiples of 4, at least 4, got \(30, 28\)"),
        (("small", (28, 28, 1), 1), "at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        irob.create(*arguments)


def test_bytes_are_refused(small, unchecked):
    network, params = small
    for explain in (network.frozen(params), lambda x: network.explain(params, x), lambda x: network.features(params, x)):
        with pytest.raises(ValueError, match="got uint8: divide uint8 pixels by 255"):
            explain(np.zeros((28, 28, 1), np.uint8))


def test_an_image_of_another_shape_is_refused(small):
    network, params = small
    with pytest.raises(ValueError, match=r"shape \(28, 28, 1\), got \(28, 28, 3\): lift it to batches with jax\.vmap"):
        network.explain(params, np.zeros((28, 28, 3), np.float32))


@pytest.mark.parametrize(("name", "shape", "on_cpu"), FORMS)
def test_frozen_in_bfloat16_is_the_same_to_its_three_digits(name, shape, on_cpu, random, monkeypatch):
    monkeypatch.setattr(convolutions, "on_cpu", lambda: on_cpu)
    network = irob.create(name, shape, 10)
    params, x = network.initial_params(), random.uniform(size=shape).astype(np.float32)
    exact, rounded = jax.jit(network.frozen(params))(x), jax.jit(network.frozen(params, dtype=jnp.bfloat16))(x)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.float32
        difference = np.abs(a - b).max() / np.abs(a).max()
        assert 1e-5 < difference < 0.05
    with pytest.raises(ValueError, match="divide uint8 pixels by 255"):
        network.frozen(params, dtype="bfloat16")((255 * x).astype(np.uint8))
    np.testing.assert_array_equal(jax.jit(network.frozen(params, dtype="float32"))(x).maps, exact.maps)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(network.frozen(params, dtype=jnp.bfloat16)(z).maps ** 2)))(x)
    assert gradient.dtype == jnp.float32 and np.isfinite(gradient).all()


def test_layer_shapes_are_those_of_the_layers(small):
    assert small[0].layer_shapes() == [(14, 14, 16), (7, 7, 32), (7, 7, 100)]
    assert irob.create("pool", (28, 28, 1), 10).layer_shapes() == [(28, 28, 32), (14, 14, 32), (14, 14, 64), (7, 7, 64)]


@pytest.mark.parametrize("beta", [1.0, 5.0])
def test_softplus_against_numpy(beta, random):
    network = Smoother(CAMNetwork((Conv(3, 1), Conv(2, 1)), (4, 4, 1), 2), beta).smooth()
    params, x = network.initial_params(3), random.uniform(size=(4, 4, 1)).astype(np.float32)
    first = x @ params["conv_0"]["kernel"][0, 0]
    features = np.log1p(np.exp(beta * first)) / beta @ params["conv_1"]["kernel"][0, 0]
    for found in (network.explain(params, x), network.frozen(params)(x), network.apply({"params": params}, x)):
        np.testing.assert_allclose(found.maps, features @ params["head"]["kernel"], atol=1e-5)
        np.testing.assert_allclose(found.logits, np.mean(features @ params["head"]["kernel"], axis=(0, 1)), atol=1e-5)
