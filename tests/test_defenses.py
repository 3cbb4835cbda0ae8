import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.configs import common
from irob.defenses import adversarial_loss, interpretation_change


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
    return {"ce": ce, "ce_adv": ce_adv, "kl": kl, "r": r, "r1": change[label]}


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
}


def test_the_table_is_complete():
    assert set(ROWS) == set(irob.DEFENSES)


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


def test_a_new_method_is_a_new_row():
    defense = irob.from_terms(adversarial_loss, lambda clean, adv, t: adversarial_loss(clean, adv, t) + 0.1 * jnp.sum(adv.maps**2))
    assert np.isfinite(defense.outer(toy, X, X_ADV, 0)) and np.isfinite(defense.inner(toy, X, 0)(X_ADV))


def test_configs_offer_every_method_with_its_own_options():
    options = {name: {p.name: p.default for p in inspect.signature(build).parameters.values()} for name, build in irob.DEFENSES.items()}
    assert options == {name: dict(defaults) for name, defaults in common.METHODS.items()}
