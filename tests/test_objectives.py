"""What attacks ascend, against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.attacks import ATTACKS, OBJECTIVES, expectation, nearest_boundary, objectives, straight_through, targeted, transferred, untargeted
from irob.attacks.projected_gradient import with_momentum

W = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.5]], np.float32)
X = jnp.array([0.75, 0.25]).reshape(1, 2, 1)
LOGITS = lambda z: jnp.asarray(W) @ z.reshape(-1)  # 0.75, 0.5, -0.5, 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("margin", -0.25),
        ("difference", -1.25),
        ("dlr", -0.25 / (0.75 - 0.5)),
        ("dlr_to", -1.25 / (0.75 - 0.0)),
        ("nearest_boundary", -0.25),
    ],
)
def test_values_and_scores(name, value):
    """Label 0, other class 2; the score is the margin."""
    found = OBJECTIVES[name].make(irob.LInf(0.1), LOGITS, 0, 2)(X)
    np.testing.assert_allclose(found, (value, -0.25), atol=1e-6)


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_the_nearest_boundary(norm, order, random):
    """The class with the smallest |difference| over the dual norm of its gradient, by a loop; its value and gradient are of the difference to it."""
    for _ in range(20):
        w, x = random.normal(size=(5, 6)).astype(np.float32), random.random(6).astype(np.float32)
        logits = lambda z, w=w: jnp.asarray(w) @ z.reshape(-1)
        f, label = w @ x, int(random.integers(5))
        near = min((abs(f[k] - f[label]) / np.linalg.norm(w[k] - w[label], order), k) for k in range(5) if k != label)[1]
        objective = nearest_boundary(irob.attacks.BALLS[norm](0.1), logits, label)
        (value, _), gradient = jax.value_and_grad(objective, has_aux=True)(jnp.asarray(x).reshape(1, 6, 1))
        np.testing.assert_allclose(value, f[near] - f[label], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(gradient.reshape(-1), w[near] - w[label], rtol=1e-5)


def test_towards_a_target_and_away_from_the_label():
    np.testing.assert_allclose(targeted(irob.margin_loss, LOGITS, 1)(X), (-0.25, -0.25))
    np.testing.assert_allclose(untargeted(irob.margin_loss, LOGITS, 1)(X), (0.25, 0.25))
    np.testing.assert_allclose(objectives.towards(objectives.difference, LOGITS, 1, 0)(X), (0.25, 0.25))


def test_the_mean_over_draws():
    """A random multiple of a linear function: mean 1, other draws at other points and for other keys, the same at the same point."""
    random = lambda key, z: (jax.random.uniform(key, maxval=2.0) * jnp.sum(z), 0.0)
    mean = expectation(random, jax.random.key(0), 4000)
    value, again = mean(X)[0], mean(X)[0]
    np.testing.assert_allclose(value, 1.0, atol=0.05)
    np.testing.assert_allclose(jax.grad(lambda z: mean(z)[0])(X), 1.0, atol=0.05)
    few = expectation(random, jax.random.key(0), 3)
    assert value == again and few(X)[0] == few(X)[0]
    assert few(X)[0] / jnp.sum(X) != few(X + 0.1)[0] / jnp.sum(X + 0.1)


def test_straight_through_computes_one_function_and_differentiates_another():
    rounded = straight_through(lambda x: jnp.round(4 * x) / 4, lambda x: x**2)
    x = jnp.array([0.3, 0.9])
    np.testing.assert_array_equal(rounded(x), [0.25, 1.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(rounded))(x), 2 * x)


def test_a_quantized_network_is_broken_through_a_substitute(trained, digits):
    """By PGD through the identity, and not without."""
    x, labels = digits.images[:8] / np.float32(255), digits.labels[:8]
    quantize = lambda z: jnp.round(z * 16) / 16
    network = lambda change: lambda z: trained.network.explain(trained.params, change(z)).logits
    with pytest.warns(UserWarning, match="the network hides its gradients"):
        hidden = irob.evaluate(network(quantize), x, labels, irob.LInf(0.2), num_steps=20, restarts=1)
    assert hidden.robust.value > 0.6 and hidden.without_gradient.sum() >= 5
    through = irob.attack(network(straight_through(quantize)), x, labels, irob.LInf(0.2), num_steps=20)
    assert np.mean([int(jnp.argmax(network(quantize)(z))) == t for z, t in zip(through, labels, strict=True)]) < 0.3


def test_transfer_follows_one_model_and_is_judged_by_another():
    mine, other = (lambda z: (jnp.sum(z), jnp.sum(z))), (lambda z: (-jnp.sum(z), -jnp.sum(z)))
    value, score = transferred(other, mine)(X)
    assert (float(value), float(score)) == (-1.0, 1.0)
    np.testing.assert_array_equal(jax.grad(lambda z: transferred(other, mine)(z)[0])(X), -jnp.ones_like(X))


def test_momentum_by_hand():
    """m_1 = g / ||g||_1, m_2 = mu m_1 + g / ||g||_1, and x moves by the signs; against two steps in NumPy."""
    first = with_momentum(jnp.zeros(2), jnp.array([3.0, -1.0]), 0.5)
    np.testing.assert_allclose(first, [0.75, -0.25])
    np.testing.assert_allclose(with_momentum(first, jnp.array([-0.1, -0.3]), 0.5), [0.375 - 0.25, -0.125 - 0.75])
    kink = lambda z: (-jnp.abs(z[0, 0, 0] - 0.56) * 1.0 + 0.001 * z[0, 1, 0], 0.0)
    x = jnp.full((1, 2, 1), 0.5)
    steps = {
        mu: irob.attacks.last_of_pgd(kink, irob.LInf(0.4), x, step_sizes=irob.constant_steps(0.04, 3), momentum=mu).x_adv[0, 0, 0]
        for mu in (0.0, 1.0)
    }
    # 0.54, 0.58, then back without momentum; with it the sum of directions still points up: 1 + 1 - 1 > 0.
    np.testing.assert_allclose([steps[0.0], steps[1.0]], [0.54, 0.62], atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_breaks_a_linear_network_and_stays_in_the_ball(name):
    w = np.array([[4.0, -3.0, 2.0, 1.0]], np.float32)
    logits = lambda z: jnp.concatenate([jnp.zeros(1), jnp.asarray(w) @ (z.reshape(-1) - 0.5) - 0.2])
    x = jnp.full((2, 2, 1), 0.5)
    found = ATTACKS[name](untargeted(irob.margin_loss, logits, 0), irob.L2(0.1), x, key=jax.random.key(0), num_steps=200)
    assert float(jnp.linalg.norm(found.x_adv - x)) <= 0.1 + 1e-5 and float(found.score) > 0
    assert int(jnp.argmax(logits(found.x_adv))) == 1


def test_mcnemar_by_hand(unchecked):
    """b = 1, c = 5: 2 (1 + 6) / 2^6; b = c: 1."""
    first = np.array([True] * 1 + [False] * 5 + [True] * 4)
    second = np.array([False] * 1 + [True] * 5 + [True] * 4)
    found = irob.metrics.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (1, 5) and found.p_value == pytest.approx(14 / 64)
    assert irob.metrics.mcnemar(first, first).p_value == 1.0
    with pytest.raises(ValueError, match="both must be True or False"):
        irob.metrics.mcnemar(first, np.ones(10))
