import numpy as np
import pytest

import irob
from experiments import subjects
from experiments.cli import UserError


@pytest.fixture
def weights(tmp_path):
    def write(network="small", shape=(28, 28, 1), num_classes=10, change=lambda params: None):
        net = irob.create(network, shape, num_classes)
        params = net.initial_params()
        change(params)
        file = tmp_path / f"{network}.pkl"
        file.write_bytes(irob.authors.dumps(net, params))
        return str(file)

    return write


def test_a_file_of_weights_is_measured_like_its_data_set(weights):
    subject = subjects.from_weights(weights("pool"), "mnist")
    assert subject.name == "pool" and subject.norm == "linf" and subject.seed == 99
    assert subject.eps == (0.0, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4)
    assert subject.network == irob.create("pool", (28, 28, 1), 10)
    assert len(subject.about["weights"]["sha256"]) == 64 and subject.about["config"] is None


def test_the_ladder_has_zero_and_ascends(weights):
    subject = subjects.from_weights(weights(), "mnist")
    assert subject.ladder((0.3, 0.1)) == (0.0, 0.1, 0.3)
    assert subject.ladder(None) == subject.eps
    with pytest.raises(UserError, match=r"--eps: 1.5 is no radius"):
        subject.ladder((1.5,))


def test_weights_of_another_data_set_are_refused(weights):
    with pytest.raises(UserError, match="is a network for images of 1 colours and 10 classes; cifar10 has 3 and 10"):
        subjects.from_weights(weights(), "cifar10")
    with pytest.raises(UserError, match="of 3 colours and 10 classes; restricted_imagenet has 3 and 9"):
        subjects.from_weights(weights("wresnet", (32, 32, 3)), "restricted_imagenet")
    assert subjects.from_weights(weights("wresnet", (32, 32, 3), 9), "restricted_imagenet").network.input_shape == (224, 224, 3)


def test_weights_that_are_not_finite_must_be_forced(weights, capsys):
    def break_it(params):
        params["conv_1"]["bias"] = np.full(32, np.nan, np.float32)

    file = weights(change=break_it)
    with pytest.raises(UserError, match="not finite are conv_1/bias; such a network predicts nothing"):
        subjects.from_weights(file, "mnist")
    subject = subjects.from_weights(file, "mnist", force=True)
    assert subject.about["weights"]["not_finite"] == ["conv_1/bias"]
    assert "warning: --weights" in capsys.readouterr().err


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"nothing")
    for file, message in ((tmp_path / "none.pkl", "cannot be read: No such file"), (tmp_path / "w.pkl", "it is no file of weights")):
        with pytest.raises(UserError, match=message):
            subjects.from_weights(str(file), "mnist")
    with pytest.raises(UserError, match="needs --dataset, one of digits, mnist"):
        subjects.from_weights("w.pkl", None)
    with pytest.raises(UserError, match="unknown data set 'svhn'"):
        subjects.from_weights("w.pkl", "svhn")
