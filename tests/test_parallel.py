import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import parallel
from experiments.cli import UserError


def test_the_suite_runs_on_several_devices():
    assert parallel.num_devices() == 4


def test_replicate_and_first_are_inverse(random):
    tree = {"a": random.normal(size=(3, 2)).astype(np.float32), "b": np.int32(7)}
    back = parallel.first(parallel.replicate(tree))
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"] == 7


def test_positions_count_through_the_whole_batch():
    found = parallel.pmap(lambda x: parallel.positions(3) + 0 * x[0])(jnp.zeros((4, 1), jnp.int32))
    np.testing.assert_array_equal(np.ravel(found), np.arange(12))


def test_mean_is_over_all_devices():
    np.testing.assert_allclose(parallel.pmap(parallel.mean)(jnp.arange(4.0)), [1.5] * 4)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_example_is_counted_once_in_its_place(n, batch_size):
    values, indices, seen = np.arange(100.0, dtype=np.float32) ** 2, np.arange(n) * 3, []

    def fetch(rows):
        seen.append(rows)
        return (values[rows],)

    function = parallel.pmap(lambda scale, v: (v * scale[0], jnp.stack([v, -v], axis=-1)))
    squares, pairs = parallel.map_examples(function, parallel.replicate(np.array([2.0], np.float32)), fetch, indices, batch_size)
    np.testing.assert_allclose(squares, 2 * values[indices])
    np.testing.assert_allclose(pairs, np.stack([values[indices], -values[indices]], axis=-1))
    assert {len(rows) for rows in seen} == {4 * batch_size}


def test_feeding_results_back_compiles_once():
    traces = []

    def step(state, x):
        traces.append(1)
        return jax.tree.map(lambda s: s + jnp.sum(x), state)

    stepped = parallel.pmap(step, donate=(0,))
    state = parallel.replicate({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)})
    for _ in range(3):
        state = stepped(state, jnp.ones((4, 2)))
        assert stepped._cache_size() == 1 if hasattr(stepped, "_cache_size") else len(traces) == 1
    np.testing.assert_allclose(parallel.first(state)["a"], [6.0] * 3)


@pytest.mark.parametrize(
    ("cores", "batches", "devices"),
    [(8, (), 8), (8, (128,), 8), (8, (50,), 2), (16, (128,), 8), (2, (50, 128), 2), (4, (7,), 1), (4, (36, 51), 1), (1, (50,), 1)],
)
def test_as_many_cores_become_devices_as_divide_the_batches_well(cores, batches, devices, monkeypatch):
    asked = {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    parallel.start(None, 1, 0, *batches)
    assert asked == {"jax_num_cpu_devices": devices}
    assert parallel.PATIENCE in os.environ["XLA_FLAGS"]
    parallel.start(None, 1, 0, *(batch + 1 for batch in batches), even=False)
    assert asked == {"jax_num_cpu_devices": min([cores, *((batch + 1) // parallel.FEWEST for batch in batches)]) or 1}


def test_processes_of_one_run_keep_a_device_each(monkeypatch):
    asked = {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_: None)
    parallel.start("localhost:1", 2, 0, 128)
    assert asked == {"jax_cpu_collectives_implementation": "gloo"}


def test_who_asks_for_devices_gets_them():
    program = "from experiments import parallel; parallel.use_cores(150); print(parallel.num_devices())"
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for more, devices in (({"JAX_NUM_CPU_DEVICES": "3"}, 3), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5)):
        run = subprocess.run([sys.executable, "-c", program], env=variables | more, capture_output=True, text=True, check=True)
        assert run.stdout == f"{devices}\n"


def test_processes_need_a_place_to_meet():
    with pytest.raises(UserError, match="need --coordinator host:port"):
        parallel.start(None, 2, 0)


def test_a_process_id_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"--process_id=2 must be in 0\.\.1"):
        parallel.start("localhost:1", 2, 2)


@pytest.mark.parametrize("activation", [2**17, 2**16, 2**15, 50_000, 60_000, 1, 2**30])
def test_pieces_in_the_cache_are_vmap(activation, random, monkeypatch):
    x, y = random.normal(size=(12, 3)).astype(np.float32), np.arange(12)
    sizes = []

    def one(a, b):
        return jnp.sum(a) * b, a

    mapped = jax.lax.map
    monkeypatch.setattr(jax.lax, "map", lambda *a, **k: (sizes.append(k["batch_size"]), mapped(*a, **k))[1])
    found = parallel.vmap_in_cache(one, activation)(x, y)
    for ours, expected in zip(found, jax.vmap(one)(x, y), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert sizes == {2**17: [2], 2**16: [4], 2**15: [6], 50_000: [4], 60_000: [4], 1: [], 2**30: [1]}[activation]


def test_a_batch_that_does_not_divide_is_cut_all_the_same():
    x = np.arange(47, dtype=np.float32)
    np.testing.assert_array_equal(parallel.vmap_in_cache(lambda a: a**2, 2**14)(x), x**2)


def test_shard_splits_any_axis():
    rows = np.arange(24).reshape(3, 8)
    np.testing.assert_array_equal(parallel.shard(rows, axis=1)[2], rows[:, 4:6])
    np.testing.assert_array_equal(parallel.shard(np.arange(8))[3], [6, 7])


@pytest.mark.parametrize(("n", "most"), [(8, 3), (7, 1), (5, 5)])
def test_a_mean_in_pieces_is_the_mean(n, most, monkeypatch, random):
    """Of a loss whose value and gradient are known, however unequal the pieces."""
    x = random.normal(size=(n, 4)).astype(np.float32)
    params = {"w": random.normal(size=4).astype(np.float32), "b": np.float32(0.5)}
    vmap, sizes = jax.vmap, set()

    def loss(params, x):
        return (params["w"] @ x + params["b"]) ** 2

    def watched(function):
        return lambda x: (sizes.add(len(x)), vmap(function)(x))[1]

    monkeypatch.setattr(jax, "vmap", watched)
    monkeypatch.setattr(parallel, "MEMORY", 4 * 10 * most)
    value, gradient = jax.jit(parallel.mean_and_gradient(loss, 10))(params, x)
    residual = x @ params["w"] + 0.5
    assert sizes == {(8, 3): {3, 2}, (7, 1): {1}, (5, 5): {5}}[n, most]
    np.testing.assert_allclose(value, np.mean(residual**2), rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], np.mean(2 * residual[:, None] * x, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient["b"], np.mean(2 * residual), rtol=1e-4, atol=1e-6)
