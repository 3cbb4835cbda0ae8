"""Attacks on maps: damages and demands by hand, optima in closed form, and the measure against its parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import map_attacks
from experiments.reports.entries import Entry
from experiments.runtime.errors import UserError
from irob.attacks import MAP_ATTACKS, Given, LInf, best_of_pgd, constant_steps, copying, keeps, leaves, map_attack, on_maps, reaches
from irob.maps import BETAS, OwnGradients, frozen, map_of_class

LOGITS = np.array([1.0, 3.0, 2.5], np.float32)


def channels(x):
    """A network whose maps are the channels of the image."""
    return irob.Explanation(x, jnp.mean(x, axis=(0, 1)))


def climb(x, eps, steps=60):
    return functools.partial(best_of_pgd, ball=LInf(eps), x=x, step_sizes=constant_steps(eps / 10, steps))


def test_demands_are_negative_where_they_are_fulfilled():
    assert keeps(1)(LOGITS) == -0.5 and leaves(1)(LOGITS) == 0.5
    assert keeps(2)(LOGITS) == 0.5 and leaves(2)(LOGITS) == -0.5
    assert reaches(1)(LOGITS) == -0.5 and reaches(0)(LOGITS) == 2.0


def test_damages_by_hand():
    clean = np.array([[4.0, 0.0], [0.0, 0.0]], np.float32)[..., None]
    moved = np.array([[1.0, 0.0], [0.0, -3.0]], np.float32)[..., None]
    assert on_maps.away(clean)(moved) == 18.0 and copying(clean)(moved) == -18.0
    np.testing.assert_allclose(on_maps.center_of_mass(moved), [0.75, 0.75])
    np.testing.assert_allclose(on_maps.mass_center(clean)(moved), 2 * 0.75**2)
    np.testing.assert_allclose(on_maps.region(np.array([[False, False], [True, True]]))(moved), 0.75)
    np.testing.assert_array_equal(on_maps.emptiest_quarter(clean), [[False, True], [False, False]])  # of equal ones the first
    np.testing.assert_array_equal(on_maps.emptiest_quarter(np.ones((3, 3, 1), np.float32)), np.indices((3, 3)).min(axis=0) == 2)
    assert on_maps.top_k_mass(clean, 0, 1)(moved) == -1.0


def test_a_given_map_is_reached_as_far_as_the_ball_allows(random):
    x = random.uniform(0.4, 0.6, (2, 3, 2)).astype(np.float32)
    wanted = random.uniform(0.0, 1.0, (2, 3, 2)).astype(np.float32)
    found = map_attack(channels, copying(wanted), climb(x, 0.1))
    np.testing.assert_allclose(found.x_adv, np.clip(wanted, x - 0.1, x + 0.1), atol=0.011)
    np.testing.assert_allclose(found.score, -np.sum((np.asarray(found.x_adv) - wanted) ** 2), rtol=1e-5)


def test_the_demand_comes_before_the_damage(random):
    """Copying a map of the other class stops at the boundary; hiding goes beyond it, and no further than it must."""
    x = np.stack([np.full((2, 2), 0.55), np.full((2, 2), 0.5)], axis=-1).astype(np.float32)
    copied = map_attack(channels, copying(x[..., ::-1]), climb(x, 0.1), keeps(0))
    logits = np.asarray(channels(copied.x_adv).logits)
    assert 0.0 < logits[0] - logits[1] < 0.02
    joint = map_attack(channels, copying(x), climb(x, 0.1), leaves(0))
    logits = np.asarray(channels(joint.x_adv).logits)
    assert 0.0 < logits[1] - logits[0] < 0.02
    closest = np.stack([np.full((2, 2), 0.525)] * 2, axis=-1)  # the nearest maps of equal logits
    np.testing.assert_allclose(joint.x_adv, closest, atol=0.011)
    impossible = map_attack(channels, copying(x), climb(x, 0.01), leaves(0))
    assert impossible.score == -np.inf


@pytest.mark.parametrize("name", MAP_ATTACKS)
def test_each_attack_by_name_does_its_damage(name, trained, digits):
    """More than random points of the ball do, of those that fulfill the demand."""
    network, params = trained.network, trained.params
    x, next_x = (digits.images[:2] / np.float32(255)).astype(np.float32)
    row = MAP_ATTACKS[name]
    second, label = (int(c) for c in np.argsort(network.explain(params, x).logits)[-2:])
    shown = second if row.of_target else label
    explain = jax.jit(
        lambda z: irob.Explanation(network.explain(params, z).maps[..., shown : shown + 1], network.explain(params, z).logits)
    )
    clean, other = (network.explain(params, z).maps[..., label : label + 1] for z in (x, next_x))
    damage, must, ball = row.damage(Given(clean, other, 8)), keeps(shown), LInf(0.2)
    found = jax.jit(
        lambda: map_attack(
            explain, damage, functools.partial(irob.attacks.PGD(), ball=ball, x=x, key=jax.random.key(0), num_steps=60), must
        )
    )()
    random = [explain(ball.random_point(key, x)) for key in jax.random.split(jax.random.key(1), 50)]
    reached = [float(damage(each.maps)) for each in random if must(each.logits) < 0]
    assert found.score > max(reached, default=-np.inf)
    np.testing.assert_allclose(found.score, damage(explain(found.x_adv).maps), rtol=1e-3)
    assert must(explain(found.x_adv).logits) < 0


OPTIONS = map_attacks.Options(images=First(6), map=("cam",), num_steps=20)


@pytest.fixture(scope="module")
def measured(trained, digits):
    return map_attacks.run(Evaluation(trained, digits, (0.0, 0.1), 6), OPTIONS)


def test_the_measure_agrees_with_scipy(measured):
    import scipy.stats

    reached = measured.arrays["cam/away/eps 0.1/maps"]
    clean = measured.arrays["cam/clean"]
    for i in range(map_attacks.SHOWN):
        expected = scipy.stats.spearmanr(clean[i].ravel(), reached[i].ravel()).statistic
        np.testing.assert_allclose(measured.arrays["cam/away/eps 0.1/spearman"][i], expected, atol=1e-4)
    record = next(r for r in measured.records if r.has(metric="spearman", attack="away"))
    assert record["versus"] == "clean" and record.n == 6
    assert record.value == pytest.approx(measured.arrays["cam/away/eps 0.1/spearman"].mean(), abs=1e-6)
    assert {r["versus"] for r in measured.records if r.get("attack") == "manipulation" and r.metric != "fulfilled"} == {"copied"}
    np.testing.assert_array_equal(measured.arrays["cam/copied"][0], measured.arrays["cam/clean"][1])


def test_what_is_ascended_is_judged_by_the_networks_own_map(trained, digits):
    """Of maps on the pixels each restart ascends another softplus network; positions are those of the network's own map."""
    network, params = trained.network, trained.params
    options = map_attacks.Options(images=First(2), map=("saliency",), num_steps=2, k=20, map_attacks=("top_k", "region", "manipulation"))
    evaluation = Evaluation(trained, digits, (0.1,), 2)
    indices = evaluation.indices(options.images)
    found = map_attacks.run(evaluation, options)
    images = (digits.images[:2] / np.float32(255)).astype(np.float32)

    def own_of(x, z):
        attribute = map_of_class("saliency", OwnGradients(network), frozen(params), jnp.argmax(network.explain(params, x).logits))
        return jnp.sum(attribute(z), axis=-1, keepdims=True)

    own = [own_of(x, x) for x in images]
    for i in range(2):
        np.testing.assert_allclose(found.arrays["saliency/clean"][i], own[i], atol=1e-5)
        np.testing.assert_allclose(found.arrays["saliency/copied"][i], own[1 - i], atol=1e-5)
    for name in options.map_attacks:
        specs = [map_attacks.AttackOnMap("linf", "saliency", options.map_attacks, options.k, 2, beta) for beta in BETAS]
        cleans = [
            evaluation.map_examples("clean", map_attacks.clean_maps_check, spec, (evaluation.random_key(0),), indices) for spec in specs
        ]
        assert not np.allclose(cleans[0]["ascended"], cleans[1]["ascended"]) and np.array_equal(cleans[0]["map"], cleans[1]["map"])
        ways = [
            (spec, tuple(np.roll(clean[key], -1, axis=0) for key in ("ascended", "map"))) for spec, clean in zip(specs, cleans, strict=True)
        ]
        best = map_attacks.best_of_restarts(evaluation, options, name, 0.1, indices, ways)
        for i in np.flatnonzero(best["fulfilled"]):
            damage = MAP_ATTACKS[name].damage(Given(own[i], own[1 - i], options.k))
            np.testing.assert_allclose(best["score"][i], damage(best["maps"][i]), rtol=1e-3, atol=1e-5)
            assert best["score"][i] >= damage(own[i]) - 1e-5
        assert best["fulfilled"].all()


def test_positions_are_those_of_the_map_that_ranks_them():
    """A map with all its mass in the upper left, by the positions of one with all of it in the lower right, and by its own."""
    lower_right, upper_left = (jnp.zeros((4, 4, 1)).at[i, i].set(1.0) for i in (3, 0))
    for name, ranked, own in (("top_k", 0.0, -1.0), ("region", 1.0, 0.0)):
        damages = [
            MAP_ATTACKS[name].damage(given)(upper_left)
            for given in (Given(upper_left, upper_left, 1, ranked=lower_right), Given(upper_left, upper_left, 1))
        ]
        assert [float(damage) for damage in damages] == pytest.approx([ranked, own], abs=1e-6), name


def test_joint_shows_the_clean_map_for_another_class(measured, trained, digits):
    """What is compared is the map of the class that is predicted now, the one with the second largest logit of x."""
    network, params = trained.network, trained.params
    near = map_attacks.run(Evaluation(trained, digits, (0.001,), 6), dataclasses.replace(OPTIONS, map_attacks=("joint",)))
    assert measured.arrays["cam/joint/eps 0.1/fulfilled"].any() and not near.arrays["cam/joint/eps 0.001/fulfilled"].any()
    for i in range(map_attacks.SHOWN):
        found = network.explain(params, (digits.images[i] / np.float32(255)).astype(np.float32))
        first, second = np.argsort(-np.asarray(found.logits))[:2]
        assert measured.arrays["cam/joint/eps 0.1/shown"][i] == second and measured.arrays["cam/away/eps 0.1/shown"][i] == first
        np.testing.assert_allclose(measured.arrays["cam/clean"][i][..., 0], found.maps[..., first], atol=1e-4)
        # Where the target is not reached x itself is shown, by the map of the target.
        np.testing.assert_allclose(near.arrays["cam/joint/eps 0.001/maps"][i][..., 0], found.maps[..., second], atol=1e-4)
    rows = [r for r in measured.records if r.get("attack") == "joint"]
    assert {r["versus"] for r in rows if r.metric != "fulfilled"} == {"clean"}


def test_the_score_may_be_of_another_map_than_what_is_ascended():
    """The damage of the last iterate is the largest, the score that of the judge, which peaks on the way."""
    x = jnp.full((1, 1, 2), 0.5)
    judged = lambda z: -jnp.abs(z[0, 0, 0] - 0.62)
    found = map_attack(channels, lambda maps: maps[0, 0, 0], climb(x, 0.3), None, judged)
    assert float(found.x_adv[0, 0, 0]) == pytest.approx(0.62, abs=0.02)
    np.testing.assert_allclose(found.score, judged(found.x_adv))


class OneSoftplus:
    """A network whose softplus form has no beta."""

    def __init__(self, network):
        self.network = network

    def __getattr__(self, name):
        return getattr(self.network, name)

    def smooth(self):
        return self.network.smooth()


def test_what_cannot_be_attacked_is_refused_before(trained, digits):
    with pytest.raises(UserError, match="manipulation copies the map of the next image"):
        map_attacks.check(Evaluation(trained, digits, (0.1,)), dataclasses.replace(OPTIONS, images=First(1)))
    evaluation = Evaluation(trained._replace(network=OneSoftplus(trained.network)), digits, (0.1,))
    map_attacks.check(evaluation, OPTIONS)  # class activation maps need none
    with pytest.raises(UserError, match=r"needs network\.smooth\(beta\)"):
        map_attacks.check(evaluation, dataclasses.replace(OPTIONS, map=("saliency",)))
    alone = dataclasses.replace(OPTIONS, map=("saliency",), restarts=1)
    map_attacks.check(evaluation, alone)  # beta 1 alone
    assert "with beta 1 in turn" in map_attacks.describe(alone)


def test_maps_too_small_for_the_windows_of_ssim():
    a, b = np.random.default_rng(0).uniform(size=(2, 5, 4)).astype(np.float32)
    assert np.isnan(map_attacks.structure(a[:2, :2], b[:2, :2])) and map_attacks.structure(a[:4, :4], a[:4, :4]) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_measure_does_not_depend_on_the_batch(measured, trained, digits):
    again = map_attacks.run(Evaluation(trained, digits, (0.1,), 4), OPTIONS)
    for key, value in again.arrays.items():
        np.testing.assert_allclose(value, measured.arrays[key], atol=2e-2, err_msg=key)


def test_the_report_of_the_measure(measured, trained):
    from experiments.reports.results import MeasureInfo, Result

    records = [map_attacks.Record("map_attacks", r.metric, r.n, r.value, r.ci95, r.settings) for r in measured.records]
    result = Result("int", "digits", "standard", 0, {"map_attacks": MeasureInfo(6, "", {})}, records, {"name": "digits"}, {})
    entry = Entry("int", result, measured.arrays)
    (table,) = map_attacks.tables("Attacks", [entry])
    assert len(table.rows) == len(MAP_ATTACKS) and all(len(row) == len(table.header) for row in table.rows)
    (picture,) = map_attacks.pictures([entry], list("0123456789"))
    assert picture.name == "map_attacks_int_standard_cam" and "eps 0.1" in picture.caption


def test_what_is_refused(trained, digits):
    evaluation = Evaluation(trained, digits, (0.0,))
    with pytest.raises(UserError, match="needs an eps > 0"):
        map_attacks.check(evaluation, OPTIONS)
    with pytest.raises(UserError, match="--k=50"):
        map_attacks.check(Evaluation(trained, digits, (0.1,)), map_attacks.Options(map=("cam",), k=50))
