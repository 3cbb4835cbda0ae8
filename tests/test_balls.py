import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import irob

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
images = hnp.arrays(np.float32, (2, 3, 1), elements=st.floats(0, 1, width=32, allow_subnormal=False))
anywhere = hnp.arrays(np.float32, (2, 3, 1), elements=st.floats(-2, 3, width=32, allow_subnormal=False))
radii = st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5])


def length(d, norm):
    return np.linalg.norm(np.asarray(d, np.float64).ravel(), ORDER[norm])


@pytest.mark.parametrize("norm", irob.attacks.BALLS)
@given(x=images, y=anywhere, eps=radii)
def test_projection_is_inside_idempotent_and_leaves_the_inside_alone(norm, x, y, eps):
    ball = irob.attacks.BALLS[norm](eps)
    z = ball.project(jnp.asarray(y), jnp.asarray(x))
    assert length(z - x, norm) <= eps * (1 + 1e-5) + 1e-6
    assert np.min(z) >= -1e-6 and np.max(z) <= 1 + 1e-6
    np.testing.assert_allclose(ball.project(z, jnp.asarray(x)), z, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(4))
def test_projection_is_the_nearest_point(norm, seed):
    """Against a general constrained optimizer (the l1 ball through its positive and negative parts)."""
    random, eps, n = np.random.default_rng(seed), 0.4, 4
    x, y = random.random(n), random.uniform(-0.5, 1.5, n)
    box = [(0, 1)] * n
    if norm == "linf":
        found = np.clip(y, np.maximum(x - eps, 0), np.minimum(x + eps, 1))
    elif norm == "l2":
        inside = {"type": "ineq", "fun": lambda z: eps**2 - np.sum((z - x) ** 2)}
        found = scipy.optimize.minimize(lambda z: np.sum((z - y) ** 2), x, bounds=box, constraints=inside, tol=1e-12).x
    else:
        parts = [(0, 1 - a) for a in x] + [(0, a) for a in x]
        inside = {"type": "ineq", "fun": lambda d: eps - np.sum(d)}
        objective = lambda d: np.sum((x + d[:n] - d[n:] - y) ** 2)
        d = scipy.optimize.minimize(objective, np.zeros(2 * n), bounds=parts, constraints=inside, tol=1e-12).x
        found = x + d[:n] - d[n:]
    ours = irob.attacks.BALLS[norm](eps).project(jnp.float32(y).reshape(2, 2, 1), jnp.float32(x).reshape(2, 2, 1))
    np.testing.assert_allclose(np.ravel(ours), found, atol=2e-4)


@pytest.mark.parametrize("norm", irob.attacks.BALLS)
@given(x=images, eps=radii, seed=st.integers(0, 99))
def test_random_points_are_inside(norm, x, eps, seed):
    z = irob.attacks.BALLS[norm](eps).random_point(jax.random.key(seed), jnp.asarray(x))
    assert length(z - x, norm) <= eps * (1 + 1e-5) + 1e-6
    assert np.min(z) >= 0 and np.max(z) <= 1


@pytest.mark.parametrize("eps", [0.5, 5.0, 50.0])
@pytest.mark.parametrize("shape", [(28, 28, 1), (224, 224, 3)])
@pytest.mark.parametrize("norm", list(irob.attacks.BALLS))
def test_dense_changes_stay_in_the_ball(norm, shape, eps):
    """The distance in float64: each pixel moves by little more than the rounding of a pixel."""
    keys = jax.random.split(jax.random.key(int(eps)), 3)
    x, gradient, ball = jax.random.uniform(keys[0], shape), jax.random.normal(keys[1], shape), irob.attacks.BALLS[norm](eps)
    moved = jax.jit(lambda x, g: ball.project(ball.ascend(ball.random_point(keys[2], x), g, eps / 4), x))(x, gradient)
    change = np.ravel(np.asarray(moved, np.float64) - np.asarray(x, np.float64))
    assert np.linalg.norm(change, {"linf": np.inf, "l2": 2, "l1": 1}[norm]) <= eps * (1 + 1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.5), ("l2", 12 / 13), ("l1", 12 / 13)])
def test_random_points_fill_the_ball(norm, expected):
    """Mean length over eps of a uniform point in n = 12 dimensions is n / (n + 1); for l-inf the mean |coordinate| is 1/2."""
    x, eps = jnp.full((2, 3, 2), 0.5), 0.1
    points = jax.vmap(lambda k: irob.attacks.BALLS[norm](eps).random_point(k, x) - x)(jax.random.split(jax.random.key(0), 2000))
    lengths = np.abs(points) if norm == "linf" else np.linalg.norm(np.reshape(points, (2000, -1)), ORDER[norm], axis=1)
    np.testing.assert_allclose(np.mean(lengths) / eps, expected, rtol=0.03)
    np.testing.assert_allclose(np.mean(points, axis=0), 0.0, atol=eps * 0.05)


@pytest.mark.parametrize("norm", irob.attacks.BALLS)
def test_ascent_gains_what_no_other_step_of_its_length_can(norm, random):
    """Inside the box a step of size s gains s times the dual norm of the gradient; l1 is bounded by the room of each pixel."""
    x, g, s = jnp.full((2, 3, 1), 0.5), jnp.asarray(random.normal(size=(2, 3, 1)).astype(np.float32)), 0.3
    moved = irob.attacks.BALLS[norm](1.0).ascend(x, g, s) - x
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    np.testing.assert_allclose(np.sum(moved * g), s * np.linalg.norm(np.ravel(g), dual), rtol=1e-5)
    assert length(moved, norm) <= s * (1 + 1e-5)


def test_l1_ascent_goes_on_to_the_next_pixel_where_the_box_ends():
    x, g = jnp.array([0.9, 0.5, 0.2]).reshape(1, 3, 1), jnp.array([3.0, -2.0, 1.0]).reshape(1, 3, 1)
    np.testing.assert_allclose(np.ravel(irob.L1(1.0).ascend(x, g, 0.4)), [1.0, 0.2, 0.2], atol=1e-6)


@pytest.mark.parametrize("norm", irob.attacks.BALLS)
def test_no_gradient_no_move(norm):
    x = jnp.full((1, 2, 1), 0.3)
    np.testing.assert_array_equal(irob.attacks.BALLS[norm](1.0).ascend(x, jnp.zeros_like(x), 0.1), x)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1.0, 1e25])
@pytest.mark.parametrize("norm", irob.attacks.BALLS)
def test_ascent_does_not_depend_on_the_scale_of_the_gradient(norm, scale, random):
    x, g = jnp.full((2, 3, 1), 0.5), jnp.asarray(random.normal(size=(2, 3, 1)).astype(np.float32))
    ball = irob.attacks.BALLS[norm](1.0)
    np.testing.assert_allclose(ball.ascend(x, g * scale, 0.3), ball.ascend(x, g, 0.3), rtol=1e-5)


def test_clipped_steps_follow_small_gradients_and_cut_large_ones():
    ball = irob.paper.ClippedLInf(0.3, 10.0)
    x = np.full((1, 3, 1), 0.5, np.float32)
    moved = ball.ascend(x, np.array([0.01, 5.0, -0.05], np.float32).reshape(1, 3, 1), 0.2)
    np.testing.assert_allclose(moved.ravel(), [0.52, 0.7, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(ball.project(x + 1, x), irob.LInf(0.3).project(x + 1, x))
    key = jax.random.key(0)
    np.testing.assert_array_equal(ball.random_point(key, x), irob.LInf(0.3).random_point(key, x))
