"""Networks and objectives without gradients: an attack that had nothing to go by says so, and what withstands it is not called robust in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.configs import base
from experiments.evaluation import sneaking_checks
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import aai, autoattack, pgd, unforeseen
from experiments.evaluation.run import choose_measures, run_measures
from experiments.reports import tables
from experiments.reports.entries import Entry
from experiments.reports.strongest import masked_gradients
from experiments.runtime.errors import UserError
from experiments.training.loop import train
from experiments.training.validation import validation_scores
from irob.attacks import APGD, ATTACKS, GradientCounts, Square, Stage, ensembles

X = np.full((2, 2, 1), 0.5, np.float32)
SIZES = irob.constant_steps(0.1, 4)
OBJECTIVES = {  # with the number of 4 gradients from X itself that are zero, and that are not finite
    "constant": (lambda z: 0.0 * jnp.sum(z), 4, 0),
    "stop_gradient": (lambda z: jnp.sum(jax.lax.stop_gradient(z)), 4, 0),
    "rounded": (lambda z: jnp.sum(jnp.round(8.0 * z)), 4, 0),
    "not finite": (lambda z: jnp.sum(z) * jnp.nan, 0, 4),
    "norm at its center": (lambda z: jnp.linalg.norm(z - X), 0, 4),
    "discrepancy at its center": (lambda z: jnp.sum((z - X) ** 2), 4, 0),
    "not finite later": (lambda z: jnp.sum(jnp.where(z > 0.65, jnp.sqrt(0.65 - z), z)), 0, 2),
    "fine": (jnp.sum, 0, 0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("attack", [irob.best_of_pgd, irob.attacks.last_of_pgd])
def test_gradients_are_counted_and_images_stay_finite(attack, name):
    objective, zero, nonfinite = OBJECTIVES[name]
    run = lambda x: attack(lambda z: (objective(z), jnp.zeros(())), irob.LInf(0.3), x, step_sizes=SIZES)
    found = jax.jit(jax.vmap(run))(np.stack([X] * 9))
    np.testing.assert_array_equal(found.gradients, np.full((3, 9), [[4], [zero], [nonfinite]]))
    np.testing.assert_array_equal(found.gradients.useless(), np.full(9, zero + nonfinite == 4))
    assert np.all(np.isfinite(found.x_adv))
    np.testing.assert_array_equal(jax.vmap(lambda one: one.finite())(found), np.full(9, nonfinite < 4))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_calls_outside_of_jit_warn(name):
    objective, zero, nonfinite = OBJECTIVES[name]
    calls = [
        lambda: irob.pgd(objective, irob.LInf(0.3), X, step_sizes=SIZES),
        lambda: irob.best_of_pgd(lambda z: (objective(z), objective(z)), irob.LInf(0.3), X, step_sizes=SIZES).x_adv,
    ]
    for call in calls:
        if zero + nonfinite == 4:
            with pytest.warns(UserWarning, match=rf"none of the 4 gradients .* \({zero} zero everywhere, {nonfinite} not finite\)"):
                np.testing.assert_array_equal(call(), X)
        else:
            assert np.all(np.isfinite(call()))


def test_an_attack_that_does_not_count_is_not_useless():
    assert not irob.attacks.AttackResult(X, 0.0).gradients.useless() and irob.attacks.AttackResult(X, 0.0).finite()
    assert not irob.attacks.AttackResult(X * np.nan, 0.0).finite()
    three = GradientCounts().with_one(X).with_one(0 * X).with_one(np.nan * X)
    assert tuple(map(int, three)) == (3, 1, 1) and not three.useless()


def stopped(x):
    return jnp.stack([jnp.mean(jax.lax.stop_gradient(x)), 0.5])


def rounded(x):
    return jnp.stack([jnp.mean(jnp.round(4.0 * x) / 4.0), 0.5])


@pytest.mark.parametrize("classifier", [stopped, rounded])
def test_evaluate_in_a_notebook(classifier):
    images = np.array([0.56, 0.6, 0.3], np.float32).reshape(3, 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
    labels = np.array([0, 0, 0])
    with pytest.warns(UserWarning, match=r"\d of the \d images that count as robust were attacked without a gradient"):
        found = irob.evaluate(classifier, images, labels, irob.LInf(0.01), num_steps=3, restarts=1)
    np.testing.assert_array_equal(found.without_gradient, found.predictions == labels)
    honest = irob.evaluate(lambda x: jnp.stack([jnp.mean(x), 0.5]), images, labels, irob.LInf(0.01), num_steps=3, restarts=1)
    assert not honest.without_gradient.any()


def made_of(trained, change):
    """The trained model with other logits."""
    network = irob.models.from_function(
        lambda params, x: change(lambda x: trained.network.explain(params, x).logits, x), lambda seed: trained.params, (28, 28, 1), 10
    )
    return trained._replace(name="hidden", network=network)


HIDDEN = {
    "stop_gradient": lambda f, x: f(jax.lax.stop_gradient(x)),
    "rounding": lambda f, x: f(jnp.round(x * 16.0) / 16.0),
}
SHORT = {
    "pgd": (pgd.MEASURE, pgd.Options(images=First(6), restarts=1, steps=(3,), queries=0)),
    "unforeseen": (unforeseen.MEASURE, unforeseen.Options(images=First(6), unforeseen_attacks=("jpeg_linf",), num_steps=2)),
}


@pytest.mark.parametrize("measure", SHORT)
@pytest.mark.parametrize("name", HIDDEN)
def test_measures_say_how_many_images_withstood_nothing(name, measure, trained, digits, capsys):
    model = made_of(trained, HIDDEN[name])
    result, _ = run_measures(Evaluation(model, digits, (0.0, 0.1)), {measure: SHORT[measure]})
    records = [record for record in result.records if record.metric == "robust_accuracy"]
    assert records and all(record.get("without_gradient", 0) == round(record.value * record.n) for record in records)
    assert any(record.get("without_gradient") for record in records)
    assert f"warning: {measure}, eps " in capsys.readouterr().err
    assert "Not to be trusted: hidden" in tables.coverage([Entry("hidden", result, {})])[0]
    honest, _ = run_measures(Evaluation(trained, digits, (0.0, 0.1)), {measure: SHORT[measure]})
    assert not any(record.get("without_gradient", 0) for record in honest.records)
    assert not tables.coverage([Entry("trained", honest, {})])


@pytest.mark.parametrize("name", HIDDEN)
def test_random_search_needs_no_gradient(name, trained, digits):
    chosen = {"pgd": (pgd.MEASURE, pgd.Options(images=First(12), restarts=1, steps=(3,), queries=300))}
    result, _ = run_measures(Evaluation(made_of(trained, HIDDEN[name]), digits, (0.0, 0.1)), chosen)
    (clean,), (attacked,) = ([r for r in result.records if r.metric == metric] for metric in ("clean_accuracy", "robust_accuracy"))
    assert attacked["white_box"] == clean.value > 0.5 and attacked.value <= 1 / 12
    (note,) = masked_gradients([Entry("hidden", result, {})])
    assert "a sign of masked gradients" in note


@pytest.mark.parametrize("measure", ["pgd", "autoattack"])
def test_what_gradients_alone_leave_does_not_know_of_random_search(measure, trained, digits, monkeypatch):
    """At every eps of a nested ladder: the accuracy of the same attacks without random search."""
    stages = (Stage("apgd_ce", APGD(), "cross_entropy", 5), Stage("square", Square(), "margin", 100))
    model, eps = made_of(trained, HIDDEN["rounding"]), (0.04, 0.08, 0.12)

    def records(search):
        monkeypatch.setattr(ensembles, "VERSIONS", {"standard": lambda norm: stages[: 1 + search]})
        options = {
            "pgd": pgd.Options(images=First(12), restarts=1, steps=(3,), queries=100 * search),
            "autoattack": autoattack.Options(images=First(12)),
        }
        result, _ = run_measures(Evaluation(model, digits, eps), {measure: (SHORT_MEASURES[measure], options[measure])})
        return [record for record in result.records if record.metric == "robust_accuracy"]

    with_search, without = records(True), records(False)
    assert [record["white_box"] for record in with_search] == [record.value for record in without]
    assert with_search[-1].value < with_search[-1]["white_box"]


SHORT_MEASURES = {"pgd": pgd.MEASURE, "autoattack": autoattack.MEASURE}


@pytest.mark.parametrize("method", [name for name in ATTACKS if name not in ("square", "hop_skip_jump")])
def test_every_attack_by_gradients_says_that_it_had_none(method, trained, digits):
    x, labels = digits.images[:4] / np.float32(255), digits.labels[:4]
    hidden = lambda z: trained.network.explain(trained.params, jax.lax.stop_gradient(z)).logits
    with pytest.warns(UserWarning, match="the network hides its gradients"):
        found = irob.evaluate(hidden, x, labels, irob.L2(0.5), method=method, losses="margin", num_steps=3, restarts=1)
    assert found.robust.value == np.mean(found.without_gradient) > 0.5


def test_random_search_hides_nothing(trained, digits):
    chosen = {"pgd": (pgd.MEASURE, pgd.Options(images=First(6), attack="square", objectives=("margin",), restarts=1, steps=(5,)))}
    result, _ = run_measures(Evaluation(trained, digits, (0.02,)), chosen)
    (record,) = [record for record in result.records if record.metric == "robust_accuracy"]
    assert record.value > 0 and "without_gradient" not in record.settings and "white_box" not in record.settings


def test_the_map_attack_says_it_too(trained, digits, capsys):
    model = trained._replace(network=irob.models.from_function(
        lambda params, x: trained.network.explain(params, jax.lax.stop_gradient(x)), lambda seed: trained.params, (28, 28, 1), 10
    ))  # fmt: skip
    chosen = {"aai": (aai.MEASURE, aai.Options(images=First(4), num_steps=2))}
    result, _ = run_measures(Evaluation(model, digits, (0.0, 0.1)), chosen)
    (record,) = [record for record in result.records if record.has(over="all", eps=0.1)]
    assert record["without_gradient"] == record.n == 4 and "aai, eps 0.1: 4 of 4 images" in capsys.readouterr().err


@pytest.mark.parametrize("objective", ["margin", "cross_entropy"])
def test_an_objective_that_is_never_finite_is_refused(objective, trained, digits, monkeypatch):
    monkeypatch.setitem(pgd.OBJECTIVES, objective, lambda logits, label: jnp.sum(logits) * jnp.nan)
    pgd.prediction_attack_check.cache_clear()
    chosen = {"pgd": (pgd.MEASURE, pgd.Options(images=First(6), objectives=(objective,), restarts=1, steps=(2,)))}
    with pytest.raises(UserError, match=f"the {objective} has no finite gradient for . images at eps 0.1"):
        run_measures(Evaluation(trained, digits, (0.0, 0.1)), chosen)
    pgd.prediction_attack_check.cache_clear()


def test_validation_says_so(trained, digits, capsys):
    config = base.load_config("digits:normal,tiny")
    scores = validation_scores(config, made_of(trained, HIDDEN["stop_gradient"]).network, trained.params, digits)
    robust = round(scores["robust_accuracy"] * len(digits.labels))
    assert f"gradients of zero for {robust} of the {robust} images that count as robust" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_validation_is_not_fooled_by_a_confident_network(scale, trained, digits):
    """The cross-entropy's own gradient is zero on it."""
    config = base.load_config("digits:normal,tiny", ["validation.attack_steps=5"])
    model = made_of(trained, lambda f, x: scale * f(x))
    scores = validation_scores(config, model.network, trained.params, digits)
    margin = irob.evaluate(
        irob.bind(trained.network, trained.params), digits.images / np.float32(255), digits.labels, irob.LInf(config.eps), num_steps=5,
        losses="margin", method=ATTACKS["pgd"]._replace(step_sizes="eps/4", best_iterate=False), restarts=1,
    )  # fmt: skip
    assert scores["robust_accuracy"] <= margin.robust.value + 2 / len(digits.labels) < scores["clean_accuracy"]


def test_training_on_an_attack_without_a_finite_gradient_stops(tmp_path, monkeypatch):
    nowhere = irob.DEFENSES["adv"]()._replace(inner=lambda explain, x, label: lambda z: jnp.sum(z) * jnp.nan)
    monkeypatch.setitem(irob.DEFENSES, "adv", lambda: nowhere)
    with pytest.raises(
        UserError, match=r"the gradient of what the attack ascends was not finite at step \d: .* none where the attack starts"
    ):
        train(base.load_config("digits:adv,tiny", ["eps_ramp=0,0"]), str(tmp_path))


def test_the_smallest_perturbation_refuses_objectives_that_are_never_finite(trained, digits, monkeypatch):
    monkeypatch.setattr(
        sneaking_checks, "margin_loss", lambda logits, label: irob.margin_loss(logits, label) + 0.0 * jnp.sqrt(logits - logits)[0]
    )
    sneaking_checks.minimal_check.cache_clear()
    chosen = choose_measures(("bound",), "standard", {"num_steps": "2"}, 4, digits.labels)
    with pytest.raises(UserError, match="the margin has no finite gradient for"):
        run_measures(Evaluation(trained, digits, (0.0, 0.1)), chosen)
    sneaking_checks.minimal_check.cache_clear()


def test_an_l1_projection_can_be_differentiated():
    x = np.full((2, 2, 1), 0.5, np.float32)
    gradient = jax.grad(lambda x: jnp.sum(irob.L1(0.5).project(x + 0.3, x) ** 2))(x)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)
