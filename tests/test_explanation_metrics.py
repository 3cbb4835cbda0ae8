"""Metrics of explanations against their definitions in NumPy, and on models whose right answer is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

import irob
from irob.metrics import explanations as ex

KEY = jax.random.key(3)
X = np.random.default_rng(0).uniform(0.3, 0.7, size=(4, 5, 2)).astype(np.float32)
W = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
A = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)  # a map that has nothing to do with a score
BLACK, GRAY = np.zeros_like(X), np.full_like(X, 0.4)
linear = lambda z: jnp.sum(W * z)
curved = lambda z, xp=jnp: xp.sum(xp.sin(3 * W * z)) + 0.2 * xp.sum(W * z) ** 2
curved_map = lambda z, xp=jnp: xp.cos(3 * W * z) + z**2 * xp.sum(z)
curved64 = lambda z: curved(np.asarray(z, np.float64), np)
map64 = lambda z: curved_map(np.asarray(z, np.float64), np)
cube = lambda k: jax.random.uniform(k, X.shape, jnp.float32, -1.0, 1.0)
normal = lambda k: jax.random.normal(k, X.shape)
moves = lambda draw, size, draws: [size * np.asarray(draw(k), float) for k in jax.random.split(KEY, draws)]
norm = lambda v: np.sqrt(np.sum(np.asarray(v, float) ** 2))
correlation = lambda a, b: np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]
rank_correlation = lambda a, b: scipy.stats.spearmanr(np.ravel(a), np.ravel(b)).statistic


def close(found, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=rtol, atol=atol), found, expected)


def test_positions_by_hand():
    close(ex.on_positions(W, (4, 5)), W.sum(-1))
    up = np.array([0.0, 0.25, 0.75, 1.0])  # of 0, 1, with pixels as squares
    corners = np.array([[[0.0], [1.0]], [[2.0], [3.0]]], np.float32)
    close(ex.on_positions(corners, (4, 4)), 2 * up[:, None] + up)
    assert ex.replaced(BLACK[:1, :2], np.array([[True, False]]), BLACK[:1, :2] + 3).tolist() == [[[3, 3], [0, 0]]]
    # of equal attributions the earlier position is first
    assert ex.order_of(np.array([[2.0, 5.0, 2.0], [7.0, -1.0, 5.0]], np.float32)).tolist() == [[3, 1, 4], [0, 5, 2]]


def test_what_the_attributions_do_not_add_up_to():
    change = curved64(X) - curved64(GRAY)
    close(ex.completeness_gap(curved, X, GRAY, W), ex.Completeness(W.sum() - change, abs((W.sum() - change) / change)))
    assert abs(ex.completeness_gap(linear, X, BLACK, W * X).gap) < 1e-5
    nothing = ex.completeness_gap(curved, X, X, W)
    close(nothing.gap, W.sum())
    assert np.isnan(nothing.relative)


@pytest.mark.parametrize("subset", [1, 7])
def test_faithfulness_correlation_subset_by_subset(subset):
    sums, drops = [], []
    for key in jax.random.split(KEY, 30):
        chosen = np.argsort(np.argsort(np.asarray(jax.random.bits(key, (4, 5))).ravel())).reshape(4, 5) < subset
        assert chosen.sum() == subset
        sums.append(A[chosen].astype(float).sum())
        drops.append(curved64(X) - curved64(np.where(chosen[..., None], GRAY, X)))
    close(ex.faithfulness_correlation(curved, X, GRAY, A, KEY, subset=subset, runs=30), correlation(sums, drops))


def test_gradient_x_input_of_a_linear_score_is_faithful_and_what_is_constant_is_not_correlated():
    attribution = (W * X).sum(-1)
    for metric, sign in ((attribution, 1.0), (-2 * attribution, -1.0)):
        close(ex.faithfulness_correlation(linear, X, BLACK, metric, KEY, subset=6), sign)
    close(ex.sensitivity_n(linear, X, BLACK, attribution, steps=20), 1.0)
    close(ex.faithfulness_correlation(linear, X, GRAY, (W * (X - GRAY)).sum(-1), KEY, subset=6), 1.0)
    assert ex.faithfulness_correlation(linear, X, GRAY, attribution, KEY, subset=6) < 0.99
    for baseline, attribution, subset in ((BLACK, A, 20), (X, A, 3), (BLACK, 0 * A, 3)):
        assert np.isnan(ex.faithfulness_correlation(curved, X, baseline, attribution, KEY, subset=subset, runs=5))


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_the_curve_flips_position_after_position(steps):
    order, expected = np.argsort(-A.ravel()), []
    for step in range(steps + 1):
        image = X.reshape(20, 2).copy()
        image[order[: round(step * 20 / steps)]] = 0.4
        expected.append(curved64(image.reshape(X.shape)))
    found = ex.replacement_curve(curved, X, GRAY, A, steps=steps)
    close(found, expected)
    close(ex.replacement_curve(curved, GRAY, X, -A, steps=steps)[::-1], expected)  # insertion, least important first, backwards
    close(ex.area_under(found), np.trapezoid(expected) / steps)


@pytest.mark.parametrize(("steps", "part", "last"), [(20, 0.8, 16), (10, 0.5, 5), (10, 1.0, 10)])
def test_sensitivity_n_along_the_curve(steps, part, last):
    order = np.argsort(-A.ravel())
    taken = [order[: step * 20 // steps] for step in range(1, last + 1)]
    drops = [curved64(X) - curved64(np.where(np.isin(np.arange(20), t).reshape(4, 5, 1), GRAY, X)) for t in taken]
    sums = [A.ravel()[t].astype(float).sum() for t in taken]
    close(ex.sensitivity_n(curved, X, GRAY, A, steps=steps, part=part), correlation(sums, drops))


@pytest.mark.parametrize("patch", [1, 2])
def test_monotonicity_patch_by_patch(patch):
    """Of five columns the last one is left over by patches of two."""
    sizes, changes, places = [], [], list(itertools.product(range(4 // patch), range(5 // patch)))
    for place, (i, j) in enumerate(places):
        rows, columns = (slice(k * patch, (k + 1) * patch) for k in (i, j))
        sizes.append(abs(A[rows, columns].astype(float).sum()))
        squares = []
        for key in jax.random.split(jax.random.fold_in(KEY, place), 10):
            image = X.copy()
            image[rows, columns] = jax.random.uniform(key, X.shape)[rows, columns]
            squares.append((curved64(image) - curved64(X)) ** 2)
        changes.append(np.mean(squares))
    close(ex.monotonicity_correlation(curved, X, A, KEY, patch=patch, draws=10), rank_correlation(sizes, changes))
    weights = np.array([[1.0, -2.0, 4.0], [-8.0, 16.0, 0.0]], np.float32)  # on gray the mean squared change is w^2 / 12
    of_weights = lambda z: jnp.sum(weights[..., None] * z)
    close(ex.monotonicity_correlation(of_weights, np.full((2, 3, 1), 0.5, np.float32), weights, KEY, draws=50), 1.0)


@pytest.mark.parametrize("attribution", [W, A[..., None], BLACK], ids=["channels", "one channel", "none"])
def test_infidelity_draw_by_draw(attribution):
    predicted, drops = np.transpose([(np.sum(n * attribution), curved64(X) - curved64(X - n)) for n in moves(normal, 0.2, 40)])
    beta = np.linalg.lstsq(predicted[:, None], drops, rcond=None)[0][0]
    expected = ex.Infidelity(np.mean((predicted - drops) ** 2), np.mean((beta * predicted - drops) ** 2))
    close(ex.infidelity(curved, X, attribution, KEY, draws=40), expected, rtol=1e-3)


def test_infidelity_of_the_gradient_of_a_linear_score():
    close(ex.infidelity(linear, X, W, KEY), ex.Infidelity(0.0, 0.0))
    scaled = ex.infidelity(linear, X, 3 * W, KEY, draws=2000)
    close(scaled.value, 4 * 0.04 * np.sum(W**2), rtol=0.15)  # E <I, 2 W>^2
    close(scaled.normalized, 0.0)


@pytest.mark.parametrize(("positions", "fraction"), [(0, -0.1), (21, 1.0), (21, np.nan)])
def test_numbers_of_positions_that_there_are_not(unchecked, positions, fraction):
    with pytest.raises(ValueError, match=r"1\.\.20"):
        ex.faithfulness_correlation(curved, X, BLACK, A, KEY, subset=positions)
    for curve in (ex.replacement_curve, ex.sensitivity_n):
        with pytest.raises(ValueError, match=r"1\.\.20"):
            curve(curved, X, BLACK, A, steps=positions)
    with pytest.raises(ValueError, match="fractions"):
        ex.road_curve(curved, X, A, KEY, fractions=(0.5, fraction))


def imputed(x, missing):
    """The system written out, and solved as a dense one."""
    number = {place: row for row, place in enumerate(map(tuple, np.argwhere(missing)))}
    system, known = np.zeros((len(number), len(number))), np.zeros((len(number), x.shape[2]))
    for (i, j), row in number.items():
        for di, dj in itertools.product((-1, 0, 1), repeat=2):
            weight, near = {0: 0.0, 1: 1 / 6, 2: 1 / 12}[abs(di) + abs(dj)], (i + di, j + dj)
            if weight and 0 <= near[0] < x.shape[0] and 0 <= near[1] < x.shape[1]:
                system[row, row] += weight
                if near in number:
                    system[row, number[near]] -= weight
                else:
                    known[row] += weight * x[near].astype(float)
    filled = x.astype(float)
    filled[missing] = np.linalg.solve(system, known)
    return filled


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 20, 41])
def test_imputation_against_a_dense_solver(random, channels, count):
    x, missing = random.uniform(size=(6, 7, channels)).astype(np.float32), random.permutation(42).reshape(6, 7) < count
    close(ex.linear_imputation(x, missing, KEY, noise=0.0), imputed(x, missing), atol=1e-4)
    noise = np.where(missing[..., None], 0.1 * jax.random.normal(KEY, x.shape), 0.0)
    close(ex.linear_imputation(x, missing, KEY, noise=0.1), imputed(x, missing) + noise, atol=1e-4)


@pytest.mark.parametrize("size", [5, 6, 20])
def test_what_is_taken_out_of_black_is_black(random, size):
    """As of a digit. A solver that stops by the size of the right side alone, here 0, overflows for some holes."""
    holes = random.uniform(size=(12, size, size)) < np.where(np.arange(12) % 2, 0.5, 0.9)[:, None, None]
    fill = jax.jit(jax.vmap(lambda hole: ex.linear_imputation(hole[..., None].astype(jnp.float32), hole, KEY, noise=0.0)))
    close(fill(holes), np.zeros((12, size, size, 1)), atol=1e-4)


def test_road_by_hand():
    x, order, expected = X[..., :1], np.argsort(-A.ravel()), []
    for count in (0, 6, 18):
        missing = np.isin(np.arange(20), order[:count]).reshape(4, 5)
        noise = 0.01 * jax.random.normal(jax.random.fold_in(KEY, count), x.shape)
        expected.append(np.sum(np.where(missing[..., None], imputed(x, missing) + noise, x) ** 2))
    close(ex.road_curve(lambda z: jnp.sum(z**2), x, A, KEY, fractions=(0.0, 0.3, 0.9)), expected, rtol=1e-3)


def test_sampled_sensitivity_draw_by_draw():
    changes = [norm(map64(X + move) - map64(X)) / norm(map64(X)) for move in moves(cube, 0.1, 12)]
    close(ex.sampled_sensitivity(curved_map, X, KEY, radius=0.1, draws=12), ex.Sampled(max(changes), np.mean(changes)))
    lengths = [norm(move) for move in moves(cube, 0.02, 5)]  # what is black is not clipped, and a black map not divided by
    close(ex.sampled_sensitivity(lambda z: z, BLACK, KEY, draws=5), ex.Sampled(max(lengths), np.mean(lengths)))
    close(ex.relative_change(BLACK, 2 * W), 2 * norm(W))
    close(jax.grad(lambda b: ex.relative_change(W, b))(W), 0 * W)


def of_each(attribute):
    """What the measures of sensitivity say of a map."""
    largest, mean = ex.sampled_sensitivity(attribute, X, KEY, radius=0.1)
    attacked = jax.jit(lambda x: ex.adversarial_sensitivity(attribute, irob.LInf(0.1), x, KEY, num_steps=5).score)(X)
    stability = ex.relative_stability(attribute, lambda z: z[0, 0], X, KEY)
    return [largest, mean, attacked, ex.local_lipschitz(attribute, X, KEY), *stability]


def test_a_constant_gradient_has_no_sensitivity():
    close(of_each(jax.grad(linear)), [0.0] * 6)


@pytest.mark.parametrize("at_x", [False, True])
def test_maps_that_are_not_numbers_are_not_stable(at_x):
    """Neither where the map of the image itself is one, nor where it is not."""
    found = of_each(lambda z: jnp.where(jnp.all(z == X) & at_x, z, jnp.nan))
    assert np.isnan(found[:2] + found[3:]).all() and not found[2] >= 0.0


def test_sensitivity_does_not_depend_on_the_unit_of_the_map():
    """Gradients of a saturated network are as small as that."""
    expected = ex.sampled_sensitivity(curved_map, X, KEY, radius=0.1)
    close(ex.sampled_sensitivity(lambda z: 1e-25 * curved_map(z), X, KEY, radius=0.1), expected, rtol=1e-3)


def test_the_attack_on_a_linear_map_against_all_corners(random):
    x, matrix = np.full((2, 2, 1), 0.5, np.float32), random.normal(size=(3, 4)).astype(np.float32)
    attribute = lambda z: matrix @ jnp.ravel(z)
    clean = norm(attribute(x))
    corners = max(norm(matrix @ np.array(signs)) for signs in itertools.product((-0.1, 0.1), repeat=4)) / clean
    found = ex.adversarial_sensitivity(attribute, irob.LInf(0.1), x, KEY).score
    assert ex.sampled_sensitivity(attribute, x, KEY, radius=0.1, draws=50).largest < found <= corners * (1 + 1e-5)
    close(found, corners, rtol=0.01)  # the change is convex in x, so its largest is at a corner
    result = ex.adversarial_sensitivity(attribute, irob.L2(0.1), x, KEY)
    close(result.score, 0.1 * np.linalg.svd(matrix)[1][0] / clean, rtol=0.01)
    close(result.score, norm(matrix @ np.ravel(result.x_adv - x)) / clean)


def test_the_attack_finds_more_than_random_draws():
    network = irob.create("small", (8, 8, 1), 3).smooth()
    explain, x = network.frozen(network.initial_params(5)), np.random.default_rng(0).uniform(0.3, 0.7, (8, 8, 1)).astype(np.float32)
    attribute = jax.grad(lambda z: explain(z).logits[0])
    sampled = ex.sampled_sensitivity(attribute, x, KEY, radius=0.1, draws=50).largest
    assert ex.adversarial_sensitivity(attribute, irob.LInf(0.1), x, KEY, num_steps=10).score > 1.2 * sampled


def test_a_surrogate_is_ascended_and_the_map_is_scored_where_it_is_allowed():
    steps = lambda z: jnp.floor(20 * z)
    result = ex.adversarial_sensitivity(steps, irob.LInf(0.1), X, KEY, num_steps=5, surrogates=[lambda z: 20 * z])
    close(result.score, norm(steps(result.x_adv) - steps(X)) / norm(steps(X)))
    assert result.score > 0.1 and result.gradients.zero == 0
    attack = lambda allowed: ex.adversarial_sensitivity(curved_map, irob.LInf(0.1), X, KEY, num_steps=10, allowed=allowed)
    assert attack(lambda z: False).score == -np.inf
    free = attack(lambda z: True)
    at = np.unravel_index(np.argmax(np.abs(free.x_adv - X)), X.shape)
    bound = attack(lambda z: jnp.abs(z - X)[at] < 0.09)
    assert np.abs(free.x_adv - X)[at] > 0.09 > np.abs(bound.x_adv - X)[at] and bound.score > 0.5 * free.score


def test_an_attack_never_finds_less_than_the_points_it_draws(random):
    """Not even where what it ascends leads nowhere; and of several surrogates it takes the best."""
    kinks = lambda z: jnp.ravel(jnp.where(z > X + 0.05, 1.0, 0.0) + W)  # no gradient anywhere
    flat, up = lambda z: 0 * jnp.ravel(z), lambda z: jnp.sum(jnp.exp(20 * (z - X)))[None]

    @functools.partial(jax.jit, static_argnames=("surrogates", "draws"))
    def attack(surrogates, draws):
        return ex.adversarial_sensitivity(kinks, irob.LInf(0.1), X, KEY, num_steps=10, draws=draws, surrogates=surrogates)

    key, _, _ = jax.random.split(jax.random.split(KEY, 1)[0], 3)
    corners = [X + 0.1 * np.sign(jax.random.normal(each, X.shape)) for each in jax.random.split(key, 12)]
    best = max(norm(kinks(np.clip(corner, 0, 1)) - kinks(X)) for corner in corners) / norm(kinks(X))
    assert attack((flat,), 12).score >= best * (1 - 1e-6) > 0.0
    both = attack((flat, up), 1)
    close(both.score, norm(kinks(jnp.clip(X + 0.1, 0, 1)) - kinks(X)) / norm(kinks(X)))
    assert both.gradients.taken == 20


def test_local_lipschitz_draw_by_draw():
    scaled = lambda z: map64(z) / np.abs(map64(z)).max()
    ratios = [norm(scaled(X + move) - scaled(X)) / norm(move) for move in moves(normal, 0.1, 12)]
    for factor, expected in ((1, max(ratios)), (-7, max(ratios)), (0, 0.0)):
        close(ex.local_lipschitz(lambda z, factor=factor: factor * curved_map(z), X, KEY, draws=12), expected)


def test_relative_stability_draw_by_draw():
    x, off_zero = X.copy(), lambda v: np.where(v == 0, 1e-6, v)
    x[0, 0] = 0.0
    attribute, of_input, of_output = lambda z: curved_map(z) * (W > 0), [], []
    change = lambda moved: norm((map64(x) - map64(moved)) * (W > 0) / off_zero(map64(x) * (W > 0)))
    for moved in (x + move for move in moves(cube, 0.05, 12) if move[2, 0, 0] < 0):  # which leaves out the largest of both
        of_input.append(change(moved) / norm((x - moved) / off_zero(x)))
        of_output.append(change(moved) / norm(moved[1] ** 2 - x[1].astype(float) ** 2))
    options = {"radius": 0.05, "draws": 12, "allowed": lambda z: z[2, 0, 0] < x[2, 0, 0]}
    found = ex.relative_stability(attribute, lambda z: z[1] ** 2, x, KEY, **options)
    close(found, ex.Stability(max(of_input), max(of_output)), rtol=1e-3, atol=0.0)
    same = ex.relative_stability(attribute, lambda z: z[0] * 0, x, KEY, radius=0.05, draws=12)
    close(same.of_output * 1e-6, max(change(x + move) for move in moves(cube, 0.05, 12)), rtol=1e-3)
    assert same.of_input > 1.1 * found.of_input and max(of_output) > 0.1
    none = ex.relative_stability(attribute, lambda z: z[1], x, KEY, draws=2, allowed=lambda z: False)
    assert np.isnan(none).all()


def test_layers_are_named_from_input_to_output():
    layers = ["conv_0", "conv_2", "conv_10", "Dense_0", "head"]
    assert ex.layer_names(dict.fromkeys(reversed(layers), 0)) == layers
    assert ex.layer_names({"params": dict.fromkeys(layers, 0), "batch_stats": {}}) == layers
    with pytest.raises(ValueError, match="dictionary of layers"):
        ex.layer_names([1, 2])


@pytest.mark.parametrize("nested", [False, True])
def test_the_curve_of_randomization_by_hand(random, nested):
    """A map that is the sum of its layers; the sign of a map does not count. State that is no parameter stays."""
    old, new = ({name: random.normal(size=(3, 4)).astype(np.float32) for name in "abcd"} for _ in range(2))
    tree = lambda groups, state: {"params": groups, "state": np.float32(state)} if nested else groups
    attribute = lambda p: sum((p["params"] if nested else p).values()) * (p["state"] if nested else 1.0) - 1.0
    maps = [sum({**old, **{name: new[name] for name in fresh}}.values()) - 1.0 for fresh in ("", "c", "cb", "cba")]
    expected = [rank_correlation(np.abs(maps[0]), np.abs(each)) for each in maps]
    close(ex.mprt_curve(attribute, tree(old, 1.0), tree(new, 9.0), ["a", "b", "c"]), expected)
    with pytest.raises(ValueError, match="'e'"):
        ex.mprt_curve(attribute, tree(old, 1.0), tree(new, 9.0), ["a", "e"])
    close(ex.mprt_curve(lambda p: p["a"], {"a": A}, {"a": -A}, ["a"]), [1.0, 1.0])
    close(ex.mprt_curve(lambda p: p["a"], {"a": A}, {"a": np.ones_like(A)}, ["a"]), [1.0, np.nan])


def test_a_saliency_map_depends_on_the_parameters_and_edges_do_not(random):
    network, x = irob.create("small", (8, 8, 1), 3), random.uniform(size=(8, 8, 1)).astype(np.float32)
    saliency = jax.jit(lambda params: jax.grad(lambda z: network.explain(params, z).logits[1])(x))
    trained = network.initial_params(0)
    layers = ex.layer_names(trained)
    curves = np.array([ex.mprt_curve(saliency, trained, network.initial_params(seed), layers) for seed in range(1, 9)])
    assert layers == ["conv_0", "conv_1", "conv_2", "head"] and curves.shape == (8, 5) and np.allclose(curves[:, 0], 1.0)
    assert abs(np.mean(curves[:, -1])) < 0.25
    close(ex.mprt_curve(lambda params: jnp.diff(x, axis=0), trained, network.initial_params(1), layers), np.ones(5))


def test_edges_are_scipys_and_maps_are_shared_by_channels():
    close(ex.edges(X)[..., 0], np.hypot(*(scipy.ndimage.sobel(X.mean(-1), axis, mode="nearest") for axis in (0, 1))))
    close(ex.on_pixels_of(A[..., None], X.shape), np.stack([A / 2] * 2, axis=-1))
    close(ex.on_pixels_of(W, X.shape), W)


def test_what_is_made_of_maps_over_noise():
    close(ex.averaged(curved_map, KEY, draws=8)(X), np.mean([map64(X + move) for move in moves(normal, 0.1, 8)], axis=0))
    original = np.array([0.0, 0.0, 0.0, 1.0], np.float32)  # three in the first of all bins, one in the last
    before = scipy.stats.entropy([3, 1])
    close(ex.entropy_rise(original, np.arange(4, dtype=np.float32)), (np.log(4) - before) / before)
    assert np.isnan(ex.entropy_rise(np.ones(4, np.float32), original))


def test_the_other_class_is_never_the_class_itself(random):
    maps, drawn = random.normal(size=(5, 3, 4)).astype(np.float32), set()
    for key in jax.random.split(KEY, 30):
        other = (3 + int(jax.random.randint(key, (), 1, 5))) % 5
        close(ex.random_logit(lambda c: jnp.asarray(maps)[c], jnp.asarray(3), 5, key), rank_correlation(maps[3], maps[other]))
        close(ex.random_logit(lambda c: jnp.stack([A, -A])[c], jnp.asarray(1), 2, key), -1.0)
        drawn.add(other)
    assert drawn == {0, 1, 2, 4}
    close(ex.random_logit(lambda c: A, jnp.asarray(0), 3, KEY), 1.0)


def test_complexity_against_other_forms_of_the_definitions_and_at_its_extremes():
    sizes = np.abs(W).astype(float).ravel()
    close([ex.entropy(W), ex.effective_pixels(W)], [scipy.stats.entropy(sizes), np.exp(scipy.stats.entropy(sizes))])
    close(ex.gini(W), np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean()))  # half the relative mean difference
    close(ex.histogram_entropy(W, bins=9), scipy.stats.entropy(np.histogram(W, 9)[0]))
    close(ex.alignment(W, X), abs(np.sum(W.astype(float) * X)) / norm(W))
    close([ex.alignment(-3 * X, X), ex.alignment(BLACK, X)], [norm(X), 0.0])
    one, all_alike = np.zeros(50, np.float32), np.full(50, -0.3, np.float32)
    one[7] = -4.0
    close([ex.entropy(one), ex.effective_pixels(one), ex.gini(one)], [0.0, 1.0, 1 - 1 / 50])
    close([ex.entropy(all_alike), ex.effective_pixels(all_alike), ex.gini(all_alike)], [np.log(50), 50.0, 0.0])
    assert np.isnan([ex.entropy(0 * one), ex.effective_pixels(0 * one), ex.gini(0 * one), ex.entropy(one * np.nan)]).all()
    close([ex.histogram_entropy(all_alike), ex.histogram_entropy(np.arange(100, dtype=np.float32))], [0.0, np.log(100)])


def test_where_the_map_lies_by_hand():
    attribution = np.array([[3.0, 1.0, 3.0], [-9.0, 2.0, 1.0]], np.float32)
    mask = np.array([[False, True, True], [True, False, False]])
    assert ex.pointing_game(attribution, mask) == 0.0 and ex.pointing_game(attribution, ~mask) == 1.0  # the first of the two 3
    close([ex.relevance_mass(attribution, mask), ex.relevance_mass(attribution, ~mask)], [0.4, 0.6])
    close([ex.relevance_rank(attribution, mask), ex.relevance_rank(attribution, ~mask)], [1 / 3, 2 / 3])  # of 3, 3, 2
    assert np.isnan(ex.relevance_mass(-np.abs(attribution), mask)) and np.isnan(ex.relevance_rank(attribution, mask & ~mask))
    unknown = np.where(mask, np.nan, attribution)
    assert all(np.isnan(metric(unknown, mask)) for metric in (ex.pointing_game, ex.relevance_mass, ex.relevance_rank))
    nowhere = np.full(X.shape[:2], np.nan, np.float32)
    assert np.isnan(ex.replacement_curve(jnp.sum, X, 0 * X, nowhere, steps=2)).all()
    assert np.isnan(ex.road_curve(jnp.sum, X, nowhere, KEY, fractions=(0.3,))).all()


COMPILED = {
    "completeness": lambda x, a, key: ex.completeness_gap(curved, x, GRAY, a),
    "faithfulness": lambda x, a, key: ex.faithfulness_correlation(curved, x, GRAY, a, key, subset=5, runs=10),
    "curve": lambda x, a, key: ex.area_under(ex.replacement_curve(curved, x, GRAY, a, steps=6)),
    "sensitivity_n": lambda x, a, key: ex.sensitivity_n(curved, x, GRAY, a, steps=10),
    "monotonicity": lambda x, a, key: ex.monotonicity_correlation(curved, x, a, key, draws=5),
    "infidelity": lambda x, a, key: ex.infidelity(curved, x, a[..., None], key, draws=5),
    "road": lambda x, a, key: ex.road_curve(lambda z: curved(z * jnp.ones(2)), x[..., :1], a, key),
    "sampled": lambda x, a, key: ex.sampled_sensitivity(curved_map, x, key, draws=5),
    "adversarial": lambda x, a, key: ex.adversarial_sensitivity(curved_map, irob.LInf(0.1), x, key, num_steps=5).score,
    "lipschitz": lambda x, a, key: ex.local_lipschitz(curved_map, x, key, draws=5),
    "stability": lambda x, a, key: ex.relative_stability(curved_map, lambda z: z[0], x, key, draws=9, allowed=lambda z: z[1, 1, 1] > 0.3),
    "mprt": lambda x, a, key: ex.mprt_curve(lambda p: curved_map(p["a"] * x), {"a": X}, {"a": W}, ["a"]),
    "smprt, emprt": lambda x, a, key: (ex.averaged(curved_map, key, draws=3)(x), ex.entropy_rise(x, a)),
    "random logit": lambda x, a, key: ex.random_logit(lambda c: x[c], jnp.argmax(a[0]) % 4, 4, key),
    "complexity": lambda x, a, key: (ex.effective_pixels(a), ex.gini(a), ex.alignment(x * W, x)),
    "localization": lambda x, a, key: [f(a, x[..., 0] > 0.5) for f in (ex.pointing_game, ex.relevance_mass, ex.relevance_rank)],
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_batch_has_the_numbers_of_each_image(random, name):
    x, a = random.uniform(0.3, 0.7, size=(3, *X.shape)).astype(np.float32), random.normal(size=(3, 4, 5)).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    each = [COMPILED[name](*arguments) for arguments in zip(x, a, keys, strict=True)]
    found = jax.jit(jax.vmap(COMPILED[name]))(x, a, keys)
    close(found, jax.tree.map(lambda *parts: np.stack(parts), *each), rtol=1e-3, atol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
