"""Maps on the pixels: closed forms on polynomials, axioms as properties, the authors' integrated gradients."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_weights

import irob
from irob import maps
from irob.models.cam_network import CAMNetwork, Conv

X = np.random.default_rng(0).uniform(size=(3, 4, 2)).astype(np.float32)
W = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
KEY = jax.random.key(0)


def cubic(z):
    return jnp.sum(W * z**3)


def test_gradient_maps_of_a_cubic():
    np.testing.assert_allclose(maps.saliency(cubic, X), 3 * W * X**2, rtol=1e-5)
    np.testing.assert_allclose(maps.gradient_x_input(cubic, X), 3 * W * X**3, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2])
def test_gauss_legendre_integrates_a_cubic_exactly_with_two_points(chunk):
    baseline = np.full(X.shape, 0.25, np.float32)
    found = maps.integrated_gradients(cubic, X, baseline[None], points=2, chunk=chunk)
    np.testing.assert_allclose(found.attributions, W * (X**3 - baseline**3), rtol=1e-4, atol=1e-5)
    assert abs(found.gap) < 1e-5


def test_right_riemann_by_hand():
    found = maps.integrated_gradients(cubic, X, points=4, rule=irob.paper.right_riemann)
    by_hand = X * sum(3 * W * (k / 4 * X) ** 2 for k in (1, 2, 3, 4)) / 4
    np.testing.assert_allclose(found.attributions, by_hand, rtol=1e-5)
    np.testing.assert_allclose(found.gap, np.sum(W * X**3) - by_hand.sum(), rtol=1e-4)


def test_several_baselines_are_averaged():
    baselines = np.stack([np.zeros_like(X), np.ones_like(X)])
    each = [maps.integrated_gradients(cubic, X, baselines[i : i + 1], points=3).attributions for i in (0, 1)]
    np.testing.assert_allclose(maps.integrated_gradients(cubic, X, baselines, points=3).attributions, np.mean(each, axis=0), rtol=1e-5)


def test_expected_gradients_tend_to_integrated_gradients():
    references = np.stack([np.zeros_like(X), np.full_like(X, 0.5)])
    found = maps.expected_gradients(cubic, X, KEY, references, samples=4000, chunk=100)
    np.testing.assert_allclose(found, maps.integrated_gradients(cubic, X, references, points=2).attributions, atol=0.1 * np.abs(W).max())
    assert np.abs(found - maps.gradient_x_input(cubic, X)).max() > 0.5


def test_smooth_grad_of_a_cubic():
    """E 3 W (X + s N)^2 = 3 W (X^2 + s^2)."""
    found = maps.smooth_grad(cubic, X, KEY, sigma=0.5, samples=4000, chunk=100)
    np.testing.assert_allclose(found, 3 * W * (X**2 + 0.25), atol=0.15 * np.abs(W).max())
    np.testing.assert_allclose(maps.smooth_grad(cubic, X, KEY, sigma=0.0, samples=3), maps.saliency(cubic, X), rtol=1e-5)


def test_a_chunk_changes_nothing():
    references = np.stack([np.zeros_like(X), np.full_like(X, 0.5)])
    for make in (
        lambda chunk: maps.smooth_grad(cubic, X, KEY, samples=6, chunk=chunk),
        lambda chunk: maps.expected_gradients(cubic, X, KEY, references, samples=6, chunk=chunk),
    ):
        assert np.abs(make(1)).max() > 0.1
        np.testing.assert_allclose(make(1), make(3), rtol=1e-5, atol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="got points 5 and chunk 2"):
        maps.integrated_gradients(cubic, X, points=5, chunk=2)
    with pytest.raises(ValueError, match="got samples 0 and chunk 1"):
        maps.smooth_grad(cubic, X, KEY, samples=0)


@pytest.mark.parametrize("baselines", [X, X[0], np.zeros((0, *X.shape), np.float32), np.zeros((2, 3, 4, 1), np.float32)])
def test_baselines_that_are_no_batch_of_images_are_refused(baselines, unchecked):
    with pytest.raises(ValueError, match=r"baselines must be a batch of images like x, \[n, 3, 4, 2\], got shape"):
        maps.integrated_gradients(cubic, X, baselines)
    with pytest.raises(ValueError, match=r"references must be a batch of images like x, \[n, 3, 4, 2\], got shape"):
        maps.expected_gradients(cubic, X, KEY, baselines)


def test_heatmap():
    attributions = np.array([[[1.0, 1.0], [0.0, -4.0]]], np.float32)
    np.testing.assert_allclose(maps.heatmap(attributions), [[0.5, -1.0]])
    np.testing.assert_allclose(maps.heatmap(np.full((2, 3, 2), -2.0, np.float32), (4, 6)), np.full((4, 6), -1.0))
    np.testing.assert_array_equal(maps.heatmap(np.zeros((2, 2, 1), np.float32)), np.zeros((2, 2)))


NETWORK = CAMNetwork((Conv(3, 3), Conv(4, 3, 2)), (4, 4, 1), 3)


@jax.jit
def attributions_of_scores(params, x):
    """Integrated gradients of two logits, of a linear combination of them, and of the first with the head unfolded, every logit from the maps."""
    f, g = (lambda z, c=c: NETWORK.explain(params, z).logits[c] for c in (0, 1))
    scores = (f, g, lambda z: 2 * f(z) - g(z), lambda z: NETWORK.apply({"params": params}, z).logits[0])
    return [maps.integrated_gradients(score, x, points=64, chunk=64) for score in scores]


@hypothesis.given(seed=st.integers(0, 2**31), data_seed=st.integers(0, 2**31))
@hypothesis.settings(max_examples=30)
def test_axioms_of_integrated_gradients(seed, data_seed):
    """Completeness, linearity, sensitivity (a pixel that does not differ from the baseline gets nothing), implementation invariance."""
    random = np.random.default_rng(data_seed)
    x = random.uniform(size=(4, 4, 1)).astype(np.float32)
    x[1, 2] = 0.0
    of_f, of_g, combined, of_linens = attributions_of_scores(NETWORK.initial_params(seed), x)
    scale = float(jnp.sum(jnp.abs(of_f.attributions))) + 1e-3
    assert abs(of_f.gap) < 0.05 * scale
    np.testing.assert_allclose(combined.attributions, 2 * of_f.attributions - of_g.attributions, atol=1e-4 * scale + 1e-5)
    assert of_f.attributions[1, 2, 0] == 0.0
    np.testing.assert_allclose(of_linens.attributions, of_f.attributions, atol=1e-5 * scale + 1e-6)


@released_weights.needed
@pytest.mark.parametrize("name", ["mnist_smallgap_int_100", "mnist_smallgap_normal_100", "mnist_pool_int_100", "cifar_smallgap_int_200"])
def test_the_authors_integrated_gradients(name):
    """To 1e-4 of the largest, at the image or a rounding away from it: on the path of one image a maximum changes its place at a point of the rule,
    and float32 decides by the machine on which side that point lies; double precision is on the other side than their float32."""
    architecture, shape = released_weights.NETWORKS[name]
    network, params, theirs = irob.create(architecture, shape, 10), released_weights.parameters(name), released_weights.golden(name)
    x, labels = theirs["x"], theirs["y"].argmax(axis=1)

    for beta, key in ((None, "ig_relu"), (1.0, "ig_softplus")):
        explain = network.clone(softplus=beta).frozen(params)

        def one(x, t, explain=explain):
            return maps.integrated_gradients(
                lambda z: irob.losses.pick(explain(z).logits, t), x, points=100, rule=irob.paper.right_riemann
            ).attributions

        near = jax.jit(jax.vmap(one))
        differences = [np.abs(near(x * (1 + shift), labels) - theirs[key]).max(axis=(1, 2, 3)) for shift in np.float32([0, -3e-7, 3e-7])]
        assert np.min(differences, axis=0).max() <= 1e-4 * np.abs(theirs[key]).max(), key


@released_weights.needed
@pytest.mark.parametrize(
    ("name", "points"), [("mnist_smallgap_normal_100", 50), ("mnist_pool_int_100", 50), ("mnist_smallgap_int_100", 200)]
)
def test_completeness_to_a_hundredth(name, points):
    """The path through the robust small network has more kinks: 50 points leave 2% there."""
    architecture, shape = released_weights.NETWORKS[name]
    explain = irob.create(architecture, shape, 10).frozen(released_weights.parameters(name))
    theirs = released_weights.golden(name)
    x, labels = theirs["x"], theirs["y"].argmax(axis=1)
    score = lambda t: lambda z: irob.losses.pick(explain(z).logits, t)
    found = jax.jit(jax.vmap(lambda x, t: maps.integrated_gradients(score(t), x, points=points)))(x, labels)
    total = jnp.sum(jnp.abs(found.attributions), axis=(1, 2, 3))  # their sum may be nearly 0
    assert np.median(np.abs(found.gap) / total) < 0.01
    at_one = jax.vmap(lambda x, t: score(t)(x) - score(t)(jnp.zeros_like(x)))(x, labels)
    np.testing.assert_allclose(found.gap, at_one - jnp.sum(found.attributions, axis=(1, 2, 3)), atol=1e-4)


@released_weights.needed
def test_the_authors_grad_cam_plus_plus():
    name = "mnist_smallgap_int_100"
    network, params, theirs = irob.create("small", (28, 28, 1), 10), released_weights.parameters(name), released_weights.golden(name)
    found = jax.vmap(network.frozen(params, maps.READOUTS["grad_cam_plus_plus"]))(theirs["x"]).maps
    assert np.abs(found - theirs["campp"]).max() <= 1e-5 * np.abs(theirs["campp"]).max()
