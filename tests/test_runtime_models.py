"""Models from files of weights and from workdirs."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import irob
from experiments.configs import base
from experiments.runtime import models
from experiments.runtime.checkpoints import SCORE, Checkpoints, checksums
from experiments.runtime.errors import UserError


@pytest.fixture
def weights(tmp_path):
    def write(network="small", shape=(28, 28, 1), num_classes=10, change=lambda params: None):
        net = irob.create(network, shape, num_classes)
        params = net.initial_params()
        change(params)
        file = tmp_path / f"{network}.pkl"
        file.write_bytes(irob.paper.dumps(net, params))
        return str(file)

    return write


def test_a_file_of_weights_is_measured_like_its_data_set(weights):
    model = models.from_weights(weights("pool"), "mnist")
    assert model.name == "pool" and model.norm == "linf" and model.seed == 99
    assert model.eps == (0.0, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4)
    assert model.network == irob.create("pool", (28, 28, 1), 10)
    assert len(model.provenance["weights"]["sha256"]) == 64 and model.provenance["config"] is None


def test_the_ladder_has_zero_and_ascends(weights):
    model = models.from_weights(weights(), "mnist")
    assert models.eps_ladder(model, (0.3, 0.1)) == (0.0, 0.1, 0.3)
    assert models.eps_ladder(model, None) == model.eps
    with pytest.raises(UserError, match=r"--eps: 1.5 is not a valid eps: every linf eps must be in"):
        models.eps_ladder(model, (1.5,))


def test_weights_of_another_data_set_are_refused(weights):
    with pytest.raises(UserError, match="is a network for images with 1 channels and 10 classes; cifar10 has 3 and 10"):
        models.from_weights(weights(), "cifar10")
    with pytest.raises(UserError, match="with 3 channels and 10 classes; restricted_imagenet has 3 and 9"):
        models.from_weights(weights("wresnet", (32, 32, 3)), "restricted_imagenet")
    assert models.from_weights(weights("wresnet", (32, 32, 3), 9), "restricted_imagenet").network.input_shape == (224, 224, 3)


def test_weights_that_are_not_finite_must_be_forced(weights, capsys):
    def break_it(params):
        params["conv_1"]["bias"] = np.full(32, np.nan, np.float32)

    file = weights(change=break_it)
    with pytest.raises(UserError, match="not finite are conv_1/bias; such a network predicts no class"):
        models.from_weights(file, "mnist")
    model = models.from_weights(file, "mnist", force=True)
    assert model.provenance["weights"]["not_finite"] == ["conv_1/bias"]
    assert "warning: --weights" in capsys.readouterr().err


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"nothing")
    for file, message in ((tmp_path / "none.pkl", "cannot be read: No such file"), (tmp_path / "w.pkl", "it is no file of weights")):
        with pytest.raises(UserError, match=message):
            models.from_weights(str(file), "mnist")
    with pytest.raises(UserError, match="needs --dataset, one of digits, mnist"):
        models.from_weights("w.pkl", None)
    with pytest.raises(UserError, match="unknown data set 'svhn'"):
        models.from_weights("w.pkl", "svhn")


class Unknown(NamedTuple):
    """A training state of an optimizer that this version does not have."""

    params: Any
    slots: Any


def test_a_workdir_is_read_whatever_optimizer_trained_it(tmp_path):
    config = base.load_config("digits:int,tiny")
    params = models.build_network(config).initial_params(seed=5)
    metadata = {"config": base.plain_config(config), "versions": {"jax": "0"}, "data": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(8, Unknown(params, {"ema": params, "trace": [np.zeros(3)]}), metadata, {SCORE: 0.5})
    model = models.from_workdir(str(tmp_path))
    assert checksums(model.params) == checksums(params)
    assert (model.name, model.norm, model.eps) == ("int", "linf", (0.0, 0.05, 0.1, 0.15, 0.2))
    assert model.provenance["checkpoint"]["step"] == 8 and model.provenance["config"]["defense"] == {"weight": 0.01}


def test_networks_with_the_same_parameters_are_told_apart():
    """By what they compute: an unfinished evaluation of one is not continued with another."""
    init = lambda seed: np.ones((4, 2), np.float32)
    networks = [irob.models.from_function(lambda w, x, s=s: s * (x.reshape(-1) @ w), init, (2, 2, 1), 2) for s in (1.0, -1.0, 1.0)]
    one, other, same = (models.network_digest(network, init(0)) for network in networks)
    assert one == same != other


def test_a_make_may_return_a_function_of_random_numbers():
    config = base.load_config("digits:adv,tiny")
    config.network = "test_runtime_models:drawn"
    network = models.build_network(config)
    kernels = [network.initial_params(seed)["params"]["head"]["kernel"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.1
    config.network = "test_runtime_models:nothing"
    with pytest.raises(UserError, match=r"it must return an irob.types.Model, or a linen or nnx module"):
        models.build_network(config)


def drawn(input_shape, num_classes):
    """For `config.network`: nnx modules of a seed."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.features = nnx.Conv(input_shape[-1], 8, (4, 4), strides=4, rngs=rngs)
            self.head = nnx.Linear(8, num_classes, rngs=rngs)

        def __call__(self, x):
            return self.head(self.features(x).mean(axis=(-3, -2)))

    return lambda rngs: Net(rngs)


def nothing(input_shape, num_classes):
    """For `config.network`, and no network."""
    return 3


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_read_from_the_next(tmp_path, monkeypatch):
    """As a training that goes on does it."""
    import shutil

    from experiments.training.loop import train

    train(base.load_config("digits:normal,tiny"), str(tmp_path))
    read, deleted = Checkpoints.restore_params, []

    def deleting(self, which, like, part="params"):
        if not deleted:
            deleted.append(shutil.rmtree(tmp_path / "checkpoints" / "8"))
        return read(self, which, like, part)

    monkeypatch.setattr(Checkpoints, "restore_params", deleting)
    assert models.from_workdir(str(tmp_path)).provenance["checkpoint"]["step"] == 4 and deleted
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    with pytest.raises(UserError, match="there is no complete checkpoint"):
        models.from_workdir(str(tmp_path))
