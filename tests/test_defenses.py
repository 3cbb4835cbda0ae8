import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from irob.defenses import adversarial_loss, interpretation_change, interpretation_margin_loss, path_attributions


def toy(x):
    """Class maps of a 2 x 2 image: pixel, its square, its negative."""
    maps = jnp.concatenate([x, x**2, -x], axis=-1)
    return irob.Explanation(maps, jnp.mean(maps, axis=(0, 1)))


X = np.array([[0.2, 0.4], [0.6, 0.8]], np.float32)[..., None]
X_ADV = X + np.array([[0.1, -0.1], [0.1, 0.1]], np.float32)[..., None]


def numpy_terms(x, x_adv, label):
    """Cross-entropies, KL, R and R_1 written out."""

    def maps_of(x):
        return np.concatenate([x, x**2, -x], axis=-1).astype(np.float64)

    def log_p(x):
        f = maps_of(x).mean(axis=(0, 1))
        return f - np.log(np.exp(f).sum())

    ce, ce_adv = -log_p(x)[label], -log_p(x_adv)[label]
    kl = np.sum(np.exp(log_p(x)) * (log_p(x) - log_p(x_adv)))
    change = np.abs(maps_of(x_adv) - maps_of(x)).sum(axis=(0, 1))
    others = [i for i in range(3) if i != label]
    weights = np.exp(maps_of(x_adv).mean(axis=(0, 1))[others])
    r = change[label] + np.sum(weights / weights.sum() * change[others])

    def slopes(z):
        """d f / d z, [3, 2, 2, 1]."""
        return np.stack([np.ones_like(z), 2 * z, -np.ones_like(z)]).astype(np.float64) / 4

    def of_loss(z):
        return np.einsum("c,chwk->hwk", np.exp(log_p(z)) - np.eye(3)[label], slopes(z))

    path = [x + k / 5 * (x_adv - x) for k in range(1, 6)]
    g = np.abs((x_adv - x) * np.mean([of_loss(z) for z in path], axis=0)).sum()
    by_class = np.abs((x_adv - x) * np.mean([slopes(z) for z in path], axis=0)).sum(axis=(1, 2, 3))
    r_g = by_class[label] + np.sum(weights / weights.sum() * by_class[others])
    p_adv = np.exp(log_p(x_adv))

    def against(i):
        """What the map of the label loses and that of i gains, less the gap of the clean logits."""
        change, f = maps_of(x_adv) - maps_of(x), maps_of(x).mean(axis=(0, 1))
        return np.maximum(-change[..., label], 0).mean() + np.maximum(change[..., i], 0).mean() - (f[label] - f[i])

    more = {
        "square": np.sum(of_loss(x) ** 2),
        "margin": np.log(1 + sum(np.exp(against(i)) for i in others)),
        "saliency": np.sum(slopes(x)[label] ** 2),
        "runner_up": -np.log(1 - p_adv[others].max()),
        "aware": (1 - np.exp(-ce)) * kl,
        "pairing": np.sum((maps_of(x).mean(axis=(0, 1)) - maps_of(x_adv).mean(axis=(0, 1))) ** 2),
    }
    return {"ce": ce, "ce_adv": ce_adv, "kl": kl, "r": r, "r1": change[label], "g": g, "r_g": r_g, **more}


# The table of the paper's methods: what the attack ascends, what training descends.
ROWS = {
    "normal": (None, lambda v: v["ce"]),
    "adv": (lambda v: v["ce_adv"], lambda v: v["ce_adv"]),
    "trades": (lambda v: v["kl"], lambda v: v["ce"] + v["kl"]),
    "int": (lambda v: 0.01 * v["r"], lambda v: v["ce"] + 0.01 * v["r"]),
    "int_one_class": (lambda v: 0.01 * v["r1"], lambda v: v["ce"] + 0.01 * v["r1"]),
    "int_adv": (lambda v: v["ce_adv"] + 0.01 * v["r"], lambda v: v["ce_adv"] + 0.01 * v["r"]),
    "int2": (lambda v: v["ce_adv"], lambda v: v["ce"] + 0.01 * v["r"]),
    "int2_adv": (lambda v: v["ce_adv"], lambda v: v["ce_adv"] + 0.01 * v["r"]),
    "ig_norm": (lambda v: v["g"], lambda v: v["ce"] + v["g"]),
    "ig_sum_norm": (lambda v: v["ce_adv"] + v["g"], lambda v: v["ce_adv"] + v["g"]),
    "int_ig": (lambda v: 0.01 * v["r_g"], lambda v: v["ce"] + 0.01 * v["r_g"]),
    "int_ig_adv": (lambda v: v["ce_adv"] + 0.01 * v["r_g"], lambda v: v["ce_adv"] + 0.01 * v["r_g"]),
    "mart": (lambda v: v["ce_adv"], lambda v: v["ce_adv"] + v["runner_up"] + 5 * v["aware"]),
    "alp": (lambda v: v["ce_adv"], lambda v: 0.5 * (v["ce"] + v["ce_adv"] + v["pairing"])),
    "int_margin": (lambda v: v["ce_adv"], lambda v: v["margin"]),
    "gradient_norm": (None, lambda v: v["ce"] + v["square"]),
    "saliency_norm": (None, lambda v: v["ce"] + v["saliency"]),
}


def test_the_table_is_complete():
    """The others are in test_attribution_defenses.py and test_certify.py."""
    assert set(ROWS) | {"far", "far_adv", "art", "cure", "hessian_norm", "ssr", "ibp", "crown_ibp"} == set(irob.DEFENSES)


@pytest.mark.parametrize("name", ROWS)
def test_rows_against_numpy(name):
    ascended, descended = ROWS[name]
    defense, values = irob.DEFENSES[name](), numpy_terms(X, X_ADV, 1)
    np.testing.assert_allclose(defense.outer(toy, X, X_ADV, 1), descended(values), rtol=1e-5)
    if ascended is None:
        assert defense.inner is None
    else:
        np.testing.assert_allclose(defense.inner(toy, X, 1)(X_ADV), ascended(values), rtol=1e-5, atol=1e-7)


def test_weights_scale_their_term():
    values = numpy_terms(X, X_ADV, 0)
    np.testing.assert_allclose(irob.DEFENSES["int"](weight=0.5).outer(toy, X, X_ADV, 0), values["ce"] + 0.5 * values["r"], rtol=1e-5)
    np.testing.assert_allclose(irob.DEFENSES["trades"](beta=6.0).inner(toy, X, 0)(X_ADV), 6 * values["kl"], rtol=1e-4)


def test_without_perturbation_interpretations_do_not_differ():
    assert interpretation_change(toy(X), toy(X), 1) == 0.0
    gradient = jax.grad(lambda z: interpretation_change(toy(X), toy(z), 1))(X)
    np.testing.assert_array_equal(gradient, np.zeros_like(X))


@hypothesis.given(st.integers(0, 2**31), st.integers(0, 3), st.floats(0.0, 30.0))
def test_the_change_of_maps_bounds_the_adversarial_loss(seed, label, size):
    """For maps whose means are the logits; it is CE(x) without a change, and CE(x') where every change speaks against the label."""
    random = np.random.default_rng(seed)
    explained = lambda maps: irob.Explanation(jnp.asarray(maps, jnp.float32), jnp.asarray(maps.mean(axis=(0, 1)), jnp.float32))
    maps, change = 3 * random.normal(size=(3, 2, 4)), size * random.normal(size=(3, 2, 4))
    clean, attacked = explained(maps), explained(maps + change)
    loss = float(interpretation_margin_loss(clean, attacked, label))
    assert loss >= float(irob.cross_entropy(attacked.logits, label)) - 1e-4 * (1 + size)
    np.testing.assert_allclose(
        interpretation_margin_loss(clean, clean, label), irob.cross_entropy(clean.logits, label), rtol=1e-4, atol=1e-6
    )
    against = explained(maps + np.where(np.arange(4) == label, -1, 1) * np.abs(change))
    expected = irob.cross_entropy(against.logits, label)
    np.testing.assert_allclose(interpretation_margin_loss(clean, against, label), expected, rtol=1e-4, atol=1e-4)
    halves = irob.proposition_1_sides(clean, attacked, label, (label + 1) % 4)
    d = np.abs(change).mean(axis=(0, 1))
    assert float(halves.discrepancy) * 2 == pytest.approx(d[label] + d[(label + 1) % 4], rel=1e-3, abs=1e-5)


def test_a_new_method_is_a_new_row():
    defense = irob.from_terms(adversarial_loss, lambda clean, adv, t: adversarial_loss(clean, adv, t) + 0.1 * jnp.sum(adv.maps**2))
    assert np.isfinite(defense.outer(toy, X, X_ADV, 0)) and np.isfinite(defense.inner(toy, X, 0)(X_ADV))


# What the terms of methods are made of; the other methods add the same terms up.
TERMS = ("trades", "int", "int_ig", "ig_norm", "gradient_norm")


@pytest.mark.parametrize(
    ("network_name", "name"),
    [pytest.param(n, m, marks=() if n == "small" and m in TERMS else pytest.mark.slow) for n in ("small", "pool") for m in ROWS],
)
def test_gradients_agree_between_the_forms_of_a_network(network_name, name, random):
    """In x' of what is attacked, between frozen and differentiable; in the parameters of what is trained, between `explain` and linen's."""
    network = irob.create(network_name, (12, 12, 1), 3)
    params, defense = network.initial_params(), irob.DEFENSES[name]()
    x, noise = random.uniform(size=(12, 12, 1)).astype(np.float32), 0.1 * random.normal(size=(12, 12, 1)).astype(np.float32)
    if defense.inner is not None:
        forms = [network.frozen, lambda params: lambda z: network.explain(params, z)]
        attacked = [jax.jit(jax.grad(lambda z, p, form=form: defense.inner(form(p), x, 1)(z)))(x + noise, params) for form in forms]
        np.testing.assert_allclose(*attacked, rtol=1e-3, atol=1e-4 * np.abs(attacked[1]).max())
        assert np.abs(attacked[0]).max() > 0
    forms = [lambda params: lambda z: network.explain(params, z), lambda params: lambda z: network.apply({"params": params}, z)]
    trained = [jax.jit(jax.grad(lambda p, form=form: defense.outer(form(p), x, x + noise, 1)))(params) for form in forms]
    for ours, linens in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_allclose(ours, linens, rtol=1e-3, atol=1e-4 * np.abs(linens).max() + 1e-7)
    assert np.abs(trained[0]["conv_0"]["kernel"]).max() > 0


@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("points", [1, 4, 5, 6, 13])
def test_paths_of_any_number_of_points(points, chunk):
    """However many at a time: of a cubic function, whose gradient is known."""
    found = path_attributions(lambda z: jnp.stack([jnp.sum(z**3), jnp.sum(z)]), X, X_ADV, points, chunk)
    path = [X + k / points * (X_ADV - X) for k in range(1, points + 1)]
    expected = np.stack([(X_ADV - X) * np.mean([3 * z**2 for z in path], axis=0), X_ADV - X])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "gradients", "per_class"),
    [("int", {}, 1, False), ("ig_norm", {}, 1, False), ("ig_norm", {"chunk": 5}, 5, False), ("int_ig", {"points": 3, "chunk": 5}, 3, True)],
)
def test_the_cost_of_a_method_is_an_attribute_of_its_row(name, options, gradients, per_class):
    defense = irob.DEFENSES[name](**options)
    assert (defense.gradients, defense.per_class) == (gradients, per_class)


def test_the_methods_that_compare_maps():
    comparing = {name for name, row in irob.DEFENSES.items() if row().compares_maps}
    assert comparing == {"int", "int_one_class", "int_adv", "int2", "int2_adv", "int_margin", "hessian_norm"}


def test_memory_does_not_grow_with_the_points_of_a_path():
    network = irob.create("small", (12, 12, 1), 3)
    params, x = network.initial_params(), np.zeros((12, 12, 1), np.float32)

    def temporary(points):
        def loss(params):
            return irob.DEFENSES["ig_norm"](points=points).outer(lambda z: network.explain(params, z), x, x + 0.1, 1)

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary(40) < 1.1 * temporary(10) and temporary(10) < 1.5 * temporary(5)
