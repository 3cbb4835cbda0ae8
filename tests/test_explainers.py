import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob import discrepancies, maps

TOY = irob.models.CAMNetwork((irob.models.Conv(4, 3, 2), irob.models.Conv(6, 3), irob.models.Conv(5, 3)), (8, 8, 2), 3)
PIXELS = ("saliency", "gradient_x_input", "integrated_gradients", "smooth_grad")


@pytest.fixture(scope="module")
def toy():
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + random.normal(0, 0.1, leaf.shape).astype(np.float32), TOY.initial_params())
    return params, random.uniform(0.1, 0.9, (8, 8, 2)).astype(np.float32)


@pytest.mark.parametrize("form", [maps.differentiable, maps.frozen])
@pytest.mark.parametrize("name", irob.maps.EXPLAINERS)
def test_every_name_is_its_map(toy, name, form):
    """From linen's definition of the network and the map's own function."""
    params, x = toy
    apply = lambda network, z: network.apply({"params": params}, z)
    features, smooth = TOY.features(params, x), TOY.clone(softplus=1.0)
    score = lambda A: jnp.mean(A, axis=(0, 1)) @ params["head"]["kernel"]
    direct = {
        "cam": lambda: apply(TOY, x).maps,
        "grad_cam": lambda: maps.grad_cam(features, score),
        "grad_cam_plus_plus": lambda: maps.grad_cam_plus_plus(features, score) * 16,
        "representation": lambda: features,
    }
    of_pixels = {
        "saliency": maps.saliency,
        "gradient_x_input": maps.gradient_x_input,
        "integrated_gradients": lambda f, x: maps.integrated_gradients(f, x, points=10).attributions,
        "smooth_grad": lambda f, x: maps.smooth_grad(f, x, jax.random.key(0), samples=10),
    }
    found = jax.jit(irob.explainer(name, TOY, form(params)))(x)
    if name in PIXELS:
        of_class = jax.jit(lambda x, c: of_pixels[name](lambda z: apply(smooth, z).logits[c], x).reshape(8, 16))
        by_class = [of_class(x, c) for c in range(3)]
        expected = np.stack(by_class, axis=-1)
    else:
        expected = direct[name]()
    np.testing.assert_allclose(found.maps, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found.logits, apply(TOY, x).logits, rtol=1e-4, atol=1e-6)
    assert maps.shape_of_maps(name, TOY, params) == found.maps.shape
    choose = lambda: jax.jit(irob.explainer(name, TOY, form(params), jnp.array([2, 0])))(x)
    if name == "representation":
        with pytest.raises(ValueError, match="no map of a class to choose"):
            choose()
    else:
        chosen = choose()
        np.testing.assert_allclose(chosen.maps, found.maps[..., [2, 0]], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(chosen.logits, found.logits, rtol=1e-6)


BALL, SIZES = irob.LInf(0.2), irob.decaying_steps(0.2, 6)


def class_weights(maps):
    """One of each kind."""
    count, logits = maps.shape[-1], jnp.mean(maps, axis=(0, 1))
    kinds = (
        discrepancies.one_class(0, count),
        irob.two_class(0, 1, count),
        discrepancies.all_class(count),
        discrepancies.top_k_classes(logits, 2),
    )
    return jnp.stack([*kinds, discrepancies.normalized(discrepancies.all_class(count), maps)])


def by_pgd(explain, x, measure, clean):
    ascend = functools.partial(irob.pgd, ball=BALL, x=x, step_sizes=SIZES, start=BALL.random_point(jax.random.key(1), x))
    x_adv = ascend(lambda z: measure(clean, explain(z)))
    return x_adv, measure(clean, explain(x_adv)) > 0


def by_isa(explain, x, measure, clean):
    ascend = functools.partial(irob.best_of_pgd, ball=BALL, x=x, step_sizes=SIZES, start=x)
    target = (jnp.argmax(clean.logits) + 1) % 3
    found = irob.sneaking_attack(explain, x, target, measure, ascend, rounds=3)
    reached = jnp.argmax(explain(found.x_adv).logits) == target
    return found.x_adv, jnp.isfinite(found.discrepancy) & (found.discrepancy >= 0) & (found.found == reached)


def by_aai(explain, x, measure, clean):
    ascend = functools.partial(irob.best_of_pgd, ball=BALL, x=x, step_sizes=SIZES, start=x)
    x_adv = irob.attacks.top_k_map_attack(explain, x, 1, 3, ascend)
    highest = discrepancies.top_k_pixels(clean.maps, 3)[..., 1]
    left = jnp.sum(jnp.where(highest, explain(x_adv).maps[..., 1] - clean.maps[..., 1], 0.0))
    return x_adv, (left < 0) & (measure(clean, explain(x_adv)) > 0)


@pytest.mark.parametrize("attack", [by_pgd, by_isa, by_aai])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("cam", "saliency") else pytest.mark.slow) for name in irob.maps.EXPLAINERS]
)
def test_any_map_with_any_discrepancy_under_any_attack(toy, name, attack):
    """Class weights x pixel sets x norms, all in one compiled attack."""
    params, x = toy
    explain = irob.explainer(name, TOY, maps.frozen(params))
    clean = jax.jit(explain)(x)
    weights = class_weights(clean.maps)
    kinds = list(itertools.product(range(len(weights)), (False, True), range(len(discrepancies.NORMS))))

    @jax.jit
    @jax.vmap
    def attacked(weights, few, norm):
        def measure(clean, moved):
            pixels = jnp.where(few, discrepancies.top_k_pixels(clean.maps, 3), True)
            return jnp.stack([irob.discrepancy(clean.maps, moved.maps, weights, pixels, name) for name in discrepancies.NORMS])[norm]

        return attack(explain, x, measure, clean)

    which, few, norm = map(np.array, zip(*kinds, strict=True))
    x_adv, holds = attacked(weights[which], few, norm)
    assert holds.all()
    assert (np.abs(x_adv - x) <= 0.2 + 1e-6).all() and (x_adv >= 0).all() and (x_adv <= 1).all()
    assert (np.abs(x_adv - x).max(axis=(1, 2, 3)) > 0).all() or attack is by_isa


def test_an_unknown_map():
    with pytest.raises(ValueError, match="unknown map 'camm': choose one of cam, grad_cam"):
        irob.explainer("camm", TOY, maps.differentiable({}))
