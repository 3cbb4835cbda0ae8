"""Four fake devices, shape checks in every function of irob; the fixtures that several files share."""

import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # it would win
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jaxtyping
import numpy as np
import pytest

hook = jaxtyping.install_import_hook("irob", "beartype.beartype")
hook.__enter__()

hypothesis.settings.register_profile("irob", deadline=None, max_examples=40)
hypothesis.settings.load_profile("irob")

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared"


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("IROB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


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

    return data.load("digits", "test").first(24)


@pytest.fixture(scope="session")
def trained():
    """The small network after a few plain gradient steps, so that its predictions are right."""
    import jax
    import optax

    import irob
    from experiments import data

    network = irob.create("small", (28, 28, 1), 10)
    train = data.load("digits", "train")
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
    return network, jax.tree.map(np.asarray, params)


@pytest.fixture(scope="session")
def commands():
    from commands import Commands

    return Commands()
