"""Published defenses of attributions against NumPy, on two layers: logits `V tanh(W x)`, maps that multiply them with the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob

RANDOM = np.random.default_rng(3)
W, V = RANDOM.normal(size=(5, 4)), RANDOM.normal(size=(3, 5))
X = RANDOM.uniform(0.2, 0.8, (2, 2, 1)).astype(np.float32)
X_ADV = (X + RANDOM.uniform(-0.1, 0.1, X.shape)).astype(np.float32)
LABEL = 1


def network(x):
    logits = jnp.asarray(V, jnp.float32) @ jnp.tanh(jnp.asarray(W, jnp.float32) @ x.reshape(-1))
    return irob.Explanation(x * logits, logits)


def logits_of(x):
    return V @ np.tanh(W @ x.reshape(-1))


def slopes_of(x):
    """d f / d x, [3, 2, 2, 1]."""
    return ((V * (1.0 - np.tanh(W @ x.reshape(-1)) ** 2)) @ W).reshape(3, *x.shape)


def probabilities(x):
    return np.exp(logits_of(x)) / np.exp(logits_of(x)).sum()


def loss(x):
    return -np.log(probabilities(x)[LABEL])


def slope_of_loss(x):
    return np.einsum("c,chwk->hwk", probabilities(x) - np.eye(3)[LABEL], slopes_of(x))


def attribution(x, points=5):
    return x * np.mean([slopes_of(k / points * x)[LABEL] for k in range(1, points + 1)], axis=0)


def distance(x, x_adv):
    return 1.0 - np.corrcoef(attribution(x).ravel(), attribution(x_adv).ravel())[0, 1]


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def misaligned(x):
    other = max((c for c in range(3) if c != LABEL), key=lambda c: logits_of(x)[c])
    return np.log1p(np.exp(cosine(slopes_of(x)[other], x) - cosine(slopes_of(x)[LABEL], x)))


def curvature(x):
    z = np.sign(slope_of_loss(x))
    return np.sum((slope_of_loss(x + 1.5 * z / np.linalg.norm(z)) - slope_of_loss(x)) ** 2)


def largest_eigenvalue(x):
    """Of the Hessian without the second derivatives of the logits."""
    p, slopes = probabilities(x), slopes_of(x).reshape(3, -1)
    return np.linalg.eigvalsh(slopes.T @ (np.diag(p) - np.outer(p, p)) @ slopes)[-1]


D, CE, CE_ADV = distance(X.astype(float), X_ADV.astype(float)), loss(X), loss(X_ADV)
ROWS = {
    "far": (D, CE + D),
    "far_adv": (CE_ADV + D, CE_ADV + D),
    "art": (misaligned(X_ADV), CE_ADV + 0.5 * misaligned(X_ADV)),
    "cure": (None, CE + 4.0 * curvature(X)),
    "ssr": (None, CE + largest_eigenvalue(X)),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_against_numpy(name):
    ascended, descended = ROWS[name]
    defense = irob.DEFENSES[name]()
    np.testing.assert_allclose(defense.outer(network, X, X_ADV, LABEL), descended, rtol=1e-4)
    if ascended is None:
        assert defense.inner is None
    else:
        np.testing.assert_allclose(defense.inner(network, X, LABEL)(X_ADV), ascended, rtol=1e-4)


def test_the_norm_of_the_hessian_is_estimated_without_bias():
    """The map of the label is x f_t(x); its derivative in NumPy by central differences, and the mean over many draws."""
    x = X.astype(float)
    step = 1e-5
    of_label = lambda x: x.reshape(-1) * logits_of(x)[LABEL]
    jacobian = np.stack(
        [(of_label(x + step * e.reshape(x.shape)) - of_label(x - step * e.reshape(x.shape))) / (2 * step) for e in np.eye(4)]
    )
    defense = irob.DEFENSES["hessian_norm"](weight=1.0, draws=400)
    found = float(jax.jit(lambda x: defense.outer(network, x, x, LABEL))(X)) - CE
    np.testing.assert_allclose(found, np.sum(jacobian**2), rtol=0.2)
    assert irob.DEFENSES["hessian_norm"]().compares_maps


def test_the_largest_curvature_is_that_of_the_hessian_of_a_rectified_network():
    """And its derivative that of the largest eigenvalue, by differences."""
    table = irob.create("small", (8, 8, 1), 4)
    params = table.initial_params(0)
    scaled = lambda scale: {**params, "head": {"kernel": scale * params["head"]["kernel"]}}
    x = np.random.default_rng(1).uniform(size=(8, 8, 1)).astype(np.float32)
    loss_of = lambda params: lambda z: irob.cross_entropy(table.explain(params, z).logits, 2)
    hessian = np.asarray(jax.jit(jax.hessian(loss_of(scaled(9.0))))(x)).reshape(64, 64)
    of = jax.jit(lambda params: irob.defenses.largest_curvature(lambda z: table.explain(params, z), x, 2))
    loss, curvature = of(scaled(9.0))
    np.testing.assert_allclose(curvature, np.linalg.eigvalsh(hessian)[-1], rtol=1e-4)
    np.testing.assert_allclose(loss, loss_of(scaled(9.0))(x), rtol=1e-6)
    slope = jax.grad(lambda scale: of(scaled(scale))[1])(9.0)
    ends = [of(scaled(scale))[1] for scale in (8.9, 9.1)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 0.2, rtol=2e-2)


@pytest.mark.parametrize("name", ["far", "far_adv", "art", "cure", "hessian_norm", "ssr", "ibp", "crown_ibp"])
def test_gradients_are_finite_also_where_an_image_is_black(name):
    table = irob.create("small", (8, 8, 1), 3)
    initial = table.initial_params(0)
    sure = {**initial, "head": {"kernel": 1e5 * initial["head"]["kernel"]}}  # of probabilities that underflow
    gray = np.random.default_rng(0).uniform(size=(8, 8, 1)).astype(np.float32)
    for params, x in ((initial, np.zeros((8, 8, 1), np.float32)), (initial, gray), (sure, gray)):
        defense = irob.DEFENSES[name]()
        of_params = lambda params, x=x, defense=defense: defense.outer(lambda z: table.explain(params, z), x, jnp.clip(x + 0.05, 0, 1), 1)
        value, slopes = jax.jit(jax.value_and_grad(of_params))(params)
        assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes)) > 0
