"""topk_overlap and inversion."""

import jax
import numpy as np
import pytest

import irob
from experiments import protocols
from experiments.cli import UserError
from experiments.evaluator import Evaluator
from experiments.measures import inversion, overlap
from experiments.measures.task import Task

STANDARD = protocols.PROTOCOLS["standard"]


def task(trained, digits, **options):
    return Task(Evaluator(*trained, digits, 4, seed=3), STANDARD, "linf", (0.0,), **options)


def test_overlap_against_numpy(trained, digits):
    net, params = trained
    other = net.initial_params(seed=5)
    found = overlap.measure(task(trained, digits, other=("other", net, other), k=6))
    x = digits.images / np.float32(255)
    shares = []
    for image, label in zip(x, digits.labels, strict=True):
        tops = [set(np.argsort(-np.asarray(net.explain(p, image).maps[..., label]).ravel(), kind="stable")[:6]) for p in (params, other)]
        shares.append(len(tops[0] & tops[1]) / 6)
    np.testing.assert_allclose(found.arrays["cam"], shares, atol=1e-6)
    (record,) = found.records
    assert record["with"] == "other" and record["n"] == 24 and record["value"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_overlap_of_other_maps(trained, digits):
    net, params = trained
    other = net.initial_params(seed=5)
    found = overlap.measure(task(trained, digits, other=("other", net, other), k=6, maps=("grad_cam", "saliency")))
    assert [r["map"] for r in found.records] == ["grad_cam", "saliency"]
    x, label = digits.images[0] / np.float32(255), digits.labels[0]
    smooth = net.clone(activation="softplus")
    slopes = [np.asarray(jax.grad(lambda z, p=p: smooth.apply({"params": p}, z).logits[label])(x)).ravel() for p in (params, other)]
    tops = [set(np.argsort(-slope, kind="stable")[:6]) for slope in slopes]
    np.testing.assert_allclose(found.arrays["saliency"][0], len(tops[0] & tops[1]) / 6, atol=1e-6)


def test_a_network_overlaps_with_itself(trained, digits):
    (record,) = overlap.measure(task(trained, digits, other=("itself", *trained))).records
    assert record["value"] == 1.0


def test_what_cannot_be_compared(trained, digits):
    with pytest.raises(UserError, match="give --versus"):
        overlap.measure(task(trained, digits))
    stranger = irob.create("small", (32, 32, 3), 10)
    with pytest.raises(UserError, match="cannot be compared"):
        overlap.measure(task(trained, digits, other=("stranger", stranger, stranger.initial_params())))


def test_inversion_raises_the_unit_and_stays_in_the_box(trained, digits):
    net, params = trained
    found = inversion.measure(task(trained, digits))
    for norm in ("l2", "linf"):
        arrays = {key.removeprefix(f"{norm}/"): value for key, value in found.arrays.items() if key.startswith(norm)}
        for seed in ("image", "noise"):
            result = arrays[f"{seed}_result"]
            assert result.min() >= 0 and result.max() <= 1
            assert (arrays[f"{seed}_after"] > arrays[f"{seed}_before"] + 0.5).all()
            activity = jax.vmap(lambda z: net.features(params, z).mean(axis=(0, 1)))(result)
            np.testing.assert_allclose(activity[np.arange(3), arrays["unit"]], arrays[f"{seed}_after"], rtol=1e-3)
        features = np.asarray(jax.vmap(lambda z: net.features(params, z).mean(axis=(0, 1)))(digits.images[:3] / np.float32(255)))
        speaks = features * params["head"]["kernel"][:, digits.labels[:3]].T
        np.testing.assert_array_equal(arrays["unit"], speaks.argmax(axis=1))
