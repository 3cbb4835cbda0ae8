"""topk_overlap and inversion, against NumPy."""

import jax
import numpy as np
import pytest

import irob
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measures import inversion, topk_overlap
from experiments.evaluation.options import MeasureOptions
from experiments.runtime.errors import UserError


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """The parameters of a second network, and its file."""
    params = trained.network.initial_params(seed=5)
    file = tmp_path_factory.mktemp("weights") / "other.pkl"
    file.write_bytes(irob.paper.dumps(trained.network, params))
    return params, str(file)


def overlaps(model, split, **options):
    evaluation, chosen = Evaluation(model, split, (0.0,), 4), topk_overlap.Options(**options)
    topk_overlap.check(evaluation, chosen)
    return topk_overlap.run(evaluation, chosen)


def shared(a, b, k):
    """The share of the k largest positions in common."""
    return len(set(np.argsort(-np.ravel(a), kind="stable")[:k]) & set(np.argsort(-np.ravel(b), kind="stable")[:k])) / k


def test_overlap_against_numpy(trained, digits, other):
    params, file = other
    found = overlaps(trained, digits, versus=file, k=6, map=("cam", "grad_cam", "saliency"))
    x = digits.images / np.float32(255)
    explain = jax.jit(jax.vmap(trained.network.explain, (None, 0)))
    maps = [np.asarray(explain(p, x).maps) for p in (trained.params, params)]
    expected = [shared(a[..., t], b[..., t], 6) for a, b, t in zip(*maps, digits.labels, strict=True)]
    np.testing.assert_allclose(found.arrays["cam"], expected, atol=1e-6)
    np.testing.assert_allclose(found.arrays["grad_cam"], expected, atol=1e-6)  # the same maps on another scale
    assert [record["map"] for record in found.records] == ["cam", "grad_cam", "saliency"]
    record = found.records[0]
    assert record["with"] == "other" and record.n == 24 and record.value == pytest.approx(np.mean(expected), abs=1e-6)
    label = digits.labels[0]
    slope = jax.jit(jax.grad(lambda z, p: trained.network.smooth().apply({"params": p}, z).logits[label]))
    assert found.arrays["saliency"][0] == pytest.approx(shared(slope(x[0], trained.params), slope(x[0], params), 6), abs=1e-6)


def test_a_network_overlaps_with_itself(trained, digits, tmp_path):
    file = tmp_path / "itself.pkl"
    file.write_bytes(irob.paper.dumps(trained.network, trained.params))
    (record,) = overlaps(trained, digits, versus=str(file)).records
    assert record.value == 1.0


def test_what_cannot_be_compared(trained, digits, tmp_path, other):
    with pytest.raises(UserError, match="give --versus"):
        overlaps(trained, digits)
    with pytest.raises(UserError, match=r"--k=50 must be in 1\.\.49, the positions of a map"):
        overlaps(trained, digits, versus=other[1], k=50)
    with pytest.raises(UserError, match="--map=representation: this measure needs maps of a class"):
        overlaps(trained, digits, versus=other[1], map=("representation",))
    of = lambda network: trained._replace(network=network, params=network.initial_params())
    stranger = of(irob.create("wresnet", (28, 28, 1), 10))  # maps of 7 x 7 too: comparable
    topk_overlap.check_comparable(trained, stranger, "wide")
    with pytest.raises(UserError, match="--versus small: its maps cannot be compared"):
        topk_overlap.check_comparable(trained, of(irob.create("small", (32, 32, 3), 10)), "small")


def test_inversion_raises_the_unit_and_stays_in_the_box(trained, digits):
    network, params = trained.network, trained.params
    found = inversion.run(Evaluation(trained, digits, (0.0,), 4), MeasureOptions(First(3)))
    mean_features = jax.jit(jax.vmap(lambda z: network.features(params, z).mean(axis=(0, 1))))
    for norm in ("l2", "linf"):
        arrays = {key.removeprefix(f"{norm}/"): value for key, value in found.arrays.items() if key.startswith(norm)}
        for seed in ("image", "noise"):
            result = arrays[f"{seed}_result"]
            assert result.min() >= 0 and result.max() <= 1
            assert (arrays[f"{seed}_after"] > arrays[f"{seed}_before"] + 0.5).all()
            np.testing.assert_allclose(mean_features(result)[np.arange(3), arrays["unit"]], arrays[f"{seed}_after"], rtol=1e-3)
        contribution = np.asarray(mean_features(digits.images[:3] / np.float32(255))) * params["head"]["kernel"][:, digits.labels[:3]].T
        np.testing.assert_array_equal(arrays["unit"], contribution.argmax(axis=1))
