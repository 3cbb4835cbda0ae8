"""Accuracy against eps: properties of the ladder, a plain loop, the authors' numbers."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import released_weights

from experiments.evaluation.attacks import check_perturbations
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.measures import pgd
from experiments.reports import figures
from experiments.runtime.errors import UserError
from irob.metrics import wilson_interval
from irob.paper import logsumexp_cross_entropy

PAPER = pgd.MEASURE.presets["paper"]
SHORT = dataclasses.replace(pgd.MEASURE.presets["standard"], restarts=2)
EPS = (0.0, 0.02, 0.05, 0.1)


def outcomes(model, split, batch_size=5, options=SHORT, num_steps=6, eps=EPS):
    evaluation = Evaluation(model, split, eps, batch_size)
    return list(pgd.eps_outcomes(evaluation, options, num_steps, np.arange(len(split.labels))))


@pytest.fixture(scope="module")
def short(trained, digits):
    return outcomes(trained, digits)


def test_accuracy_falls_along_the_ladder(short):
    assert short[0].correct.mean() > 0.7
    assert short[-1].correct.mean() < short[0].correct.mean()
    for weaker, stronger in itertools.pairwise(short):
        assert not np.any(stronger.correct & ~weaker.correct)


def test_results_do_not_depend_on_the_batch_size_or_the_other_images(trained, digits, short):
    for other in (outcomes(trained, digits, batch_size=2), outcomes(trained, digits.first(9))):
        for a, b in zip(short, other, strict=True):
            np.testing.assert_array_equal(a.correct[: len(b.correct)], b.correct)


def test_clean_is_the_argmax(trained, digits, short):
    logits = jax.vmap(lambda x: trained.network.explain(trained.params, x).logits)(digits.images / np.float32(255))
    np.testing.assert_array_equal(short[0].correct, np.argmax(logits, axis=1) == digits.labels)


def test_the_papers_attack_is_a_plain_loop(trained, digits):
    """20 steps instead of 200; NumPy around the input gradient."""
    explain = lambda x: trained.network.explain(trained.params, x).logits
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, t: logsumexp_cross_entropy(explain(x), t))))
    logits, x = jax.jit(jax.vmap(explain)), digits.images / np.float32(255)
    for eps in (0.05, 0.1):
        x_adv = x.copy()
        for _ in range(20):
            moved = x_adv + np.float32(0.01) * np.sign(gradient(x_adv, digits.labels))
            x_adv = np.clip(np.clip(moved, x - np.float32(eps), x + np.float32(eps)), 0, 1)
        expected = np.argmax(logits(x_adv), axis=1) == digits.labels
        (_, found) = outcomes(trained, digits, options=PAPER, num_steps=20, eps=(0.0, eps))
        assert np.sum(found.correct != expected) <= 1


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 8.0)])
def test_other_norms(trained, digits, norm, eps):
    clean, attacked = outcomes(trained._replace(norm=norm), digits, batch_size=6, eps=(0.0, eps))
    assert attacked.correct.mean() < clean.correct.mean()


def test_a_network_that_predicts_no_class_is_never_correct(trained, digits):
    broken = trained._replace(params=jax.tree.map(lambda a: np.full_like(a, np.nan), trained.params))
    assert not any(outcome.correct.any() for outcome in outcomes(broken, digits))


def test_attacks_that_went_nowhere_or_too_far():
    found = {"distance": np.array([0.1, np.nan, 0.05]), "inside": np.full(3, True)}
    with pytest.raises(UserError, match=r"the margin has no finite gradient for 1 images at eps 0\.1: its logits overflow"):
        check_perturbations(found, 0.1, "l2", "margin")
    for wrong in ({"distance": np.array([0.1, 0.2, 0.1])}, {"distance": np.full(3, 0.1), "inside": np.array([True, False, True])}):
        with pytest.raises(RuntimeError, match=r"the l2 attack left its ball of eps 0\.1"):
            check_perturbations(found | wrong, np.full(3, 0.1), "l2", "margin")
    check_perturbations(found | {"distance": np.full(3, 0.1)}, 0.1, "l2", "margin")


def test_records(trained, digits):
    outcome = pgd.Outcome(0.1, np.array([0] * 79 + [1] * 20 + [-1]), np.array([True] * 79 + [False] * 21))
    labels = np.array([0] * 99 + [2])
    record, *by_class = pgd.records_of(PAPER, 200, "linf", outcome, labels, ("a", "b", "c"), None)
    assert record.value == 0.79 and record.n == 100 and record.metric == "robust_accuracy" and record["steps"] == 200
    np.testing.assert_allclose(record.ci95, wilson_interval(79, 100))
    assert [(r["class"], r.n, r.value, r["predicted"]) for r in by_class] == [
        ("a", 99, 79 / 99, {"a": 79, "b": 20}),
        ("c", 1, 0.0, {"none": 1}),
    ]
    assert pgd.records_of(SHORT, 6, "linf", outcome._replace(eps=0.0), labels, ("a", "b", "c"), None)[0].metric == "clean_accuracy"
    found = pgd.run(Evaluation(trained, digits, (0.0, 0.1), 6), dataclasses.replace(PAPER, images=SHORT.images, steps=(1, 2)))
    overall = [record for record in found.records if record.metric != "class_accuracy"]
    assert sum(record.n for record in found.records if record.has(metric="class_accuracy", eps=0.1, steps=2)) == 24
    assert [(r.metric, r["eps"], r.get("steps")) for r in overall] == [
        ("clean_accuracy", 0.0, None),
        ("robust_accuracy", 0.1, 1),
        ("robust_accuracy", 0.1, 2),
    ]
    assert found.arrays["predictions_2_steps"].shape == (2, 24)


def test_the_description_follows_from_the_options():
    assert pgd.describe(pgd.MEASURE.presets["standard"]) == (
        "Attack: pgd on margin and on cross_entropy, 5 random starts each, 150 steps of 0.2, 0.06, 0.02 eps;"
        " worst case over iterates, restarts, objectives, smaller eps; then square, 1000 queries, on what is left."
    )
    assert pgd.describe(PAPER) == "Attack: paper_pgd on logsumexp_cross_entropy, no random start, 200 steps of constant 0.01; last iterate."


@pytest.mark.slow
@released_weights.needed
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mnist_smallgap_normal_100", {0: 1.0, 0.05: 0.53, 0.1: 0.045}),
        ("mnist_smallgap_int_100", {0: 0.935, 0.3: 0.79, 0.35: 0.18, 0.4: 0.14}),
    ],
)
def test_the_papers_protocol_gives_the_authors_numbers_on_their_networks(name, theirs):
    """Which are those of the guide."""
    recorded = released_weights.recorded
    expected = recorded(name, "pgd", "clean_accuracy") | recorded(name, "pgd", "robust_accuracy")
    assert expected | theirs == expected
    evaluation = Evaluation(released_weights.model(name), released_weights.mnist_test_images(), tuple(expected), 50)
    found = pgd.eps_outcomes(evaluation, PAPER, 200, evaluation.indices(PAPER.images))
    for outcome, value in zip(found, expected.values(), strict=True):
        assert abs(outcome.correct.sum() - 200 * value) <= 1.01


@pytest.mark.slow
@released_weights.needed
def test_the_standard_protocol_is_as_strong_as_the_strongest_attack_known():
    """The paper's protocol reads 18% here."""
    model, split = released_weights.model("mnist_smallgap_int_100"), released_weights.mnist_test_images()
    evaluation = Evaluation(model, split, (0.35,), 50)
    (outcome,) = pgd.eps_outcomes(evaluation, pgd.MEASURE.presets["standard"], 150, evaluation.indices(PAPER.images))
    assert outcome.correct.mean() <= 0.01


def test_stored_images_give_the_recorded_accuracy_and_lie_in_the_ball(trained, digits):
    options = dataclasses.replace(SHORT, steps=(4,), save_examples=True)
    found = pgd.run(Evaluation(trained, digits, EPS, 6), options)
    examples = found.arrays["examples_4_steps"]
    assert examples.shape == (4, 24, 28, 28, 1)
    logits = jax.jit(jax.vmap(lambda x: trained.network.explain(trained.params, x).logits))
    x = digits.images / np.float32(255)
    accuracies = {r["eps"]: r.value for r in found.records if r.metric in ("clean_accuracy", "robust_accuracy")}
    for e, eps in enumerate(EPS):
        predicted = np.argmax(logits(examples[e]), axis=1)
        np.testing.assert_array_equal(predicted, found.arrays["predictions_4_steps"][e])
        assert np.sum(predicted == digits.labels) == round(24 * accuracies[eps])
        assert np.abs(examples[e] - x).max() <= eps + 1e-6 and examples[e].min() >= 0 and examples[e].max() <= 1
    assert accuracies[0.1] < accuracies[0.0]
    without = pgd.run(Evaluation(trained, digits, EPS, 6), dataclasses.replace(options, save_examples=False))
    np.testing.assert_array_equal(without.arrays["predictions_4_steps"], found.arrays["predictions_4_steps"])


def test_a_targeted_attack_leads_to_its_class(trained, digits):
    options = dataclasses.replace(SHORT, steps=(20,), restarts=1, target="3")
    evaluation = Evaluation(trained, digits, (0.0, 0.3), 6)
    found = pgd.run(evaluation, options)
    assert 3 not in found.arrays["labels"] and len(found.arrays["labels"]) == np.sum(digits.labels != 3)
    (reached,) = [record for record in found.records if record.metric == "target_reached"]
    predictions = found.arrays["predictions_20_steps"][-1]
    assert reached.value == np.mean(predictions == 3) > 0.5 and reached["target"] == "3"
    free = pgd.run(evaluation, dataclasses.replace(options, target=None))
    assert np.mean(free.arrays["predictions_20_steps"][-1] == 3) < reached.value
    with pytest.raises(UserError, match="--target=ten: the classes are 0, 1"):
        pgd.check(evaluation, dataclasses.replace(options, target="ten"))


def test_the_report_has_classes_targets_and_confusion(trained, digits):
    """From the records alone."""
    from test_reports import entry

    found = pgd.run(Evaluation(trained, digits, (0.0, 0.3), 6), dataclasses.replace(SHORT, steps=(3,), target="3"))
    plain = pgd.run(Evaluation(trained, digits, (0.0, 0.3), 6), dataclasses.replace(SHORT, steps=(3,)))
    shown = entry("network")
    shown = shown._replace(result=dataclasses.replace(shown.result, records=[*plain.records, *[r for r in found.records if r["eps"] > 0]]))
    tables = {table.name: table for table in pgd.tables("Accuracy", [shown])}
    assert set(tables) == {"accuracy", "accuracy_by_class", "target_reached"}
    assert len(tables["accuracy"].rows) == 1 and len(tables["accuracy_by_class"].rows) == 10
    names = tuple("0123456789")
    (_, clean), (_, attacked) = figures.confusion(pgd.without_targets(shown), names)
    counts = np.zeros((10, 10))
    np.add.at(counts, (digits.labels, plain.arrays["predictions_3_steps"][0]), 1)
    np.testing.assert_allclose(clean, counts / np.bincount(digits.labels, minlength=10)[:, None])
    assert np.trace(attacked) < np.trace(clean)
    assert [picture.name for picture in pgd.pictures([shown], names)] == ["accuracy_against_eps", "confusion"]
