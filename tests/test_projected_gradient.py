import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob

NORMS = list(irob.attacks.BALLS)


def linear(random, shape=(2, 3, 1)):
    w = jnp.asarray(random.normal(size=shape).astype(np.float32))
    return w, lambda z: jnp.sum(w * z)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("linf", lambda w, eps: eps * np.sign(w)),
        ("l2", lambda w, eps: eps * w / np.linalg.norm(w)),
        ("l1", lambda w, eps: eps * np.sign(w) * (np.abs(w) == np.abs(w).max())),
    ],
)
def test_linear_objectives_are_solved_exactly(norm, expected, random):
    w, objective = linear(random)
    x, eps = jnp.full(w.shape, 0.5), 0.2
    x_adv = irob.pgd(objective, irob.attacks.BALLS[norm](eps), x, step_sizes=irob.constant_steps(eps, 3))
    np.testing.assert_allclose(x_adv - x, expected(np.asarray(w), eps), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["pgd", "best_of_pgd"])
def test_stays_in_the_ball_and_the_box_and_is_deterministic(norm, attack, small, random):
    network, params = small
    explain = network.frozen(params)
    x, eps = jnp.asarray(random.random((28, 28, 1)).astype(np.float32)), {"linf": 0.1, "l2": 1.5, "l1": 10.0}[norm]
    ball = irob.attacks.BALLS[norm](eps)
    start = ball.random_point(jax.random.key(0), x)

    @jax.jit
    def run():
        loss = lambda z: irob.cross_entropy(explain(z).logits, 3)
        if attack == "pgd":
            return irob.pgd(loss, ball, x, step_sizes=irob.constant_steps(eps / 3, 6), start=start)
        return irob.best_of_pgd(lambda z: (loss(z), loss(z)), ball, x, step_sizes=irob.constant_steps(eps / 3, 6), start=start).x_adv

    x_adv = run()
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert np.linalg.norm(np.ravel(x_adv - x), order) <= eps * (1 + 1e-5)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert irob.cross_entropy(explain(x_adv).logits, 3) > irob.cross_entropy(explain(x).logits, 3)
    np.testing.assert_array_equal(x_adv, run())


def test_against_a_plain_loop(small, random):
    network, params = small
    x, eps = jnp.asarray(random.random((28, 28, 1)).astype(np.float32)), 0.1
    gradient = jax.jit(jax.grad(lambda z: irob.cross_entropy(network.explain(params, z).logits, 2)))
    expected = np.asarray(x)
    for size in (0.05, 0.03, 0.02):
        expected = np.clip(np.clip(expected + size * np.sign(gradient(expected)), x - eps, x + eps), 0, 1)
    objective = lambda z: irob.cross_entropy(network.explain(params, z).logits, 2)
    ours = irob.pgd(objective, irob.LInf(eps), x, step_sizes=jnp.array([0.05, 0.03, 0.02]))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_best_iterate_is_kept_wherever_it_stands():
    """The ascent overshoots a peak at 0.55: iterates 0.5, 0.6, 0.5, ... so the start is as good as any, and a start at the peak is best."""
    score = lambda z: -jnp.abs(jnp.sum(z) - 0.55)
    x = jnp.full((1, 1, 1), 0.5)
    for start, steps, best in ((0.5, [0.1], -0.05), (0.55, [0.2, 0.3], 0.0), (0.4, [0.16, 0.3], -0.01), (0.4, [0.15], 0.0)):
        result = irob.best_of_pgd(
            lambda z: (score(z), score(z)), irob.LInf(1.0), x, step_sizes=jnp.array(steps), start=jnp.full_like(x, start)
        )
        np.testing.assert_allclose(result.score, best, atol=1e-6)
        np.testing.assert_allclose(score(result.x_adv), best, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_outside_the_ball_is_brought_in(norm):
    x = jnp.full((1, 2, 1), 0.5)
    score = lambda z: (jnp.sum(z), jnp.sum(z))
    result = irob.best_of_pgd(score, irob.attacks.BALLS[norm](0.1), x, step_sizes=irob.constant_steps(0.01, 1), start=jnp.full_like(x, 0.9))
    assert np.linalg.norm(np.ravel(result.x_adv - x), {"linf": np.inf, "l2": 2, "l1": 1}[norm]) <= 0.1 + 1e-6


def test_other_float_types():
    x = jnp.full((1, 2, 1), 0.5, jnp.bfloat16)
    assert irob.pgd(jnp.sum, irob.LInf(0.1), x, step_sizes=irob.constant_steps(0.05, 2)).dtype == jnp.bfloat16


def test_what_is_ascended_need_not_be_what_is_scored():
    x = jnp.full((1, 1, 1), 0.5)
    result = irob.best_of_pgd(lambda z: (jnp.sum(z), -jnp.sum(z)), irob.LInf(0.2), x, step_sizes=irob.constant_steps(0.1, 2))
    np.testing.assert_allclose(result.x_adv, x)


def test_zero_radius_returns_the_image(random):
    _, objective = linear(random)
    x = jnp.asarray(random.random((2, 3, 1)).astype(np.float32))
    for norm in NORMS:
        np.testing.assert_allclose(
            irob.pgd(objective, irob.attacks.BALLS[norm](0.0), x, step_sizes=irob.constant_steps(0.1, 2)), x, atol=1e-7
        )


def test_a_batch_is_its_examples(small, random):
    network, params = small
    explain = network.frozen(params)
    x = jnp.asarray(random.random((3, 28, 28, 1)).astype(np.float32))
    one = lambda x, t: irob.pgd(
        lambda z: irob.margin_loss(explain(z).logits, t), irob.LInf(0.1), x, step_sizes=irob.constant_steps(0.02, 4)
    )
    batched = jax.jit(jax.vmap(one))(x, jnp.array([1, 2, 3]))
    for i in range(3):
        np.testing.assert_allclose(jax.jit(one)(x[i], i + 1), batched[i], atol=1e-6)


def test_no_gradient_flows_through_an_attack(random):
    w, _ = linear(random)
    attacked = lambda x: jnp.sum(irob.pgd(lambda z: jnp.sum(w * z), irob.LInf(0.1), x, step_sizes=irob.constant_steps(0.1, 1)))
    np.testing.assert_array_equal(jax.grad(attacked)(jnp.full(w.shape, 0.5)), np.zeros(w.shape))


def test_linear_classifier_has_its_exact_robust_accuracy(random):
    """x is robust iff f_t - f_j > eps ||w_t - w_j||_1 for all j, where the box does not bind."""
    w = random.normal(size=(6, 3)).astype(np.float32)
    xs, labels = random.uniform(0.3, 0.7, (40, 2, 3, 1)).astype(np.float32), random.integers(0, 3, 40)
    logits = xs.reshape(40, 6) @ w
    for eps in (0.02, 0.1, 0.2):
        exact = np.array([
            all(logits[n, t] - logits[n, j] > eps * np.abs(w[:, t] - w[:, j]).sum() for j in range(3) if j != t) for n, t in enumerate(labels)
        ])  # fmt: skip

        def attack(x, t, eps=eps):
            scored = lambda z: (irob.margin_loss(z.reshape(-1) @ w, t),) * 2
            return irob.best_of_pgd(scored, irob.LInf(eps), x, step_sizes=irob.decaying_steps(eps, 30))

        broken = jax.jit(jax.vmap(attack))(xs, labels).score > 0
        assert np.sum(exact != ~np.asarray(broken)) <= 1


def test_step_sizes():
    np.testing.assert_allclose(irob.constant_steps(0.1, 3), [0.1] * 3, rtol=1e-6)
    np.testing.assert_allclose(irob.decaying_steps(1.0, 7), [0.2, 0.2, 0.06, 0.06, 0.02, 0.02, 0.02], rtol=1e-6)
    np.testing.assert_allclose(irob.decaying_steps(1.0, 1), [0.2], rtol=1e-6)
    with pytest.raises(ValueError, match="at least one step"):
        irob.pgd(jnp.sum, irob.LInf(0.1), jnp.zeros((1, 1, 1)), step_sizes=jnp.zeros(0))


@pytest.mark.parametrize("pair", [(0.05, 0.1), (0.1, 0.2)])
def test_more_room_never_weakens_a_linear_attack(pair, random):
    w, objective = linear(random)
    x = jnp.full(w.shape, 0.5)
    reached = [objective(irob.pgd(objective, irob.LInf(eps), x, step_sizes=irob.constant_steps(eps, 2))) for eps in pair]
    assert reached[1] > reached[0]


def test_last_of_pgd_is_pgd_with_its_score():
    x = np.full((2, 2, 1), 0.5, np.float32)
    objective = lambda z: (jnp.sum(z), jnp.sum(z**2))
    options = {"ball": irob.LInf(0.2), "step_sizes": irob.constant_steps(0.05, 3)}
    found = irob.attacks.last_of_pgd(objective, x=x, **options)
    np.testing.assert_allclose(found.x_adv, irob.pgd(lambda z: jnp.sum(z), x=x, **options))
    np.testing.assert_allclose(found.score, 4 * 0.65**2, rtol=1e-6)


@pytest.mark.parametrize("attack", [irob.pgd, irob.attacks.best_of_pgd, irob.attacks.last_of_pgd])
def test_a_batch_outside_of_jit(attack):
    """Under `vmap` alone some of the counts are values and others are traced."""
    x = jnp.full((3, 1, 2, 1), 0.5)
    objective = (lambda z: jnp.sum(z**2)) if attack is irob.pgd else (lambda z: (jnp.sum(z**2), jnp.sum(z)))
    found = jax.vmap(lambda z: attack(objective, irob.LInf(0.25), z, step_sizes=irob.constant_steps(0.5, 2)))(x)
    np.testing.assert_array_equal(jax.tree.leaves(found)[0], jnp.full((3, 1, 2, 1), 0.75))
