import authors_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irob
from experiments import protocols
from experiments.evaluator import Evaluator
from experiments.measures import sneaking
from experiments.measures.sneaking import Kind
from experiments.measures.task import Task

STANDARD = protocols.PROTOCOLS["standard"]
STANDARD = STANDARD._replace(sneaking=STANDARD.sneaking._replace(rounds=5, eps_rounds=8))
PAPER = protocols.PROTOCOLS["paper"]
PAPER = PAPER._replace(draws={name: lambda n, classes: protocols.authors_draw(99, slice(8), n, classes) for name in PAPER.draws})


def task(trained, digits, protocol, batch_size=2, norm="linf", **options):
    return Task(Evaluator(*trained, digits, batch_size, seed=3), protocol, norm, (0.0, 0.1), budgets=(2.0, 3.0), **options)


@pytest.fixture(scope="module")
def bounds(trained, digits):
    return {name: sneaking.bound(task(trained, digits, protocol)) for name, protocol in (("paper", PAPER), ("standard", STANDARD))}


def chosen(measured, metric, attack, family, against=None):
    (record,) = [
        r for r in measured.records if (r["metric"], r["attack"], r["discrepancy"], r["against"]) == (metric, attack, family, against)
    ]
    return record


def test_the_papers_smallest_eps_is_the_authors_loop(trained, digits):
    """Their bisection of eps around ten steps of clip(1000 g), g of the mean over the images, in NumPy."""
    net, params = trained
    found = sneaking.minimal(task(trained, digits, PAPER), "bound")
    drawn = PAPER.draws["bound"](24, 10)
    x, labels = digits.images[drawn.indices] / np.float32(255), digits.labels[drawn.indices]
    targets = (labels + drawn.shifts) % 10
    logits = jax.vmap(lambda x: net.explain(params, x).logits)

    def m(x):
        f = logits(x)
        others = jnp.where(jnp.arange(10) == targets[:, None], -jnp.inf, f)
        return jnp.maximum(others.max(axis=1) - f[jnp.arange(8), targets], -0.1)

    gradient = jax.jit(jax.grad(lambda x: jnp.mean(m(x))))

    def attack(eps):
        eps, z = eps[:, None, None, None], x.copy()
        for _ in range(10):
            z = z - np.float32(0.2) * eps * np.clip(1000 * np.asarray(gradient(z)), -1, 1)
            z = np.clip(np.clip(z, x - eps, x + eps), 0, 1)
        return z

    eps, lower, upper = np.full(8, 0.05, np.float32), np.zeros(8, np.float32), np.ones(8, np.float32)
    for _ in range(10):
        success = np.asarray(m(attack(eps))) < 0
        lower, upper = np.where(success, lower, eps), np.where(success, eps, upper)
        eps = np.where(success, (lower + upper) / 2, np.minimum(2 * eps, (lower + upper) / 2)).astype(np.float32)
    np.testing.assert_array_equal(found.targets, targets)
    np.testing.assert_allclose(found.eps, upper, rtol=0.02)
    np.testing.assert_array_equal(found.found, np.asarray(m(attack(upper))) < 0)


@pytest.mark.parametrize("protocol", ["paper", "standard"])
def test_the_bound_holds_on_every_successful_attack(bounds, protocol):
    for attack, against in (("minimal", None), ("isa", "two_class"), ("isa", "one_class")):
        record = chosen(bounds[protocol], "bound_holds", attack, "two_class", against)
        assert record["n"] >= 6 and record["value"] == 1.0
        assert chosen(bounds[protocol], "tightness", attack, "two_class", against)["value"] >= 1.0 - 1e-4


def test_sneaking_comes_close_to_the_bound_and_evades_the_one_class_discrepancy(bounds):
    found = bounds["standard"]
    plain, sneaked = (
        chosen(found, "tightness", attack, "two_class", against) for attack, against in (("minimal", None), ("isa", "two_class"))
    )
    assert sneaked["value"] < min(plain["value"], 1.1)
    assert chosen(found, "bound_holds", "isa", "one_class", "one_class")["value"] < 0.3


def test_both_sides_are_computed_from_complete_maps(trained, digits, bounds):
    net, params = trained
    arrays = bounds["standard"].arrays
    x = arrays["shown/images"][0]
    label, target = arrays["labels"][0], arrays["targets"][0]
    clean, moved = (net.explain(params, z) for z in (x, arrays["shown/attacked"][0]))
    assert int(np.argmax(moved.logits)) == target and int(np.argmax(clean.logits)) == label
    difference = np.abs(np.asarray(moved.maps) - clean.maps).mean(axis=(0, 1))
    np.testing.assert_allclose(arrays["minimal/two_class"][0], (difference[label] + difference[target]) / 2, rtol=1e-4)
    np.testing.assert_allclose(arrays["minimal/one_class"][0], difference[label], rtol=1e-4)
    np.testing.assert_allclose(arrays["minimal/margin"][0], (clean.logits[label] - clean.logits[target]) / 2, rtol=1e-4)
    np.testing.assert_allclose(arrays["shown/clean_maps"][0, 1], clean.maps[..., target], rtol=1e-5, atol=1e-5)


def test_results_do_not_depend_on_the_batch_size(trained, digits, bounds):
    again = sneaking.bound(task(trained, digits, STANDARD, batch_size=5))
    for a, b in zip(bounds["standard"].records, again.records, strict=True):
        assert {k: v for k, v in a.items() if k not in ("value", "ci95", "median")} == {
            k: v for k, v in b.items() if k not in ("value", "ci95", "median")
        }
        np.testing.assert_allclose(a["value"], b["value"], rtol=0.02)


def test_every_family_norm_and_map_has_its_place_in_the_table():
    assert len(set(sneaking.kinds(sneaking.MAPS))) == 14
    assert {kind.map for kind in sneaking.kinds(sneaking.MAPS)} == set(irob.READOUTS)
    assert len(set(sneaking.kinds(irob.EXPLAINERS))) == 6 * (len(irob.EXPLAINERS) - 1) + 2


def test_the_tables_of_the_sneaking_attack(trained, digits, monkeypatch):
    kinds = (Kind("cam", "two_class", "l1"), Kind("cam", "one_class", "l1"), Kind("grad_cam_plus_plus", "two_class", "l2"))
    monkeypatch.setattr(sneaking, "kinds", lambda maps: kinds)
    found = sneaking.isa_table(task(trained, digits, PAPER))
    assert {(r["map"], r["discrepancy"], r["norm"]) for r in found.records} == set(kinds)
    for over, metrics in (("images", 4), ("points", 2)):
        assert len([r for r in found.records if r["over"] == over]) == 3 * metrics
    for record in found.records:
        assert record["failed"] + (record["n"] if record["over"] == "images" else 0) <= 8
        if record["metric"] in ("kendall_tau", "pearson"):
            assert -1 <= record["value"] <= 1
    valid, normalised = (found.arrays[f"cam.two_class.l1/{key}"] for key in ("valid", "normalised"))
    assert valid.shape == normalised.shape == (3, 8) and (normalised >= 0).all()


def test_what_is_seen_of_an_attack_is_what_numpy_sees(trained, digits):
    net, params = trained
    the_task = task(trained, digits, PAPER)
    attacked = sneaking.minimal(the_task, "isa")
    x = digits.images[attacked.indices] / np.float32(255)
    for kind in (Kind("grad_cam_plus_plus", "two_class", "l2"), Kind("representation", "all_class", "l1"), Kind("cam", "all_class", "l2")):
        seen = sneaking.seen(the_task, "isa", attacked, kind)
        features = [np.asarray(jax.vmap(lambda z: net.features(params, z))(z)) for z in (x, attacked.x_adv)]
        head = params["head"]["kernel"]
        matrix = {"cam": head, "grad_cam_plus_plus": np.maximum(head, 0), "representation": np.eye(100)}[kind.map]
        clean, moved = (f @ matrix for f in features)
        difference, spread = moved - clean, clean.max(axis=(1, 2)) - clean.min(axis=(1, 2))
        norm = np.abs(difference).sum(axis=(1, 2)) if kind.norm == "l1" else np.sqrt((difference**2).sum(axis=(1, 2)))
        raw = norm if kind.norm == "l1" else norm**2
        weights = np.full(clean.shape[::3], 1.0 / clean.shape[3])
        if kind.family == "two_class":
            weights = 0.5 * (np.eye(10)[attacked.labels] + np.eye(10)[attacked.targets])
        np.testing.assert_allclose(seen["normalised"][0], (weights * norm / spread).sum(axis=1), rtol=2e-3)
        np.testing.assert_allclose(seen["raw"][0], (weights * raw).sum(axis=1) * (100 if kind.map == "representation" else 1), rtol=2e-3)
        np.testing.assert_allclose(seen["eps"][0], np.abs(attacked.x_adv - x).max(axis=(1, 2, 3)), atol=1e-7)


def test_tradeoff_falls_along_the_budget(trained, digits, monkeypatch):
    kinds = [kind for kind in sneaking.kinds(["cam"]) if kind.norm == "l1"]
    monkeypatch.setattr(sneaking, "kinds", lambda maps: kinds)
    found = sneaking.tradeoff(task(trained, digits, STANDARD))
    assert len(found.records) == 3 * 3
    for family in sneaking.FAMILIES:
        smallest = found.arrays[f"cam.{family}.l1/smallest"]
        assert (np.diff(smallest, axis=0) <= 0).all()
        assert smallest[-1].mean() < 0.9 * smallest[0].mean()


def test_a_summary_by_hand():
    """Two images with three points; the first falls at once and rises again, the second has one valid point."""
    curve = {
        "valid": np.array([[True, False], [True, True], [True, False]]),
        "normalised": np.array([[4.0, 9.0], [1.0, 2.0], [3.0, 9.0]]),
        "eps": np.array([[0.1, 0.1], [0.2, 0.2], [0.4, 0.3]]),
        "tau": np.array([[0.5, 0.0], [0.8, 0.4], [0.1, 0.0]]),
        "pearson": np.array([[0.6, 0.0], [0.9, 0.7], [0.1, 0.0]]),
    }
    records = sneaking.summary(curve, {}, np.array([1.0, 2.0, 4.0]), per_point=True)
    values = {(r["metric"], r["over"]): r["value"] for r in records}
    assert values["normalised_discrepancy", "images"] == pytest.approx((2.0 + 2.0) / 2)  # 4, 1, 1 and 2
    assert values["normalised_slope", "images"] == pytest.approx((0.75 / 3 + 0.0) / 2)
    assert values["kendall_tau", "images"] == pytest.approx(((0.5 + 0.8 + 0.8) / 3 + 0.4) / 2)
    assert values["pearson", "images"] == pytest.approx(((0.6 + 0.9 + 0.9) / 3 + 0.7) / 2)
    assert values["normalised_discrepancy", "points"] == pytest.approx(6.0 / 3)
    assert values["normalised_slope", "points"] == pytest.approx(0.75 * 0.1 / (0.2 - 0.1) / 3)  # the best attack so far has eps 0.2
    assert {r["failed"] for r in records} == {0}


def test_a_network_that_cannot_be_attacked_fails_every_attack(trained, digits):
    """It says one class whatever it sees: nothing is reached, and the sneaking attack may not count that as its target."""
    net, params = trained
    deaf = {**params, "head": {"kernel": np.zeros_like(params["head"]["kernel"])}}
    deaf["conv_2"] = {"kernel": np.zeros_like(params["conv_2"]["kernel"]), "bias": np.ones(100, np.float32)}
    deaf["head"]["kernel"][:, digits.labels[0]] = 1.0
    found = sneaking.bound(task((net, deaf), digits, STANDARD))
    for record in found.records:
        assert record["n"] == 0 and record["failed"] == np.sum(digits.labels == digits.labels[0])
        assert record["value"] is None


def test_another_norm(trained, digits):
    found = sneaking.minimal(task(trained, digits, STANDARD, norm="l2", num_examples=4), "bound")
    assert found.found.all() and (found.eps > 0.05).all()
    x = digits.images[found.indices] / np.float32(255)
    distance = np.sqrt(((found.x_adv - x) ** 2).sum(axis=(1, 2, 3)))
    assert (distance <= found.eps * (1 + 1e-4)).all()


@authors_weights.needed
def test_on_an_authors_network_the_sneaking_attack_meets_the_bound():
    network, params = irob.create("small", (28, 28, 1), 10), authors_weights.parameters("mnist_smallgap_normal_100")
    evaluator = Evaluator(network, params, authors_weights.mnist_test_images(), 8, seed=99)
    found = sneaking.bound(Task(evaluator, protocols.PROTOCOLS["standard"], "linf", (0.0,), num_examples=8, budgets=(4.0,)))
    assert chosen(found, "bound_holds", "isa", "two_class", "two_class")["value"] == 1.0
    assert chosen(found, "tightness", "isa", "two_class", "two_class")["value"] < 1.05
    assert chosen(found, "bound_holds", "isa", "one_class", "one_class")["value"] <= 0.2
