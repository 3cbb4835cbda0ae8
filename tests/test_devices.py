import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runtime import devices, processes
from experiments.runtime.errors import UserError


def test_the_suite_runs_on_several_devices():
    assert devices.num_devices() == 4


def test_replicate_and_first_are_inverse(random):
    tree = {"a": random.normal(size=(3, 2)).astype(np.float32), "b": np.int32(7)}
    back = devices.unreplicate(devices.replicate(tree))
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"] == 7


def test_positions_count_through_the_whole_batch():
    found = devices.pmap(lambda x: devices.batch_positions(3) + 0 * x[0])(jnp.zeros((4, 1), jnp.int32))
    np.testing.assert_array_equal(np.ravel(found), np.arange(12))


def test_mean_is_over_all_devices():
    np.testing.assert_allclose(devices.pmap(devices.mean_over_devices)(jnp.arange(4.0)), [1.5] * 4)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_example_is_counted_once_in_its_place(n, batch_size):
    values, indices, seen = np.arange(100.0, dtype=np.float32) ** 2, np.arange(n) * 3, []

    def fetch(rows):
        seen.append(rows)
        return (values[rows],)

    function = devices.pmap(lambda scale, v: (v * scale[0], jnp.stack([v, -v], axis=-1)))
    squares, pairs = devices.map_batches(function, devices.replicate(np.array([2.0], np.float32)), fetch, indices, batch_size)
    np.testing.assert_allclose(squares, 2 * values[indices])
    np.testing.assert_allclose(pairs, np.stack([values[indices], -values[indices]], axis=-1))
    assert {len(rows) for rows in seen} == {4 * batch_size}


def test_feeding_results_back_compiles_once():
    traces = []

    def step(state, x):
        traces.append(1)
        return jax.tree.map(lambda s: s + jnp.sum(x), state)

    stepped = devices.pmap(step, donate=(0,))
    state = devices.replicate({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)})
    for _ in range(3):
        state = stepped(state, jnp.ones((4, 2)))
        assert stepped._cache_size() == 1 if hasattr(stepped, "_cache_size") else len(traces) == 1
    np.testing.assert_allclose(devices.unreplicate(state)["a"], [6.0] * 3)


@pytest.mark.parametrize(
    ("cores", "batches", "expected"),
    [(8, (), 8), (8, (128,), 8), (8, (50,), 2), (16, (128,), 8), (2, (50, 128), 2), (4, (7,), 1), (4, (36, 51), 1), (1, (50,), 1)],
)
def test_as_many_cores_become_devices_as_divide_the_batches_well(cores, batches, expected, monkeypatch):
    asked = {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(devices, "cores", lambda: cores)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    devices.start(None, 1, 0, *batches)
    assert asked == {"jax_num_cpu_devices": expected}
    assert devices.COLLECTIVE_TIMEOUT_FLAGS in os.environ["XLA_FLAGS"]
    devices.start(None, 1, 0, *(batch + 1 for batch in batches), even=False)
    assert asked == {"jax_num_cpu_devices": min([cores, *((batch + 1) // devices.MIN_IMAGES_PER_CPU_DEVICE for batch in batches)]) or 1}


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("0.10.2", None, devices.WITHOUT_LIBRARY_SUMS),
        ("0.11.0", "--a=1", f"--a=1 {devices.WITHOUT_LIBRARY_SUMS}"),
        ("0.10.2", "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.10.1", "", ""),
        ("0.11.1", "", ""),
    ],
)
def test_sums_are_kept_from_the_releases_whose_library_crashes(version, flags, expected, monkeypatch):
    """Other releases do not know the flag, or do not need it."""
    monkeypatch.setattr(devices.jaxlib, "__version__", version)
    monkeypatch.delenv("XLA_FLAGS") if flags is None else monkeypatch.setenv("XLA_FLAGS", flags)
    devices.avoid_faulty_sums()
    assert os.environ["XLA_FLAGS"] == expected


def test_sums_of_seven_axes_end_where_they_are_avoided():
    """The crash of https://github.com/jax-ml/jax/issues/40412."""
    program = (
        "from experiments.runtime import devices; devices.avoid_faulty_sums()\n"
        "import jax, jax.numpy as jnp; a = jnp.ones((3, 1, 2, 2, 8, 8, 8))\n"
        "print(float(jax.jit(lambda a, b: (a * b).sum(3))(a, a).sum()))"
    )
    variables = os.environ | {"XLA_FLAGS": ""}
    run = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert run.stdout == f"{3 * 2 * 2 * 8**3}.0\n"


def test_processes_of_one_run_keep_a_device_each(monkeypatch):
    asked = {}
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    joined = []
    monkeypatch.setattr(processes, "join", lambda *arguments: joined.append(arguments))
    devices.start("localhost:1", 2, 0, 128, timeout=7, settings={"a": "1"})
    assert joined == [("localhost:1", 2, 0, 7, {"a": "1"})]
    assert asked == {"jax_cpu_collectives_implementation": "gloo"}


def test_who_asks_for_devices_gets_them():
    program = "from experiments.runtime import devices; devices.use_cores(150); print(devices.num_devices())"
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    for more, expected in (({"JAX_NUM_CPU_DEVICES": "3"}, 3), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5)):
        run = subprocess.run([sys.executable, "-c", program], env=variables | more, capture_output=True, text=True, check=True)
        assert run.stdout == f"{expected}\n"


def test_processes_need_a_coordinator():
    with pytest.raises(UserError, match="need --coordinator host:port"):
        devices.start(None, 2, 0)


def test_a_process_id_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"--process_id=2 must be in 0\.\.1"):
        devices.start("localhost:1", 2, 2)


def test_shard_splits_any_axis():
    rows = np.arange(24).reshape(3, 8)
    np.testing.assert_array_equal(devices.shard(rows, axis=1)[2], rows[:, 4:6])
    np.testing.assert_array_equal(devices.shard(np.arange(8))[3], [6, 7])


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    said = iter(["DEADLINE_EXCEEDED:\n  no answer", "something\n  else"])

    def refuse(*_, **options):
        assert options == {"initialization_timeout": 7}
        raise RuntimeError(next(said))

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setattr(processes, "_quiet_runtime", lambda: None)
    monkeypatch.setattr(processes, "reach", lambda *_: None)
    for message in (r"not all 2 processes came after 7 seconds \(--timeout\)", r"could not connect to the coordinator \(something else\)"):
        with pytest.raises(UserError, match=f"--coordinator=localhost:1: {message}"):
            devices.start("localhost:1", 2, 0, timeout=7)
