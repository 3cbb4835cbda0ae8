"""AutoAttack on batches and as a measure: what it counts, what it does not depend on, and what it says."""

import dataclasses
import json
import zlib
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.evaluation.cache import ResultCache
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import autoattack
from experiments.evaluation.run import Chosen, run_measures
from experiments.reports import strongest
from experiments.reports.entries import Entry
from experiments.reports.pages import write_report
from experiments.runtime.errors import UserError
from irob.attacks import APGD, FAB, OBJECTIVES, Square, Stage, ensembles, stages_of
from irob.auto_attack import run_ensemble, unattacked

SHORT = (
    Stage("apgd_ce", APGD(), "cross_entropy", 12),
    Stage("apgd_t", APGD(), "dlr_to", 12, targets=2),
    Stage("fab_t", FAB(), "difference", 5, targets=1),
    Stage("square", Square(), "margin", 40),
)
EPS = 0.06


@pytest.fixture
def short(monkeypatch):
    """The versions, all short."""
    monkeypatch.setattr(ensembles, "VERSIONS", dict.fromkeys(ensembles.VERSIONS, lambda norm: SHORT))


@pytest.fixture(scope="module")
def both(trained, digits):
    return irob.bind(trained.network, trained.params), digits.images / np.float32(255), digits.labels


@pytest.fixture(scope="module")
def found(both):
    return irob.autoattack(*both, irob.LInf(EPS), stages=SHORT, key=1)


def predicted(model, x):
    return np.argmax(jax.jit(jax.vmap(lambda x: model(x).logits))(x), axis=1)


def test_the_images_give_the_number_exactly(both, found):
    model, x, labels = both
    again = predicted(model, found.x_adv)
    np.testing.assert_array_equal(again, found.predictions)
    assert np.mean(again == labels) == found.robust.value < found.clean.value
    robust = again == labels
    np.testing.assert_array_equal(found.x_adv[robust], x[robust])
    assert np.abs(found.x_adv - x).max() <= EPS + 1e-6 and found.x_adv.min() >= 0 and found.x_adv.max() <= 1


def test_accuracy_falls_attack_by_attack_and_all_images_count(both, found):
    assert list(found.after) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    values = [found.clean.value, *found.after.values()]
    assert values == sorted(values, reverse=True) and found.robust.value == values[-1] and found.robust.n == 24
    assert found.white_box.value == found.after["fab_t"]


def test_it_is_a_loop_of_attempts(both, found):
    """One stage after another on one image at a time, what is broken left out."""
    model, x, labels = both
    frozen = model.frozen()
    correct = np.array(predicted(model, x) == labels)

    for stage in SHORT:
        run = jax.jit(
            lambda x, t, k, rank, stage=stage: ensembles.attempt(stage, lambda z: frozen(z).logits, irob.LInf(EPS), x, t, k, rank)
        )
        for restart, rank in ensembles.attempts(stage):
            key = jax.random.key(1)
            for part in (zlib.crc32(stage.name.encode()), restart, rank):
                key = jax.random.fold_in(key, part)
            for i in np.flatnonzero(correct):
                of_image = jax.random.fold_in(key, i)
                correct[i] = int(jnp.argmax(model(run(x[i], labels[i], of_image, rank).x_adv).logits)) == labels[i]
        assert np.mean(correct) == found.after[stage.name]


def test_it_depends_neither_on_the_batch_size_nor_on_the_form_of_the_classifier(both, found):
    model, x, labels = both
    for other in (
        irob.autoattack(*both, irob.LInf(EPS), stages=SHORT, key=1, batch_size=5),
        irob.autoattack(lambda z: model(z).logits, x, labels, irob.LInf(EPS), stages=SHORT, key=1),
    ):
        np.testing.assert_array_equal(other.predictions, found.predictions)
        assert other.after == found.after


def test_gradient_attacks_go_on_with_what_random_search_broke(both):
    """So that what they leave is what they leave without it, wherever it stands."""
    with_search = (SHORT[0], SHORT[3], SHORT[1])
    found, without = (irob.autoattack(*both, irob.LInf(EPS), stages=stages, key=1) for stages in (with_search, (SHORT[0], SHORT[1])))
    assert found.white_box.value == without.robust.value >= found.robust.value
    assert list(found.after) == ["apgd_ce", "square", "apgd_t"]
    np.testing.assert_array_equal(predicted(both[0], found.x_adv), found.predictions)


@pytest.mark.parametrize("shape", [(60, 20, 1), (20, 60, 1), (3, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_of_any_shape(norm, shape):
    """A network that is right everywhere near x stays right."""
    classifier = lambda z: jnp.stack([jnp.mean(z), 2.0 - jnp.mean(z)])
    x = np.full((2, *shape), 0.5, np.float32)
    found = irob.autoattack(
        classifier, x, np.array([1, 0]), irob.attacks.BALLS[norm](0.05), stages=stages_of("quick", norm, 2)[:2] + SHORT[3:]
    )
    assert (found.clean.value, found.robust.value) == (0.5, 0.5) and np.isfinite(found.x_adv).all()


def test_attacks_with_equal_fields_are_not_taken_for_each_other(both):
    one, other = Square(0.02), irob.attacks.DeepFool(0.02)
    assert one == other  # as tuples
    run = lambda method: irob.attack(*both, irob.LInf(EPS), method=method, num_steps=3)
    assert np.any(run(one) != run(other))


def test_attacks_that_go_to_the_boundary_take_the_margin_alone(both):
    with pytest.raises(ValueError, match="FAB goes to where its loss is 0, the decision boundary: give the loss 'margin' alone"):
        irob.evaluate(*both, irob.LInf(EPS), method="fab")


def test_random_search_keeps_to_a_ball_of_ones_own():
    from made_up.norms import LowerHalf

    x = jnp.full((6, 4, 1), 0.5)
    found = Square()(lambda z: (jnp.sum(z),) * 2, LowerHalf(0.1), x, key=jax.random.key(0), num_steps=50).x_adv
    assert np.all(found[:3] == 0.5) and np.any(found[3:] != 0.5)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 8.0)])
def test_other_norms(both, norm, eps):
    x, ball = both[1], irob.attacks.BALLS[norm](eps)
    other = irob.autoattack(*both, ball, stages=SHORT)
    assert other.robust.value < other.clean.value
    assert max(float(ball.length(a - b)) for a, b in zip(other.x_adv, x, strict=True)) <= eps * (1 + 1e-5)


def test_the_classes_decide_what_is_defined():
    names = lambda classes: [(stage.objective, stage.targets) for stage in stages_of("standard", "linf", classes)]
    assert names(10) == [("cross_entropy", 0), ("dlr_to", 9), ("difference", 9), ("margin", 0)]
    assert names(3) == [("cross_entropy", 0), ("difference", 2), ("difference", 2), ("margin", 0)]
    assert [stage.objective for stage in stages_of("plus", "linf", 2)][1] == "margin"
    assert ensembles.substitutions("standard", "linf", 10) == []
    assert "apgd_dlr: margin instead of dlr" in ensembles.substitutions("plus", "l2", 2)
    assert [stage.restarts for stage in stages_of("standard", "l1", 10)] == [5, 1, 1, 1]
    with pytest.raises(ValueError, match="unknown version 'fast': choose one of standard, plus, rand, quick"):
        stages_of("fast", "linf", 10)
    for loss, needs in (("dlr", 3), ("dlr_to", 4)):
        with pytest.raises(ValueError, match=f"at least {needs} classes"):
            OBJECTIVES[loss].make(irob.LInf(0.1), lambda x: jnp.zeros(2), 0, 1)(jnp.zeros((1, 1, 1)))


def test_a_classifier_that_draws_is_attacked_in_the_mean(both):
    """Noise on the logits as large as their differences: one draw misleads, the mean does not."""
    model, x, labels = both
    noisy = lambda key, z: model(z).logits + 3.0 * jax.random.normal(key, (10,))
    stages = (Stage("apgd_ce", APGD(), "cross_entropy", 12),)
    with mock.patch.object(ensembles, "VERSIONS", ensembles.VERSIONS | {"rand": lambda norm: stages}):
        found = irob.autoattack(noisy, x, labels, irob.LInf(0.15), version="rand")
    assert found.robust.value < 0.5 * found.clean.value


class Normalized(nn.Module):
    """With BatchNorm, as a user has it."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), 4)(x)))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def test_on_a_network_with_batch_norm(random):
    network = irob.models.from_linen(Normalized(), (8, 8, 1), 3, features=None)
    x = random.random((9, 8, 8, 1)).astype(np.float32)
    model = irob.bind(network, network.initial_params())
    found = irob.autoattack(model, x, predicted(model, x), irob.LInf(0.1), stages=stages_of("quick", "linf", 3)[:2])
    assert found.clean.value == 1.0 and found.robust.value < 1.0
    np.testing.assert_array_equal(predicted(model, found.x_adv), found.predictions)


def test_what_it_refuses(both):
    model, x, labels = both
    with pytest.raises(ValueError, match="AutoAttack is defined in linf, l2, l1, not in Odd"):
        irob.autoattack(model, x, labels, Odd(0.1))
    with pytest.raises(ValueError, match="takes a classifier that draws at random"):
        irob.autoattack(model, x, labels, irob.LInf(0.1), version="rand")
    with pytest.raises(ValueError, match="unknown version"):
        irob.autoattack(model, x, labels, irob.LInf(0.1), version="best")


# A ball of one's own that is none of the three.
Odd = type("Odd", (), {**{name: getattr(irob.LInf, name) for name in ("random_point", "project", "ascend", "max_eps")},
                       "__init__": lambda self, eps: setattr(self, "eps", eps)})  # fmt: skip


# --- the measure ------------------------------------------------------------------------------------------------------------------------------


OPTIONS = dataclasses.replace(autoattack.MEASURE.presets["standard"], images=First(24), save_examples=True)


def measured(model, split, eps=(0.0, 0.03, EPS), options=OPTIONS, **more):
    return run_measures(Evaluation(model, split, eps, **more), {"autoattack": Chosen(autoattack.MEASURE, options)})


def test_records_images_and_batches(trained, digits, short):
    result, arrays = measured(trained, digits)
    of = {(r.metric, r.get("eps"), r.get("stage")): r for r in result.records}
    final = of["robust_accuracy", EPS, None]
    assert final.value == of["accuracy_after", EPS, "square"].value and final["white_box"] == of["accuracy_after", EPS, "fab_t"].value
    assert final.n == 24 and len(final["indices_sha256"]) == 16 and final["version"] == "standard"
    assert of["robust_accuracy", 0.03, None].value >= final.value
    predictions, images = arrays["autoattack/predictions_standard"], arrays["autoattack/examples_standard"]
    again = [predicted(irob.bind(trained.network, trained.params), images[i]) for i in range(3)]
    np.testing.assert_array_equal(again, predictions)
    _, other = measured(trained, digits, batch_size=5)
    np.testing.assert_array_equal(other["autoattack/predictions_standard"], predictions)


def test_it_goes_on_where_it_was(trained, digits, short, tmp_path, monkeypatch):
    cache, calls = ResultCache(tmp_path), []
    first, _ = measured(trained, digits, cache=cache)
    monkeypatch.setattr(autoattack, "stage_check", lambda *given: calls.append(given))
    monkeypatch.setattr(autoattack.stage_check, "__qualname__", "stage_check", raising=False)
    monkeypatch.setattr(autoattack.stage_check, "__module__", autoattack.__name__, raising=False)
    again, _ = measured(trained, digits, cache=ResultCache(tmp_path))
    assert not calls and [r.as_dict() for r in again.records] == [r.as_dict() for r in first.records]


def test_a_version_for_other_classifiers_is_refused(trained, digits):
    with pytest.raises(UserError, match="--version=rand is for classifiers that draw at random"):
        measured(trained, digits, options=dataclasses.replace(OPTIONS, version="rand"))


def test_the_order_of_an_ensemble_on_made_up_attacks():
    """Of 5 images the last is misclassified. Gradients break 0, search 1 and 2; gradients see 1 and 2 again, as `white_box` is what they leave."""
    stages = Stage("before", Square(), "margin", 1), Stage("first", APGD(), "margin", 1), Stage("search", Square(), "margin", 1)
    broken = {"before": [1], "first": [0, 1], "search": [2]}
    labels, seen = np.zeros(5, int), []

    def attempted(stage, restart, rank, left):
        seen.append((stage.name, left.tolist()))
        hit = np.isin(left, broken[stage.name])
        return {"prediction": hit.astype(int), "useless": left == 3, "x_adv": np.where(hit, 1.0, 0.5)}

    found = run_ensemble(stages, labels, unattacked(np.array([0, 0, 0, 0, 1]), labels, np.zeros(5)), attempted)
    assert seen == [("before", [0, 1, 2, 3]), ("first", [0, 1, 2, 3]), ("search", [2, 3])]
    assert found.predictions.tolist() == [1, 1, 1, 0, 1] and found.white_box.tolist() == [False, False, True, True, False]
    assert found.useless.tolist() == [False, False, False, True, False] and found.x_adv.tolist() == [1, 1, 1, 0, 0]
    assert {name: left.sum() for name, left in found.after.items()} == {"before": 3, "first": 2, "search": 1}
    again = run_ensemble(stages, labels, found._replace(x_adv=None), lambda stage, *given: attempted(stage, *given))
    assert again.x_adv is None and seen[3:] == [("before", [3]), ("first", [2, 3]), ("search", [3])]


def test_counts_of_a_comparison_as_cells():
    assert strongest.Compared(3, 0, 0.25).texts() == ["3", "0", "0.25"]
    assert strongest.Compared(2.5, 1.0, None).texts() == ["2.5", "1.0", "-"]


# --- across measures --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(trained, digits, short, tmp_path):
    """Two networks under AutoAttack, one of them under PGD, too."""
    from experiments.evaluation.measures import pgd

    chosen = {
        "autoattack": Chosen(autoattack.MEASURE, dataclasses.replace(OPTIONS, save_examples=False)),
        "pgd": Chosen(pgd.MEASURE, pgd.Options(images=First(24), restarts=1, steps=(2,), queries=0)),
    }
    result, arrays = run_measures(Evaluation(trained, digits, (0.0, EPS)), chosen)
    small = trained._replace(name="small", params=jax.tree.map(lambda leaf: leaf * np.float32(0.9), trained.params))
    other, other_arrays = run_measures(Evaluation(small, digits, (0.0, EPS)), {"autoattack": chosen["autoattack"]})
    return [Entry("first", result, arrays), Entry("second", other, other_arrays)]


def test_the_lowest_number_known_is_of_all_attacks_together(two):
    lowest, pairs = strongest.strongest_tables(two)
    labels = two[0].arrays["autoattack/labels"]
    correct = [two[0].arrays[name][1] == labels for name in ("autoattack/predictions_standard", "pgd/predictions_2_steps")]
    row = [cell.text for cell in lowest.rows[0]]
    assert row[:5] == ["first", "all given", "linf", f"{EPS:.4f}", "24"] and row[5] == f"{np.mean(correct[0] & correct[1]):.3f}"
    note = next((note for note in lowest.notes if note.startswith("first, linf")), "")
    assert ("autoattack leaves" in note) == (correct[0].mean() < correct[1].mean())
    (pair,) = [[cell.text for cell in row] for row in pairs.rows]
    assert pair[:2] == ["first", "second"] and 0.0 <= float(pair[-1]) <= 1.0


def test_a_card_has_robustbenchs_fields_and_ours(two, tmp_path):
    (card,) = strongest.robustbench(two[0])
    final = next(r for r in two[0].of("autoattack").records("robust_accuracy"))
    theirs = {"link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "reported"}
    assert theirs <= set(card) and card["clean_acc"] and card["autoattack_acc"] == f"{100 * final.value:.2f}" and card["eps"] == "0.06"
    assert card["irob"]["after_each_attack"]["square"] == final.value and card["irob"]["n"] == 24
    write_report([], two, tmp_path / "report")
    assert [each["name"] for each in json.loads((tmp_path / "report" / "robustbench.json").read_text())] == ["first", "second"]


def test_the_tables_of_the_measure(two):
    tables = autoattack.tables("AutoAttack", [entry.of("autoattack") for entry in two])
    assert [table.name for table in tables] == ["autoattack", "autoattack_by_attack"]
    assert {row[2].text for row in tables[1].rows} == {"apgd_ce", "apgd_t", "fab_t", "square"}
    (picture,) = autoattack.pictures([entry.of("autoattack") for entry in two], list("0123456789"))
    assert picture.name == "autoattack_against_eps"
