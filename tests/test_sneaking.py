"""The sneaking attack and the attack on the map; and Proposition 1, which neither can break."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.maps import scale_to_logits
from irob.types import Explanation

SHAPE, CLASSES = (6, 6, 1), 4


def random_network(seed):
    """Maps that depend on x through a random nonlinear layer; their means are the logits."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(36, 36)).astype(np.float32) / 3
    head = random.normal(size=(4, CLASSES)).astype(np.float32)

    def explain(x):
        hidden = jnp.tanh(mixing @ x.reshape(-1)).reshape(3, 3, 4)
        maps = hidden @ head
        return Explanation(maps, jnp.mean(maps, axis=(0, 1)))

    return explain, random.uniform(size=SHAPE).astype(np.float32)


def complete_two_class(label, target):
    def measure(clean, attacked):
        return irob.discrepancy(scale_to_logits(clean.maps), scale_to_logits(attacked.maps), irob.two_class(label, target, CLASSES))

    return measure


def careful(x, eps, start=None, steps=40):
    return functools.partial(irob.best_of_pgd, ball=irob.LInf(eps), x=x, step_sizes=irob.decaying_steps(eps, steps), start=start)


def holds(clean, attacked, label, target):
    sides = irob.proposition_1_sides(clean, attacked, label, target)
    return bool(sides.discrepancy >= sides.half_gap - 1e-5)


@hypothesis.given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.integers(0, CLASSES - 1))
def test_proposition_1_holds_for_any_network_and_any_perturbation_that_reaches_the_target(seed, size, label):
    explain, x = random_network(seed)
    moved = np.clip(x + size * np.random.default_rng(seed + 1).normal(size=SHAPE), 0, 1).astype(np.float32)
    clean, attacked = explain(x), explain(moved)
    for target in range(CLASSES):
        if attacked.logits[target] >= attacked.logits[label]:
            assert holds(clean, attacked, label, target)


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(0, 2**31))
def test_not_even_the_sneaking_attack_breaks_the_bound(seed):
    explain, x = random_network(seed)
    clean = explain(x)
    label, target = (int(i) for i in jnp.argsort(-clean.logits)[:2])
    found = jax.jit(lambda x: irob.sneaking_attack(explain, x, target, complete_two_class(label, target), careful(x, 1.0), rounds=6))(x)
    attacked = explain(found.x_adv)
    if found.found:
        assert int(jnp.argmax(attacked.logits)) == target
        assert holds(clean, attacked, label, target)
        np.testing.assert_allclose(found.discrepancy, complete_two_class(label, target)(clean, attacked), rtol=1e-5)


def reaching(explain, target):
    def objective(x_adv):
        reached = -irob.margin_loss(explain(x_adv).logits, target)
        return reached, reached

    return objective


def test_sneaking_finds_less_discrepancy_than_plain_attacks_do():
    better = []
    for seed in range(6):
        explain, x = random_network(seed)
        label, target = (int(i) for i in jnp.argsort(-explain(x).logits)[:2])
        measure = complete_two_class(label, target)
        plain = careful(x, 0.5)(reaching(explain, target))
        sneaked = irob.sneaking_attack(explain, x, target, measure, careful(x, 0.5))
        if plain.score > 0:
            assert sneaked.found
            better.append(sneaked.discrepancy / measure(explain(x), explain(plain.x_adv)))
    assert len(better) >= 3 and np.mean(better) < 0.8


def test_the_optimum_of_a_linear_network_is_found():
    """Maps are the pixels themselves times +-1: D of the true class's map is the l1 distance, and the margin asks for a distance of its own."""

    def explain(x):
        maps = jnp.concatenate([x, 1.0 - x], axis=-1)
        return Explanation(maps, jnp.mean(maps, axis=(0, 1)))

    x = np.array([0.8, 0.7, 0.6, 0.9], np.float32).reshape(2, 2, 1)  # mean 0.75: class 0; class 1 from a mean of 0.5 on
    measure = lambda clean, attacked: irob.discrepancy(clean.maps, attacked.maps, irob.discrepancies.one_class(0, 2))
    found = irob.sneaking_attack(explain, x, 1, measure, careful(x, 0.9, steps=120), rounds=12)
    assert found.found
    assert 1.0 <= found.discrepancy <= 1.03  # 4 pixels have to give 4 * 0.25 together


def test_without_success_the_unweighted_image_comes_back():
    explain = lambda x: Explanation(jnp.stack([x[..., 0] + 5.0, -x[..., 0]], axis=-1), jnp.stack([jnp.mean(x) + 5.0, -jnp.mean(x)]))
    x = np.full((2, 2, 1), 0.5, np.float32)
    climb = functools.partial(irob.attacks.last_of_pgd, ball=irob.LInf(0.1), x=x, step_sizes=irob.constant_steps(0.05, 4))
    found = irob.sneaking_attack(explain, x, 1, lambda clean, attacked: jnp.sum((attacked.maps - clean.maps) ** 2), climb)
    assert not found.found and float(found.weight) == 0.0
    np.testing.assert_allclose(found.x_adv, x - 0.1, atol=1e-6)


def authors_isa(explain, x, target, measure, eps, n, rounds=10, steps=10):
    """The authors' search in NumPy around the gradient of the mean loss, one image of n."""

    def attack(weight):
        reach = jax.jit(jax.grad(lambda z: jnp.maximum(irob.margin_loss(explain(z).logits, target), -0.1) / n))
        hide = jax.jit(jax.grad(lambda z: weight * measure(explain(x), explain(z)) / n))
        moved = x.copy()
        for step in range(steps):
            gradient = reach(moved) + (hide(moved) if step else 0)  # at x itself the discrepancy has none
            moved = moved - np.float32(0.2) * eps * np.clip(1000 * np.asarray(gradient), -1, 1)
            moved = np.clip(np.clip(moved, x - eps, x + eps), 0, 1)
        return moved

    weight, lower, upper = 5e-5, 0.0, 1.0
    for _ in range(rounds):
        if irob.margin_loss(explain(attack(weight)).logits, target) < 0:
            lower, weight = weight, min(2 * weight, (weight + upper) / 2)
        else:
            upper, weight = weight, (lower + weight) / 2
    return lower, attack(lower)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_papers_flavour_is_the_authors_loop(seed):
    explain, x = random_network(seed)
    label, target = (int(i) for i in jnp.argsort(-explain(x).logits)[:2])
    measure = lambda clean, attacked: irob.discrepancy(clean.maps, attacked.maps, irob.discrepancies.one_class(label, CLASSES))
    eps, n = np.float32(0.5), 100
    ball = irob.paper.ClippedLInf(eps, 1000 / n)
    climb = functools.partial(irob.attacks.last_of_pgd, ball=ball, x=x, step_sizes=irob.constant_steps(0.2 * eps, 10))
    found = irob.sneaking_attack(explain, x, target, measure, climb, rank=irob.paper.largest_weight, start=5e-5, limit=1.0)
    weight, x_adv = authors_isa(explain, x, target, measure, eps, n)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    np.testing.assert_allclose(found.x_adv, x_adv, atol=1e-4)


# --- the attack on the map ------------------------------------------------------------------------------------------------------------------


def top_k_sum(explain, x, z, label, k):
    places = np.argsort(-np.asarray(explain(x).maps[..., label]).ravel(), kind="stable")[:k]
    return float(np.asarray(explain(z).maps[..., label]).ravel()[places].sum())


def test_aai_lowers_the_top_k_like_a_plain_loop():
    explain, x = random_network(1)
    label, k, eps = 2, 3, np.float32(0.2)
    climb = functools.partial(irob.attacks.last_of_pgd, ball=irob.LInf(eps), x=x, step_sizes=irob.constant_steps(0.05, 12))
    found = irob.attacks.top_k_map_attack(explain, x, label, k, climb)
    places = np.argsort(-np.asarray(explain(x).maps[..., label]).ravel(), kind="stable")[:k]
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(explain(z).maps[..., label].ravel()[places])))
    moved = x.copy()
    for _ in range(12):
        moved = np.clip(np.clip(moved - np.float32(0.05) * np.sign(gradient(moved)), x - eps, x + eps), 0, 1)
    np.testing.assert_allclose(found, moved, atol=1e-6)
    assert top_k_sum(explain, x, found, label, k) < top_k_sum(explain, x, x, label, k)


@pytest.mark.parametrize("seed", range(4))
def test_aai_keeps_the_prediction_when_told_to(seed):
    explain, x = random_network(seed)
    label = prediction = int(jnp.argmax(explain(x).logits))
    start = irob.LInf(0.8).random_point(jax.random.key(seed), x)
    kept = irob.attacks.top_k_map_attack(explain, x, label, 3, careful(x, 0.8, start), prediction)
    assert int(jnp.argmax(explain(kept).logits)) == prediction
    assert top_k_sum(explain, x, kept, label, 3) < top_k_sum(explain, x, x, label, 3)


def test_aai_returns_the_image_where_every_move_changes_the_prediction():
    explain = lambda x: Explanation(jnp.stack([x[..., 0], 2.0 * x[..., 0]], axis=-1), jnp.array([0.0, 1.0]))
    x = np.full((2, 2, 1), 0.5, np.float32)
    with pytest.warns(UserWarning, match="none of the 40 gradients"):
        found = irob.attacks.top_k_map_attack(explain, x, 0, 1, careful(x, 0.2), prediction=0)
    np.testing.assert_array_equal(found, x)
