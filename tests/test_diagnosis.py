"""Networks that hide their gradients never pass as robust: hand-made ones, each with the item that it must fail; and each item on made-up numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments.evaluation import diagnosis, probes
from experiments.evaluation.diagnosis import FAIL, NOT_APPLICABLE, PASS
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import diagnose
from experiments.reports.entries import Entry
from experiments.runtime.errors import UserError

SHORT = dataclasses.replace(
    diagnose.MEASURE.presets["standard"],
    images=First(16),
    diagnosis_steps=40,
    diagnosis_restarts=1,
    diagnosis_queries=300,
    diagnosis_decisions=700,
)


def changed(trained, change):
    """The trained model with other logits; `change(logits function, x)`."""
    network = irob.models.from_function(
        lambda params, x: change(lambda x: trained.network.explain(params, x).logits, x), lambda seed: trained.params, (28, 28, 1), 10
    )
    return trained._replace(network=network)


NOISE = np.random.default_rng(0)
FIXTURES = {
    "scaled": lambda f, x: 1e3 * f(x),
    "rounded": lambda f, x: f(jnp.round(x * 16.0) / 16.0),
    "noisy": lambda f, x: f(x) + 0.5 * NOISE.normal(size=10).astype(np.float32),
    "softmax": lambda f, x: jax.nn.softmax(f(x)),
    "stopped": lambda f, x: f(jax.lax.stop_gradient(x)),
    "not finite": lambda f, x: f(x) + jnp.sqrt(0.0 * jnp.sum(x)),
}


def verdicts(model, split, eps=(0.05, 0.1), options=SHORT):
    measured = diagnose.run(Evaluation(model, split, eps), options)
    return {record["item"]: record["verdict"] for record in measured.records if record.metric == "diagnosis"}, measured


def failed(found):
    return {name for name, verdict in found.items() if verdict == FAIL}


@pytest.fixture(scope="module")
def honest(trained, digits):
    return verdicts(trained, digits)


def test_an_honest_network_has_its_gradients(honest):
    found, measured = honest
    about_gradients = {"logits", "deterministic", "finite", "gradient_of_margin", "gradient_of_cross_entropy", "unbounded", "must_succeed"}
    assert not failed(found) & about_gradients and found["noise"] == PASS
    assert set(found) == {item.name for item in diagnosis.ITEMS}
    assert measured.arrays["losses"].shape[1] == 41


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("scaled", {"gradient_of_cross_entropy"}),
        ("noisy", {"deterministic"}),
        ("softmax", {"logits"}),
        ("not finite", {"finite", "random_search", "black_box"}),
        ("rounded", {"gradient_of_margin", "gradient_of_cross_entropy", "random_search", "hard_label", "black_box", "must_succeed"}),
        ("stopped", {"gradient_of_margin", "gradient_of_cross_entropy", "random_search", "hard_label", "black_box", "must_succeed"}),
    ],
)
def test_masking_fails_its_items_and_no_others_that_the_network_passes(name, fails, trained, digits, honest):
    found, _ = verdicts(changed(trained, FIXTURES[name]), digits)
    assert fails <= failed(found), failed(found)
    if name in ("scaled", "noisy", "softmax"):
        assert {item for item in failed(found) - failed(honest[0]) if item not in ("converged", "black_box")} == fails


def test_a_linear_network_passes(random, digits):
    """Classes far apart in a few directions; the box hardly matters at small eps."""
    w = random.normal(size=(28 * 28, 10)).astype(np.float32) / 28
    network = irob.models.from_function(lambda params, x: (x.reshape(-1) - 0.5) @ params["w"], lambda seed: {"w": w}, (28, 28, 1), 10)
    x = random.uniform(0.3, 0.7, size=(16, 28, 28, 1)).astype(np.float32)
    images = np.round(255 * x).astype(np.uint8)
    labels = np.argmax((images.reshape(16, -1) / np.float32(255) - 0.5) @ w, axis=1)
    found, _ = verdicts(made_model(network, {"w": w}), type(digits)(images, labels.astype(np.int32), digits.source), (0.001, 0.002))
    assert not failed(found), failed(found)


def test_attacks_on_a_twin_break_a_network_that_hides_its_gradients(trained, digits, tmp_path):
    twin = tmp_path / "twin.pkl"
    twin.write_bytes(irob.paper.dumps(trained.network, trained.params))
    model = changed(trained, FIXTURES["stopped"])
    options = dataclasses.replace(SHORT, twin=str(twin))
    diagnose.check(Evaluation(model, digits, (0.1,)), options)
    found, measured = verdicts(model, digits, (0.1,), options)
    assert found["transfer"] == FAIL
    value = next(record.value for record in measured.records if record.get("item") == "transfer")
    assert value >= 0.25  # the same network with gradients loses that much
    assert str(twin) in diagnose.describe(options) and "no twin" in diagnose.describe(SHORT)
    network = irob.create("small", (28, 28, 1), 9)
    twin.write_bytes(irob.paper.dumps(network, network.initial_params(0)))
    with pytest.raises(UserError, match="twin"):
        diagnose.check(Evaluation(model, digits, (0.1,)), options)


def made_model(network, params):
    from experiments.runtime.models import EvaluatedModel

    return EvaluatedModel("linear", network, params, "digits", "linf", (0.0, 0.1), 0, {"network": "linear"})


def seen(**changes):
    """A network of 4 images that passes every item."""
    yes, no = np.ones(4, bool), np.zeros(4, bool)
    half = np.array([True, True, False, False])
    logits = np.array([[3.0, 1.0, -1.0, 0.0]] * 4)
    none = {"margin": no, "cross_entropy": no}
    whole = diagnosis.Seen(
        4, 0.1, np.array([0.1, 0.2]), np.stack([half, no]), yes, half, yes, half, no, half, half, half, yes, np.ones(4), logits, 0.0, [1.0] * 5, none,
        none, np.ones((4, 21)), ~half, ~half, np.zeros(4), yes, yes,
    )  # fmt: skip
    return whole._replace(**changes)


NO, ONE = np.zeros(4, bool), np.array([True, False, False, False])
WRONG = {
    "logits": ({"logits": np.full((4, 4), 0.25)}, 0.0),
    "deterministic": ({"spread": 2e-4}, 2e-4),
    "finite": ({"nonfinite": {"margin": ONE, "cross_entropy": NO}}, 0.25),
    "gradient_of_margin": ({"zero": {"margin": ONE, "cross_entropy": NO}}, 0.25),
    "gradient_of_cross_entropy": ({"zero": {"margin": NO, "cross_entropy": ONE}}, 0.25),
    "random_search": ({"square": ONE}, 0.25),
    "hard_label": ({"hard_label": ONE}, 0.25),
    "transfer": ({"transferred": ONE}, 0.25),
    "black_box": ({"every_noise": ~ONE}, 1.0),
    "iterations": ({"one_step": ONE}, -0.25),
    "monotone": ({"curve": np.stack([NO, ONE])}, 0.25),
    "unbounded": ({"unbounded": ~ONE}, 0.75),
    "converged": ({"doubled": ONE}, 0.25),
    "flat": ({"losses": np.tile(np.linspace(0, 1, 21), (4, 1))}, 1.0),
    "silent_success": ({"last": NO}, 0.5),
    "noise": ({"noise": np.full(4, 0.6)}, 0.8),
    "stable": ({"change": np.full(4, 0.75)}, 0.75),
    "must_succeed": ({"found": ONE}, 0.25),
}


def test_the_made_up_network_passes():
    assert {item.name: item.judge(seen()).verdict for item in diagnosis.ITEMS} == {item.name: PASS for item in diagnosis.ITEMS}


@pytest.mark.parametrize("name", WRONG)
def test_each_item_can_fail(name):
    changes, value = WRONG[name]
    (item,) = [item for item in diagnosis.ITEMS if item.name == name]
    finding = item.judge(seen(**changes))
    assert finding.verdict == FAIL and finding.value == pytest.approx(value)


def test_what_does_not_apply():
    by_name = {item.name: item for item in diagnosis.ITEMS}
    assert by_name["classes"].judge(seen(num_classes=2)).verdict == NOT_APPLICABLE
    assert by_name["monotone"].judge(seen(curve=np.ones((1, 4), bool))).verdict == NOT_APPLICABLE
    assert by_name["must_succeed"].judge(seen(exists=NO)).verdict == NOT_APPLICABLE
    assert by_name["transfer"].judge(seen(transferred=None)).verdict == NOT_APPLICABLE
    assert by_name["black_box"].judge(seen(transferred=None)).verdict == PASS
    assert set(WRONG) | {"classes"} == set(by_name)


def test_repeated_logits_are_compared_without_their_scale():
    logits = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert probes.repeated([logits, 3 * logits]) == pytest.approx(0.0)
    assert probes.repeated([logits, logits[::-1]]) == pytest.approx(np.sqrt(2))


def test_tables_say_what_to_do(honest, trained, digits):
    from experiments.evaluation.run import Chosen, run_measures

    model = changed(trained, FIXTURES["stopped"])._replace(name="stopped")
    result, arrays = run_measures(Evaluation(model, digits, (0.1,)), {"diagnose": Chosen(diagnose.MEASURE, SHORT)})
    entry = Entry("stopped", result, arrays).of("diagnose")
    (table,) = diagnose.tables("Diagnosis", [entry])
    row = next(row for row in table.rows if row[2].text == "does the margin have gradients?")
    assert row[3].text == "fail" and "straight_through" in row[6].text
    assert table.notes[0].startswith("stopped, at eps 0.1: fails ") and "not to be believed" in table.notes[0]
    assert [picture.name for picture in diagnose.pictures([entry], list("0123456789"))] == ["diagnosis_accuracy", "diagnosis_loss"]


def test_a_ladder_without_eps_is_refused(trained, digits):
    with pytest.raises(UserError, match="needs an eps > 0"):
        diagnose.check(Evaluation(trained, digits, (0.0,)), SHORT)
