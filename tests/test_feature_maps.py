import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irob import maps


def nonlinear_score(features):
    """A head that is no spatial mean: every position and feature matters differently."""
    weights = np.random.default_rng(5).normal(size=(3, *features.shape)).astype(np.float32)
    return jnp.tanh(jnp.tensordot(weights, features**2, axes=3) / features.size)


def test_cam_by_hand():
    features = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)
    head = np.array([[1.0, 0.5], [0.0, -1.0]], np.float32)
    np.testing.assert_allclose(maps.cam(features, head), [[[1.0, -1.5], [3.0, -2.5]]])


def test_maps_on_the_logit_scale_sum_to_the_mean_of_the_raw_ones(random):
    raw = random.normal(size=(3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(maps.scale_to_logits(raw).sum(axis=(0, 1)), raw.mean(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 2)])
def test_gradient_maps_have_closed_forms_for_a_linear_head(random, shape):
    features, head = random.normal(size=shape).astype(np.float32), random.normal(size=(shape[2], 3)).astype(np.float32)
    score = lambda A: jnp.mean(A, axis=(0, 1)) @ head
    area = shape[0] * shape[1]
    np.testing.assert_allclose(maps.grad_cam(features, score), features @ head / area, atol=1e-6)
    np.testing.assert_allclose(maps.grad_cam_plus_plus(features, score), features @ np.maximum(head, 0) / area, atol=1e-6)
    np.testing.assert_allclose(maps.layer_cam(features, score), features @ np.maximum(head, 0) / area, atol=1e-6)


def test_gradient_maps_against_loops(random):
    """The papers' sums written out, gradients by finite differences in float64."""
    features = random.uniform(0.2, 1.0, (2, 3, 4)).astype(np.float32)
    h, w, K = features.shape
    weights = np.random.default_rng(5).normal(size=(3, *features.shape)).astype(np.float32)
    score = lambda A: np.tanh(np.tensordot(weights.astype(np.float64), A**2, axes=3) / A.size)
    cam, plus_plus, layer = np.zeros((3, h, w, 3))
    for k in range(K):
        g = np.zeros((h, w, 3))
        for i in range(h):
            for j in range(w):
                moved = np.zeros(features.shape)
                moved[i, j, k] = 1e-6
                g[i, j] = (score(features + moved) - score(features - moved)) / 2e-6
        for c in range(3):
            layer[..., c] += np.maximum(g[..., c], 0) * features[..., k]
            cam[..., c] += g[..., c].mean() * features[..., k]
            a = np.where(g[..., c] > 0, g[..., c] ** 2 / (2 * g[..., c] ** 2 + g[..., c] ** 3 * features[..., k].sum()), 0.0)
            if a.sum():
                plus_plus[..., c] += (a / a.sum() * np.maximum(g[..., c], 0)).sum() * features[..., k]
    np.testing.assert_allclose(maps.grad_cam(features, nonlinear_score), cam, atol=1e-5)
    np.testing.assert_allclose(maps.grad_cam_plus_plus(features, nonlinear_score), plus_plus, atol=1e-5)
    np.testing.assert_allclose(maps.layer_cam(features, nonlinear_score), layer, atol=1e-5)


def test_grad_cam_plus_plus_is_finite_where_nothing_is_positive():
    found = maps.grad_cam_plus_plus(np.ones((2, 2, 3), np.float32), lambda A: -jnp.mean(A, axis=(0, 1, 2)) * jnp.ones(2))
    np.testing.assert_array_equal(found, np.zeros((2, 2, 2)))
    dead = maps.grad_cam_plus_plus(np.zeros((2, 2, 3), np.float32), lambda A: jnp.sum(A) * jnp.ones(2))
    assert np.isfinite(dead).all()


@pytest.mark.parametrize("name", maps.READOUTS)
@pytest.mark.parametrize("form", ["explain", "frozen"])
def test_readouts_are_linear_in_the_features_and_leave_the_logits(small, random, name, form):
    network, params = small
    x = random.uniform(size=(28, 28, 1)).astype(np.float32)
    explain = network.frozen(params, maps.READOUTS[name])
    if form == "explain":
        explain = lambda x: network.explain(params, x, maps.READOUTS[name])
    features, head = np.asarray(network.features(params, x), np.float64), params["head"]["kernel"]
    matrix = {"cam": head, "grad_cam_plus_plus": np.maximum(head, 0), "representation": np.eye(100)}[name]
    found = jax.jit(explain)(x)
    np.testing.assert_allclose(found.maps, features @ matrix, atol=2e-4)
    np.testing.assert_allclose(found.logits, features.mean(axis=(0, 1)) @ head, atol=2e-5)
