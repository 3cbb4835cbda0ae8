"""Four fake devices, shape checks in every function of irob; the fixtures that several files share."""

import collections
import json
import os
import pathlib
import subprocess
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # it would win
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

hook = jaxtyping.install_import_hook("irob", "beartype.beartype")
hook.__enter__()

hypothesis.settings.register_profile("irob", deadline=None, max_examples=40)
hypothesis.settings.load_profile("irob")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="the long tests, too")
    parser.addoption("--optimized", action="store_true", help="compile every test's programs as users do")
    parser.addoption("--trials", type=int, default=1, help="times as many trials of faults (tests/faults): 10 kills a training 50 times")


# XLA compiles twice as fast with them, and most of the time of these tests goes into compilation.
QUICK_XLA = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def xla_knows(flags):
    """XLA ends a process with a flag that its version does not have."""
    code = "import jax; jax.devices()"
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True).returncode == 0


def pytest_configure(config):
    """In this process and its workers, before the first use of a device."""
    if not config.getoption("--optimized") and "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["XLA_FLAGS"] += QUICK_XLA if xla_knows(QUICK_XLA) else ""  # which its workers inherit


def pytest_runtest_setup(item):
    """Long tests run for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", not ("slow" in item.keywords or item.config.getoption("--optimized")))


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.name != "test_documents.py")  # the file that takes longest begins first
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="long: --slow"))


def pytest_terminal_summary(terminalreporter):
    """How many trials the tests of faults made, by kind."""
    total = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, value in report.user_properties:
                    total.update(json.loads(value) if name == "tried" else {})
    if total:
        terminalreporter.write_line(f"faults tried: {', '.join(f'{kind} {count}' for kind, count in sorted(total.items()))}")


ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared"


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def unchecked():
    """Without the tests' own checks of shapes, which would refuse bad arguments before the functions do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """One directory for all workers of a run: what one has compiled no other compiles again."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("IROB_CACHE", str(shared / "cache"))


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go():
    """With their file: those of all files together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def small():
    """The small network with weights that are not all alike in scale, as after training."""
    import irob

    network = irob.create("small", (28, 28, 1), 10)
    params = network.initial_params(seed=1)
    params["conv_2"]["bias"] = np.random.default_rng(2).normal(size=100).astype(np.float32)
    return network, params


@pytest.fixture(scope="session")
def digits():
    from experiments import data

    return data.load_split("digits", "test").first(24)


@pytest.fixture(scope="session")
def trained():
    """A model: the small network after a few plain gradient steps, so that its predictions are right."""
    import jax
    import optax

    import irob
    from experiments import data
    from experiments.runtime.models import EvaluatedModel

    network = irob.create("small", (28, 28, 1), 10)
    train = data.load_split("digits", "train")
    x, labels = train.images[:300] / np.float32(255), train.labels[:300]

    def loss(params):
        return jax.numpy.mean(jax.vmap(lambda x, t: irob.cross_entropy(network.explain(params, x).logits, t))(x, labels))

    params, adam = network.initial_params(), optax.adam(3e-3)
    state = adam.init(params)

    @jax.jit
    def step(params, state):
        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(40):
        params, state = step(params, state)
    return EvaluatedModel("trained", network, jax.tree.map(np.asarray, params), "digits", "linf", (0.0, 0.1), 3, {})


@pytest.fixture(scope="session")
def commands():
    from commands import Commands

    return Commands(QUICK_XLA if QUICK_XLA in os.environ["XLA_FLAGS"] else "")
