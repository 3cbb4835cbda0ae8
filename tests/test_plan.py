"""Pieces of batches: of a size that fits, as equal as can be, and without an effect on what is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runtime import plan
from experiments.runtime.plan import ACCELERATOR, CPU, mean_and_gradient, vmap_in_pieces


@pytest.mark.parametrize(
    ("n", "most", "piece"), [(12, 12, 12), (12, 11, 6), (12, 5, 4), (12, 4, 4), (12, 1, 1), (47, 16, 16), (12, 0, 1), (0, 5, 1)]
)
def test_pieces_are_the_fewest_and_as_equal_as_can_be(n, most, piece):
    assert plan.equal_pieces(n, most) == piece


def test_a_cpu_cuts_batches_by_its_cache_and_an_accelerator_does_not():
    assert [CPU.attack_piece(12, floats) for floats in (2**17, 2**16, 2**15, 50_000, 1, 2**30)] == [2, 4, 6, 4, 12, 1]
    assert [CPU.loss_piece(32, floats) for floats in (10, 10 * 2**17, 2**30)] == [32, 8, 1]
    assert ACCELERATOR.attack_piece(12, 2**30) == ACCELERATOR.loss_piece(12, 2**30) == 12


def test_the_last_batch_of_an_evaluation_is_as_full_as_the_others():
    assert [CPU.evaluation_batch((32, 32, 3), n, 2) for n in (1, 100, 102, 10_000)] == [1, 25, 26, 32]
    assert CPU.evaluation_batch((224, 224, 3), 10, 1) == 1
    assert ACCELERATOR.evaluation_batch((32, 32, 3), 10_000, 1) == 500


def test_the_plan_follows_the_device(monkeypatch):
    assert plan.current_plan() == CPU
    monkeypatch.setattr(plan, "on_cpu", lambda: False)
    assert plan.current_plan() == ACCELERATOR


@pytest.mark.parametrize("piece", [12, 5, 1])
def test_pieces_are_vmap(piece, random):
    x, y = random.normal(size=(12, 3)).astype(np.float32), np.arange(12)
    one = lambda a, b: (jnp.sum(a) * b, a)
    for ours, expected in zip(vmap_in_pieces(one, lambda n: piece)(x, y), jax.vmap(one)(x, y), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_only_a_piece_is_in_memory():
    """The temporary memory of a function with large intermediate values grows with the piece, not with the batch."""

    def one(x):
        return jnp.sum(jnp.outer(jnp.sin(x), jnp.cos(x)) ** 3)

    def temporary(n, piece):
        mapped = jax.jit(vmap_in_pieces(one, lambda n: piece))
        return mapped.lower(jnp.zeros((n, 400))).compile().memory_analysis().temp_size_in_bytes

    assert temporary(32, 4) < 1.5 * temporary(8, 4)
    assert temporary(32, 32) > 2 * temporary(32, 4)


@pytest.mark.parametrize(("n", "piece"), [(8, 3), (7, 1), (5, 5)])
def test_a_mean_in_pieces_is_the_mean(n, piece, random):
    """Of a loss whose value and gradient are known, however unequal the pieces."""
    x = random.normal(size=(n, 4)).astype(np.float32)
    params = {"w": random.normal(size=4).astype(np.float32), "b": np.float32(0.5)}

    def loss(params, x):
        return (params["w"] @ x + params["b"]) ** 2

    value, gradient = jax.jit(mean_and_gradient(loss, lambda n: piece))(params, x)
    residual = x @ params["w"] + 0.5
    np.testing.assert_allclose(value, np.mean(residual**2), rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], np.mean(2 * residual[:, None] * x, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient["b"], np.mean(2 * residual), rtol=1e-4, atol=1e-6)
