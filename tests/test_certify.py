"""Bounds against points of the ball, against NumPy written out, and against closed forms; smoothing against SciPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import irob
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import certify as measure
from experiments.runtime.errors import UserError
from irob.attacks import BALLS, L2, PGD, LInf
from irob.certify import (
    Interval,
    box_around,
    certified,
    certified_overlap,
    certified_prediction,
    clopper_pearson_lower,
    discrepancy_bound,
    interval_bounds,
    linear_lower_bounds,
    map_bounds,
    margin_bounds,
    noisy_counts,
    smoothed_top,
)

SHAPE, CLASSES = (8, 8, 1), 3


class Mixed(nn.Module):
    """Dense and convolutional layers, both poolings, a sum of branches."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(4, (3, 3))(x))
        h = nn.max_pool(h, (2, 2), (2, 2)) - 0.5 * nn.avg_pool(h, (2, 2), (2, 2))
        h = nn.relu(nn.Conv(6, (3, 3), strides=2)(h)).reshape(-1)
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(8)(h)) + 0.1)


class Own:
    """A linen module as a network of logits alone."""

    def __init__(self, seed):
        self.module = Mixed()
        self.params = self.module.init(jax.random.key(seed), jnp.zeros(SHAPE))

    def __call__(self, x):
        return irob.Explanation(jnp.zeros((1, 1, CLASSES)), self.module.apply(self.params, x))


def table_network(name, seed):
    network = irob.create(name, SHAPE, CLASSES)
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * random.normal(size=leaf.shape).astype(np.float32), network.initial_params(seed))
    return network.frozen(params)


class Mapped(nn.Module):
    """A linen module with a last feature map and a head that has a bias."""

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(5, (3, 3), name="features")(nn.relu(nn.Conv(4, (3, 3), strides=2)(x)))
        return nn.Dense(CLASSES, name="head")(jnp.mean(h, axis=(-3, -2)))


def linen_network(seed):
    network = irob.models.from_linen(Mapped(), SHAPE, CLASSES)
    return network.frozen(network.initial_params(seed))


NETWORKS = {
    "linen": linen_network,
    "small": functools.partial(table_network, "small"),
    "pool": functools.partial(table_network, "pool"),
    "mixed": Own,
}
EPS = {"linf": 0.05, "l2": 0.3, "l1": 1.0}


def image(seed):
    return np.random.default_rng(seed).uniform(0.0, 1.0, SHAPE).astype(np.float32)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_of_the_ball_leaves_its_bounds(name, norm):
    """10,000 random points, and as many (in l2 and l1 a tenth) of PGD towards the ends of margins and of entries of the maps."""
    explain, x, ball = NETWORKS[name](0), image(0), BALLS[norm](EPS[norm])
    label = int(jnp.argmax(explain(x).logits))
    box = jax.jit(lambda x: interval_bounds(explain, box_around(x, ball.eps)))(x)
    margins = jax.jit(lambda x: margin_bounds(explain, ball, x, label))(x)
    of_maps = jax.jit(lambda x: map_bounds(explain, ball, x))(x)
    keys = jax.random.split(jax.random.key(1), 10_000)

    def attack(key, number):
        def towards(z):
            found = explain(z)
            ends = jnp.concatenate([found.logits - found.logits[label], jnp.ravel(found.maps), -jnp.ravel(found.maps)])
            return (ends[number % len(ends)],) * 2

        return PGD()(towards, ball, x, key=key, num_steps=4).x_adv

    count = 10_000 if norm == "linf" else 1_000
    attacked = jax.jit(lambda: jax.vmap(attack)(keys[:count], jnp.arange(count)))()
    points = jnp.concatenate([jax.jit(jax.vmap(lambda key: ball.random_point(key, x)))(keys), attacked])
    seen = jax.jit(jax.vmap(explain))(points)
    for found, bounds in ((seen.logits, box.logits), (seen.maps, box.maps), (seen.maps, of_maps)):
        assert np.all(found >= bounds.lower - 1e-5) and np.all(found <= bounds.upper + 1e-5)
    reached = np.min(seen.logits[:, [label]] - seen.logits, axis=0)
    assert np.all(margins <= reached + 1e-5) and margins[label] == 0.0
    assert certified(margins, label) == (np.delete(np.asarray(margins), label) > 0).all()


def test_what_only_looks_like_a_rectifier_or_a_maximum():
    @jax.custom_jvp
    def gate(x, y):
        return jnp.maximum(y, 0.0)

    @jax.jit
    def first_maximum(z):
        return -z

    gate.defjvp(lambda primals, tangents: (gate(*primals), tangents[1]))
    box = Interval(jnp.array([-0.1]), jnp.array([0.1]))
    bounds = interval_bounds(lambda x: gate(x + 10.0, x), box)
    np.testing.assert_allclose([bounds.lower, bounds.upper], [[0.0], [0.1]], atol=1e-6)
    bounds = interval_bounds(first_maximum, box)
    np.testing.assert_allclose([bounds.lower, bounds.upper], [[-0.1], [0.1]], atol=1e-6)


def test_a_label_that_is_no_class_is_not_certified(unchecked):
    explain, x = NETWORKS["small"](0), image(0)
    for label in (jnp.int32(-1), jnp.int32(CLASSES)):
        assert not jax.jit(lambda label: certified(margin_bounds(explain, LInf(0.0), x, label), label))(label)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_radius_bounds_are_values(name):
    explain, x = NETWORKS[name](1), image(1)
    found = interval_bounds(explain, box_around(x, 0.0))
    np.testing.assert_allclose(found.logits.lower, explain(x).logits, atol=1e-4)
    np.testing.assert_allclose(found.maps.upper, explain(x).maps, atol=1e-4)
    lower = linear_lower_bounds(lambda z: explain(z).logits, jnp.eye(CLASSES), LInf(0.0), x)
    np.testing.assert_allclose(lower, explain(x).logits, atol=1e-4)


W1, B1 = np.array([[1.0, -2.0], [0.5, 1.5]]), np.array([0.1, -0.3])
W2 = np.array([[1.0, -1.0]])


def two_layers(x):
    return jnp.asarray(W2, jnp.float32) @ jax.nn.relu(jnp.asarray(W1, jnp.float32) @ x.reshape(-1) + jnp.asarray(B1, jnp.float32))


def test_two_layers_by_hand():
    x, eps = np.array([0.4, 0.5], np.float32).reshape(1, 2, 1), 0.1
    center, radius = W1 @ [0.4, 0.5] + B1, np.abs(W1) @ [0.1, 0.1]
    low, high = np.maximum(center - radius, 0), np.maximum(center + radius, 0)
    found = interval_bounds(two_layers, box_around(x, eps))
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [low[0] - high[1], high[0] - low[1]], atol=1e-6)
    # Rectifier 1: z in [-0.8, -0.2] is off. Rectifier 2: z in [0.45, 0.85] is on. So the network is -z_2 there.
    np.testing.assert_allclose([center - radius, center + radius], [[-0.8, 0.45], [-0.2, 0.85]], atol=1e-6)
    lower = linear_lower_bounds(two_layers, jnp.ones((1, 1)), LInf(eps), x)
    np.testing.assert_allclose(lower, [-0.85], atol=1e-6)
    round_ball = linear_lower_bounds(two_layers, jnp.ones((1, 1)), L2(eps), x)
    np.testing.assert_allclose(round_ball, [-(center[1] + 0.1 * np.linalg.norm(W1[1]))], atol=1e-6)


def test_the_smaller_gap_counts_where_maps_and_logits_differ_by_rounding():
    """The logits favor class 0 by .05, the means of the maps class 1."""
    maps = jnp.array([[[99.95, 100.0]]])
    bounds = Interval(maps - 0.01, maps + 0.01)
    assert discrepancy_bound(maps, bounds, jnp.array([99.95, 100.0]), 1).certified
    assert not discrepancy_bound(maps, bounds, jnp.array([100.0, 99.95]), 0).certified


def test_an_unstable_rectifier_by_hand():
    """max(z, 0) with z = x - 0.5 in [-0.1, 0.3]: below it z, since 0.3 > 0.1; above it 0.3 (z + 0.1) / 0.4."""
    box_center = 0.6
    f = lambda x: jax.nn.relu(x.reshape(-1) - 0.5)
    x = np.full((1, 1, 1), box_center, np.float32)
    np.testing.assert_allclose(linear_lower_bounds(f, jnp.ones((1, 1)), LInf(0.2), x), [-0.1], atol=1e-6)
    np.testing.assert_allclose(linear_lower_bounds(f, -jnp.ones((1, 1)), LInf(0.2), x), [-0.3], atol=1e-6)
    mixed = lambda x: jax.nn.relu(x.reshape(-1) - 0.5) - 0.5 * x.reshape(-1)  # above: 0.75 x - 0.3 - 0.5 x, largest at 0.8
    np.testing.assert_allclose(linear_lower_bounds(mixed, -jnp.ones((1, 1)), LInf(0.2), x), [0.1], atol=1e-6)


def test_maps_that_cannot_move_far_certify_the_prediction():
    explain, x = NETWORKS["small"](2), image(2)
    clean, label = explain(x), int(jnp.argmax(explain(x).logits))
    h, w, _ = clean.maps.shape
    for eps in (0.0, 0.002, 0.05):
        bounds = jax.jit(lambda x, eps=eps: map_bounds(explain, LInf(eps), x))(x)
        found = discrepancy_bound(clean.maps, bounds, clean.logits, label)
        points = jax.vmap(lambda key, eps=eps: LInf(eps).random_point(key, x))(jax.random.split(jax.random.key(0), 500))
        moved = np.abs(jax.vmap(explain)(points).maps - clean.maps).sum(axis=(1, 2)) / (h * w)
        assert np.all(moved <= found.by_class + 1e-5)
        sides = [0.5 * (found.by_class[label] + found.by_class[j]) for j in range(CLASSES) if j != label]
        gaps = [0.5 * (clean.logits[label] - clean.logits[j]) for j in range(CLASSES) if j != label]
        np.testing.assert_allclose(found.two_class, max(sides), rtol=1e-5)
        assert found.certified == all(side < gap for side, gap in zip(sides, gaps, strict=True))
        if found.certified:  # Proposition 1: then the margins hold, too
            assert np.all(jax.vmap(explain)(points).logits.argmax(axis=1) == label)
        assert eps > 0.0 or found.certified


def test_networks_without_bounds_are_named():
    with pytest.raises(NotImplementedError, match="'tanh'"):
        interval_bounds(jnp.tanh, Interval(jnp.zeros(2), jnp.ones(2)))
    for rounded in (lambda x: (4.0 * x).astype(jnp.int32) / 4.0, lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)):
        with pytest.raises(NotImplementedError, match="'convert_element_type'"):
            interval_bounds(rounded, Interval(jnp.zeros(2), jnp.ones(2)))
    for filled in (lambda x: jnp.take(x, jnp.array([0, 7]), mode="fill", fill_value=-5.0), jax.jit(lambda x: -jnp.maximum(x, x[::-1]))):
        with pytest.raises(NotImplementedError, match="no bound is known"):
            interval_bounds(filled, Interval(jnp.zeros(2), jnp.ones(2)))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        box_around(np.array([[[-1.0]]], np.float32), 0.1)
    with pytest.raises(NotImplementedError, match="'mul'"):
        interval_bounds(lambda x: x * x, Interval(jnp.zeros(2), jnp.ones(2)))
    with pytest.raises(ValueError, match="not for"):
        linear_lower_bounds(two_layers, jnp.ones((1, 1)), _Other(0.1), image(0)[:1, :2])


class _Other:
    def __init__(self, eps):
        self.eps = eps


# --- smoothing ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "alpha"), [(0, 5, 0.1), (3, 10, 0.05), (99, 100, 0.001), (1000, 1000, 0.001), (7000, 10_000, 0.001)]
)
def test_clopper_pearson_is_scipys(successes, n, alpha):
    expected = 0.0 if successes == 0 else scipy.stats.beta.ppf(alpha, successes, n - successes + 1)
    np.testing.assert_allclose(clopper_pearson_lower(successes, n, alpha), expected, atol=1e-9)
    with pytest.raises(ValueError, match="a proportion needs"):
        clopper_pearson_lower(n + 1, n, alpha)


def test_radii_of_a_linear_classifier():
    """Its smoothed classifier is itself, and the certified radius tends to the distance from the boundary."""
    w = np.array([3.0, 4.0], np.float32)
    logits = lambda x: jnp.stack([x.reshape(-1) @ w - 3.5, 0.0])
    x, sigma = np.array([0.5, 0.6], np.float32).reshape(1, 2, 1), 0.25  # at distance 0.08 of the boundary
    counts = [np.asarray(noisy_counts(logits, x, jax.random.key(i), sigma=sigma, draws=n)) for i, n in enumerate((100, 200_000))]
    assert counts[1].sum() == 200_000
    found = certified_prediction(*counts, sigma)
    assert found.prediction == 0 and 0.07 < found.radius <= 0.08
    abstained = certified_prediction(np.array([5, 5]), np.array([50, 50]), sigma)
    assert abstained == (-1, 0.0)


def test_certified_overlap_by_hand():
    means, draws, sigma = np.array([0.99, 0.9, 0.3, 0.1, 0.02, 0.0]), 10**6, 0.5
    error = np.sqrt(np.log(2 * 6 / 0.001) / (2 * draws))
    phi = scipy.stats.norm.ppf
    gap = {r: phi(means[r - 1] - error) - phi(means[4 - r] + error) for r in (1, 2)}  # k = 2: the second is 4 - r + 1
    for radius in (0.0, 0.3, 0.5, 2.0):
        expected = max([r for r in (1, 2) if gap[r] > 2 * radius / sigma], default=0)
        assert certified_overlap(means, 2, radius, sigma=sigma, draws=draws) == expected
    assert {certified_overlap(means, 2, radius, sigma=sigma, draws=draws) for radius in (0.3, 0.5, 2.0)} == {2, 1, 0}
    with pytest.raises(ValueError, match="half of the positions"):
        certified_overlap(means, 4, 0.0, sigma=sigma, draws=draws)
    shares = smoothed_top(
        lambda x: x, np.array([0.0, 5.0, 3.0], np.float32).reshape(1, 3, 1), jax.random.key(0), sigma=0.1, draws=50, top=2
    )
    np.testing.assert_allclose(shares, [0.0, 1.0, 1.0])


# --- the measure, and training --------------------------------------------------------------------------------------------------------------

OPTIONS = measure.Options(images=First(6), smoothing_draws=200, radii=(0.0, 0.1), bound_maps=False)


@pytest.fixture(scope="module")
def measured(trained, digits):
    evaluation = Evaluation(trained, digits, (0.0, 0.002, 0.05), 6)
    measure.check(evaluation, OPTIONS)
    return measure.run(evaluation, OPTIONS)


def test_certificates_of_a_trained_network(measured, trained, digits):
    correct = [int(jnp.argmax(trained.network.explain(trained.params, image / np.float32(255)).logits)) for image in digits.images[:6]]
    value = {(r["by"], r["eps"]): r.value for r in measured.records if r.metric == "certified_accuracy"}
    assert value["bounds", 0.0] == np.mean(np.array(correct) == digits.labels[:6])
    assert value["interval", 0.002] <= value["bounds", 0.002] <= value["bounds", 0.0] and value["bounds", 0.05] <= value["bounds", 0.002]
    (smoothed,) = [r for r in measured.records if r.metric == "smoothed_accuracy"]
    assert value["smoothing", 0.1] <= value["smoothing", 0.0] <= smoothed.value
    assert {r["eps"] for r in measured.records if r.metric == "certified_overlap"} == {0.0, 0.1}


def test_what_smoothing_certifies_at_radius_0_is_the_accuracy_of_the_smoothed_classifier(trained, digits):
    """But for the images on which it abstains: within the interval of n images."""
    options = measure.Options(images=First(24), smoothing_draws=1000, selection_draws=10, smoothing_sigma=0.1, radii=(0.0,), bounds=False)
    found = measure.run(Evaluation(trained, digits, (0.0,), 6), options)
    (certain,), (smoothed,) = ([r for r in found.records if r.metric == name] for name in ("certified_accuracy", "smoothed_accuracy"))
    assert smoothed.ci95[0] <= certain.value <= smoothed.value and smoothed.n == 24


def test_no_attack_contradicts_a_certificate(measured, trained, digits):
    for eps in (0.002, 0.05):
        certain = measured.arrays[f"eps {eps:g}/bounds"]
        x, labels = digits.images[:6] / np.float32(255), digits.labels[:6].astype(np.int32)
        found = irob.evaluate(irob.bind(trained.network, trained.params), x, labels, LInf(eps), num_steps=20, restarts=1)
        assert np.all((found.predictions == labels)[certain])
        assert np.all(measured.arrays[f"eps {eps:g}/bounds"] >= measured.arrays[f"eps {eps:g}/interval"])


@pytest.mark.slow
def test_the_interpretation_certifies_the_prediction(trained, digits):
    evaluation = Evaluation(trained, digits, (0.0, 0.002), 6)
    found = measure.run(evaluation, measure.Options(images=First(6), smoothing_sigma=0.0))
    value = {(r["by"], r["eps"]): r.value for r in found.records if r.metric == "certified_accuracy"}
    assert 0.0 < value["interpretation", 0.002] <= value["interpretation", 0.0] == value["bounds", 0.0]
    bound = {r["eps"]: r.value for r in found.records if r.metric == "discrepancy_bound"}
    assert bound[0.0] == pytest.approx(0.0, abs=1e-4) and bound[0.002] > 0.0


def test_what_has_no_bounds_is_refused(trained, digits):
    tanh = irob.models.from_function(lambda params, x: jnp.tanh(x.reshape(-1)[:10]), lambda seed: {"w": np.zeros(1)}, (28, 28, 1), 10)
    model = trained._replace(network=tanh, params={"w": np.zeros(1)})
    with pytest.raises(UserError, match=r"'tanh'.*--bounds=false"):
        measure.check(Evaluation(model, digits, (0.1,)), measure.Options(map=("saliency",)))
    with pytest.raises(UserError, match="nothing is to be certified"):
        measure.check(Evaluation(trained, digits, (0.1,)), measure.Options(bounds=False, smoothing_sigma=0.0))
    with pytest.raises(UserError, match="bounds need an eps > 0"):
        measure.check(Evaluation(trained, digits, (0.0,)), OPTIONS)


def test_losses_at_the_worst_logits():
    """On two layers, with the bounds of `test_two_layers_by_hand` and one logit fixed at 0."""
    explain = lambda x: irob.Explanation(jnp.zeros((1, 1, 2)), jnp.concatenate([two_layers(x), jnp.zeros(1)]))
    x = np.array([0.4, 0.5], np.float32).reshape(1, 2, 1)
    center, radius = W1 @ [0.4, 0.5] + B1, np.abs(W1) @ [0.1, 0.1]
    low, high = np.maximum(center - radius, 0), np.maximum(center + radius, 0)
    clean = np.log1p(np.exp(-(np.maximum(center, 0) @ [1.0, -1.0])))
    by_intervals, by_lines = low[0] - high[1], -0.85
    rows = {"ibp": by_intervals, "crown_ibp": 0.5 * (by_intervals + by_lines)}
    for (name, margin), share in zip(rows.items(), (0.5, 0.0), strict=True):
        defense = irob.DEFENSES[name]()
        x_adv = x + 0.1
        expected = share * clean + (1.0 - share) * np.log1p(np.exp(-margin))
        np.testing.assert_allclose(defense.outer(explain, x, x_adv, 0), expected, rtol=1e-5)
        pushed = defense.inner(explain, x, 0)
        slopes = jax.grad(pushed)(x)
        np.testing.assert_array_equal(np.sign(slopes), np.where(x < 0.5, 1.0, -1.0))
