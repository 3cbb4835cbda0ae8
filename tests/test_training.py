"""Training: the step against the same written out, the log, the workdir, interruption and resumption."""

import json
import os
import sys
import zlib

import jax
import numpy as np
import optax
import pytest
import tfds_directories

import irob
from experiments import data
from experiments.configs import base
from experiments.data.splits import Images
from experiments.runtime import devices
from experiments.runtime.checkpoints import Checkpoints, checksums
from experiments.runtime.errors import UserError
from experiments.runtime.models import build_network
from experiments.runtime.plan import current_plan
from experiments.training import loop, recipe, validation
from experiments.training.log import Log
from experiments.training.loop import train
from experiments.training.step import (
    initial_state,
    keys_of_batch,
    make_attack,
    make_gradient,
    make_step,
    residual_floats,
    steps_at_once,
    zero_metrics,
)
from experiments.training.validation import validation_scores
from experiments.training.workdir import locked_workdir
from irob.attacks import AttackResult


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = base.load_config("digits:int,tiny")
    return workdir, config, train(config, str(workdir))


def test_eps_and_learning_rate_follow_the_papers_formulas():
    config = base.load_config("digits:int")
    config.eps, config.eps_ramp = 0.3, (2_000, 10_000)
    for step, expected in ((0, 0.0), (2_000, 0.0), (6_000, 0.15), (10_000, 0.3), (20_000, 0.3)):
        np.testing.assert_allclose(recipe.eps_at(config, np.int32(step)), expected, rtol=1e-6)
    config.learning_rate = 1e-3
    config.schedule = base.load_config("cifar10:int").schedule
    for step, expected in ((40_000, 1e-3), (40_001, 1e-4), (60_000, 1e-4), (60_001, 1e-5)):
        np.testing.assert_allclose(recipe.learning_rate_at(config, np.int32(step)), expected, rtol=1e-5)


@pytest.mark.parametrize("map_name", ["cam", pytest.param("saliency", marks=pytest.mark.slow)])
def test_a_step_is_the_attack_then_adam_on_the_outer_loss(map_name):
    """Against the same written out for one device, example by example, with another form of the network."""
    config = base.load_config("digits:int,tiny")
    config.eps_ramp, config.map = (0, 0), map_name
    network, defense = build_network(config), base.defense_of(config)
    state = initial_state(config, network)._replace(step=np.array(1, np.int32))
    split = data.load_split("digits", "train")
    images, labels = split.images[:8], split.labels[:8]
    step = make_step(config, network, defense, current_plan())
    new_state, sums = step(
        devices.replicate(state), devices.replicate(zero_metrics()), *devices.shard((images[None], labels[None]), axis=1)
    )

    x = images.astype(np.float32) / 255
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 1)
    explain = lambda params: irob.explainer(map_name, network, lambda network, _: lambda z: network.apply({"params": params}, z))
    ball, sizes = irob.LInf(config.eps), irob.constant_steps(config.attack.step_size, config.attack.num_steps)
    attack = jax.jit(
        lambda params, x, label, start: irob.pgd(defense.inner(explain(params), x, label), ball, x, step_sizes=sizes, start=start)
    )
    loss = jax.jit(jax.value_and_grad(lambda params, *example: defense.outer(explain(params), *example)))
    of_each = []
    for i in range(8):
        x_adv = attack(state.params, x[i], labels[i], ball.random_point(jax.random.fold_in(key, i), x[i]))
        of_each.append(loss(state.params, x[i], x_adv, labels[i]))
    value, gradient = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *of_each)
    np.testing.assert_allclose(devices.unreplicate(sums).loss, value, rtol=1e-5)
    optimizer = optax.adam(config.learning_rate)
    updates, _ = optimizer.update(gradient, optimizer.init(state.params))
    expected = optax.apply_updates(state.params, updates)
    moved = jax.tree.map(lambda a, b: np.mean(np.abs(a - b) > 1e-5), devices.unreplicate(new_state).params, expected)
    assert max(jax.tree.leaves(moved)) < 0.01  # Adam's first step is lr * sign(g): signs of vanishing gradients may differ


def test_validation_is_accuracy_clean_and_under_a_plain_loop(trained, digits):
    """Ten steps of eps / 4 on the cross-entropy from the random start of each image, last iterate."""
    config = base.load_config("digits:int")
    config.seed, config.eps = 3, 0.02
    split = Images(digits.images[:9], digits.labels[:9], {})
    scores = validation_scores(config, trained.network, trained.params, split)
    x, eps = split.images / np.float32(255), np.float32(0.02)
    logits = jax.jit(jax.vmap(lambda x: trained.network.explain(trained.params, x).logits))
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, t: irob.cross_entropy(trained.network.explain(trained.params, x).logits, t))))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), zlib.crc32(b"cross_entropy")), 0)
    x_adv = np.stack([irob.LInf(eps).random_point(jax.random.fold_in(key, i), x[i]) for i in range(9)])
    for _ in range(10):
        x_adv = np.clip(np.clip(x_adv + eps / 4 * np.sign(gradient(x_adv, split.labels)), x - eps, x + eps), 0, 1)
    clean, robust = (np.argmax(logits(z), axis=1) == split.labels for z in (x, x_adv))
    assert scores["clean_accuracy"] == pytest.approx(clean.mean())
    assert abs(scores["robust_accuracy"] - (clean & robust).mean()) <= 1 / 9 + 1e-9
    assert 0 < scores["robust_accuracy"] < scores["clean_accuracy"]


def test_a_network_that_predicts_no_class_has_accuracy_zero(trained, digits):
    config = base.load_config("digits:int")
    broken = jax.tree.map(lambda a: np.full_like(a, np.nan), trained.params)
    assert set(validation_scores(config, trained.network, broken, digits).values()) == {0.0}


def test_the_floats_stored_for_the_backward_pass():
    """Four times the layers; for each gradient that is differentiated again, and for each class of it."""
    network = irob.create("small", (28, 28, 1), 10)
    layers = 14 * 14 * 16 + 7 * 7 * 32 + 7 * 7 * 100
    defenses = {name: irob.DEFENSES[name] for name in ("int", "ig_norm", "int_ig")}
    assert residual_floats(network, defenses["int"](), 0) == 4 * layers
    assert residual_floats(network, defenses["int"](), 10) == 4 * layers * 10 * 10
    assert residual_floats(network, defenses["ig_norm"](chunk=5), 0) == 4 * layers * 5
    assert residual_floats(network, defenses["int_ig"](chunk=2), 0) == 4 * layers * 2 * 10


REFERENCE_LOSSES = [2.339038, 2.712888, 2.334722, 2.321081]


def test_the_reference_steps(finished):
    """Mean losses of steps 1-2, 3-4, 5-6, 7-8: eps 0 and the ramp, then the attack at full eps.

    If a change of arithmetic moves them, find out why before writing the new numbers.
    """
    workdir, _, _ = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["loss"] for line in lines if "loss" in line], REFERENCE_LOSSES, rtol=2e-5)


def test_the_workdir_holds_everything(finished):
    workdir, config, state = finished
    assert json.loads((workdir / "config.json").read_text())["method"] == "int"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "validation_robust_accuracy" in line] == [4, 8]
    assert list((workdir / "tensorboard").glob("events.*"))
    with Checkpoints(workdir, read_only=True) as checkpoints:
        restored = checkpoints.restore("latest", state)
    assert checksums(restored.state) == checksums(state)
    assert restored.metadata["config"]["seed"] == config.seed
    assert {"jax", "irob", "python"} <= set(restored.metadata["versions"])
    assert restored.metadata["data_position"] == {"epoch": 0, "batch": 8}


def test_another_config_is_refused_with_a_diff(finished):
    workdir, config, _ = finished
    other = config.copy_and_resolve_references()
    other.learning_rate = 0.5
    with pytest.raises(UserError, match=r"run of another config: use .* or its values: config.learning_rate: 0.002 -> 0.5"):
        train(other, str(workdir))


def test_what_does_not_decide_the_result_does_not_stop_a_run(finished):
    workdir, config, state = finished
    other = config.copy_and_resolve_references()
    other.log_every, other.keep_last, other.evaluation.eps = 4, 5, (0.0, 0.3)
    assert checksums(train(other, str(workdir))) == checksums(state)


def test_a_finished_run_is_left_alone(finished, capsys):
    workdir, config, state = finished
    assert checksums(train(config, str(workdir))) == checksums(state)
    assert "has all 8 steps already" in capsys.readouterr().err


def test_checkpoints_of_another_network_are_refused(finished, tmp_path):
    workdir, config, _ = finished
    other = config.copy_and_resolve_references()
    other.network = "pool"
    with locked_workdir(str(tmp_path), other):
        pass
    os.symlink(workdir / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match="of another network"):
        train(other, str(tmp_path))


@pytest.mark.parametrize("bad_step", [6, 8])
def test_a_step_that_is_not_finite_stops_and_keeps_the_good_checkpoint(tmp_path, monkeypatch, bad_step):
    """Step 8 saves: its loss is still finite, its new parameters are not."""
    config = base.load_config("digits:normal,tiny")
    monkeypatch.setattr(loop, "check_recipe", lambda *_: None)  # which refuses such a schedule
    monkeypatch.setattr(recipe, "schedule", lambda config: lambda step: jax.numpy.where(step >= bad_step - 1, jax.numpy.inf, 1e-3))
    with pytest.raises(UserError, match=rf"not finite at step {bad_step}: .* kept"):
        train(config, str(tmp_path))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [4]


def test_a_validation_attack_that_is_not_finite_stops(trained, digits, monkeypatch):
    config = base.load_config("digits:normal,tiny", ["validation.attack_steps=1"])
    nowhere = lambda objective, ball, x, key, num_steps: AttackResult(jax.numpy.nan * x, 0.0)
    monkeypatch.setattr(validation, "ATTACK", nowhere)
    with pytest.raises(UserError, match=r"the validation attack has no finite gradient for \d images: the logits overflow"):
        validation_scores(config, trained.network, trained.params, digits.first(4))


def test_a_start_that_fails_leaves_the_workdir_free(tmp_path):
    config = base.load_config("digits:normal,tiny")
    config.batch_size = 4_000
    with pytest.raises(UserError, match="training split has only 1297 images"):
        train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_other_data_than_the_run_began_with_are_refused(finished, tmp_path, monkeypatch):
    workdir, config, _ = finished
    load = data.load_split
    altered = lambda *a: load(*a)._replace(source={"name": "digits", "from": "elsewhere", "sha256": "0"})
    monkeypatch.setattr(loop.data, "load_split", altered)
    with pytest.raises(UserError, match=r"config.data: '\w+' -> '0'"):
        train(config, str(workdir))


def test_a_workdir_without_its_config_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"holds checkpoints or logs but no config\.json"):
        train(base.load_config("digits:normal,tiny"), str(tmp_path))


def test_one_training_at_a_time(tmp_path):
    config = base.load_config("digits:normal,tiny")
    with locked_workdir(str(tmp_path), config), pytest.raises(UserError, match="another training is running in"):
        train(config, str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="/proc is what root cannot write to")
def test_a_workdir_that_cannot_be_written():
    with pytest.raises(UserError, match=r"--workdir /proc/nothing cannot be written"):
        train(base.load_config("digits:normal,tiny"), "/proc/nothing")


def test_a_half_written_line_of_the_log_is_dropped_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    with Log(tmp_path, 4, base.load_config("digits:int,tiny")) as log:
        log.training(6, 0.5)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_streamed_data_set_trains(tmp_path):
    """Restricted ImageNet at its size: 30 pictures of the released schema."""
    tfds_directories.write_imagenet(tmp_path / "tfds", n=48)
    config = base.load_config("restricted_imagenet:int,tiny")
    config.num_steps = config.checkpoint_every = 2
    config.eps_ramp = (0, 1)
    config.validation.num_examples = 4
    train(config, str(tmp_path / "run"), str(tmp_path / "tfds"))
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
        assert checkpoints.metadata("latest")["data"]["name"] == "restricted_imagenet"


def test_several_steps_in_a_dispatch_are_the_same_steps(finished, tmp_path):
    _, config, alone = finished
    together = config.copy_and_resolve_references()
    together.steps_per_dispatch = 2
    state = train(together, str(tmp_path))
    assert int(state.step) == 8
    # Another program rounds otherwise, and Adam's first steps have the size of the learning rate whatever the gradient's.
    moved = jax.tree.map(lambda a, b: np.mean(np.abs(a - b) > 1e-4), state.params, alone.params)
    assert max(jax.tree.leaves(moved)) < 0.02
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    np.testing.assert_allclose(losses, REFERENCE_LOSSES, rtol=1e-3)


def test_short_steps_are_dispatched_together():
    config = base.load_config("digits:normal")
    network, large = build_network(config), irob.create("wresnet", (32, 32, 3), 10)
    defense, attacked = (base.defense_of(base.load_config(f"digits:{method}")) for method in ("normal", "adv"))
    config.num_steps, config.checkpoint_every, config.log_every = 2_000, 1_000, 100
    assert steps_at_once(config, network, defense) == 10
    assert steps_at_once(config, network, attacked) == steps_at_once(config, large, defense) == 1
    assert steps_at_once(config, network, defense, start=35) == 5  # the next multiple of every interval is met
    config.num_steps = 2_004
    assert steps_at_once(config, network, defense) == 2
    config.num_steps, config.steps_per_dispatch = 2_000, 4
    assert steps_at_once(config, network, defense) == steps_at_once(config, large, attacked) == 4


def test_of_a_method_without_an_attack_steps_together_are_the_same_steps(tmp_path):
    config = base.load_config("digits:normal,tiny")
    assert steps_at_once(config, build_network(config), base.defense_of(config)) > 1
    together = train(config, str(tmp_path / "together"))
    config.steps_per_dispatch = 1
    alone = train(config, str(tmp_path / "alone"))
    moved = jax.tree.map(lambda a, b: np.mean(np.abs(a - b) > 1e-4), together.params, alone.params)
    assert max(jax.tree.leaves(moved)) < 0.02 and int(together.step) == int(alone.step) == 8


@pytest.mark.slow
def test_an_attack_in_bfloat16_trains(tmp_path):
    config = base.load_config("digits:int,tiny")
    config.attack.dtype = "bfloat16"
    train(config, str(tmp_path))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    np.testing.assert_allclose(losses, REFERENCE_LOSSES, rtol=2e-2)
    assert np.abs(np.array(losses[2:]) / REFERENCE_LOSSES[2:] - 1).max() > 5e-5, "it was an attack in float32"


@pytest.mark.slow
def test_interrupted_between_dispatches_it_ends_with_the_same_parameters(tmp_path, monkeypatch):
    config = base.load_config("digits:int,tiny")
    config.steps_per_dispatch = 2
    whole = train(config, str(tmp_path / "whole"))
    at_each_save = iter([loop.validation_scores, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)])
    with monkeypatch.context() as patched:
        patched.setattr(loop, "validation_scores", lambda *arguments: next(at_each_save)(*arguments))
        with pytest.raises(KeyboardInterrupt):
            train(config, str(tmp_path / "again"))
    with Checkpoints(tmp_path / "again", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4]
    assert checksums(train(config, str(tmp_path / "again"))) == checksums(whole)


def test_dropout_draws_by_seed_step_and_position(digits):
    """Of a network whose dropout keeps half of the units: the loss of each image is that of flax with its own key, the same for x and x'."""
    config = base.load_config("digits:trades,tiny")
    config.network = "test_adapters:make_dropped"
    network, defense = build_network(config), base.defense_of(config)
    state = initial_state(config, network)._replace(step=np.int32(5))
    x, labels = digits.images[:8] / np.float32(255), digits.labels[:8]
    x_adv = np.clip(x + 0.1, 0, 1)

    def on_device(x, x_adv, labels):
        keys = keys_of_batch(state, len(labels))("dropout")
        return make_gradient(config, network, defense, current_plan())(state.params, x, x_adv, labels, keys)[0]

    found = devices.pmap(on_device)(*devices.shard((x, x_adv, labels)))
    step_key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), 5), zlib.crc32(b"dropout"))
    losses = []
    for i in range(8):
        rngs = {"dropout": jax.random.fold_in(step_key, i)}
        clean, adversarial = (network.module.apply(state.params, z[None], train=True, rngs=rngs)[0] for z in (x[i], x_adv[i]))
        losses.append(irob.cross_entropy(clean, labels[i]) + irob.losses.kl_divergence(clean, adversarial))
    np.testing.assert_allclose(np.mean(found), np.mean(losses), rtol=1e-5)
    assert np.std([float(loss) for loss in losses]) > 0


@pytest.mark.parametrize("passed", ["adversarial", "clean", "both"])
def test_a_step_of_a_network_with_batch_norm_is_flaxs_on_the_whole_batch(passed, digits):
    """On four devices: the loss of `adv`, Adam, and the running statistics of the pass that the config names."""
    config = base.load_config("digits:adv,tiny", [f"batch_statistics={passed}", "eps_ramp=0,0"])
    config.network = "test_adapters:make_normalized"
    network, defense = build_network(config), base.defense_of(config)
    state = initial_state(config, network)._replace(step=np.int32(1))  # eps is 0 before
    images, labels = digits.images[:8], digits.labels[:8]
    taken, _ = make_step(config, network, defense, current_plan())(
        devices.replicate(state), devices.replicate(zero_metrics()), images.reshape(4, 1, 2, 28, 28, 1), labels.reshape(4, 1, 2)
    )
    after = devices.unreplicate(taken)
    x = images / np.float32(255)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(jax.random.wrap_key_data(state.key), 1), np.arange(8))
    attack = make_attack(config, network, defense, current_plan())
    x_adv = jax.jit(attack)(state.params, x, labels, keys, np.float32(config.eps))

    def loss(params, x):
        logits, new = network.module.apply({**state.params, "params": params}, x, train=True, mutable=["batch_stats"])
        return jax.numpy.mean(jax.vmap(irob.cross_entropy)(logits, labels)), new["batch_stats"]

    gradient, _ = jax.jit(jax.grad(loss, has_aux=True))(state.params["params"], x_adv)
    variables = state.params
    for images in {"clean": [x], "adversarial": [x_adv], "both": [x, x_adv]}[passed]:
        _, new = network.module.apply(variables, images, train=True, mutable=["batch_stats"])
        variables = {**variables, **new}
    statistics = variables["batch_stats"]
    for found, expected in zip(jax.tree.leaves(after.params["batch_stats"]), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for found, expected in zip(jax.tree.leaves(after.optimizer[0].mu["params"]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(found / 0.1, expected, atol=2e-4 * max(np.abs(expected).max(), 1e-2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("make_training", "its __call__ takes 'training': training passes train=True"),
        ("make_without", "it has BatchNorm and its __call__ takes no flag"),
    ],
)
def test_a_network_that_would_not_know_that_it_is_trained_is_refused(tmp_path, name, message):
    config = base.load_config("digits:adv,tiny")
    config.network = f"test_adapters:{name}"
    with pytest.raises(UserError, match=message):
        train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_ramp_that_ends_after_the_run_is_said(tmp_path, capsys):
    config = base.load_config("digits:adv,tiny", ["num_steps=4", "eps_ramp=2,100"])
    train(config, str(tmp_path))
    assert "warning: eps is 0.00122449 at the last step, not 0.12: config.eps_ramp = (2, 100) ends after it" in capsys.readouterr().err


def test_a_ramp_that_ends_in_time_is_no_news(finished, capsys):
    workdir, config, _ = finished
    train(config, str(workdir))
    assert "warning" not in capsys.readouterr().err


def test_a_start_that_fails_on_its_parameters_leaves_the_workdir_free(tmp_path):
    config = base.load_config("digits:normal,tiny", ["init_from=/nowhere.npz"])
    with pytest.raises(UserError, match=r"there is no file of variables /nowhere.npz"):
        train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment=padded_crop(pad=-1)", r"the augmentation padded_crop\(pad=-1\) of images \(28, 28, 1\): pad must not be negative"),
        ("mix=mixup(alpha=0.0)", r"the mixture mixup\(alpha=0.0\) .*: alpha must be positive, got 0.0: mix=none mixes nothing"),
        ("augment=test_training:halved", r"must return float32 images of shape \(28, 28, 1\)"),
    ],
)
def test_augmentations_are_tried_before_the_workdir_is_taken(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(base.load_config("digits:adv,tiny", [override]), str(tmp_path))
    assert not list(tmp_path.iterdir())


def halved(key, x):
    """An augmentation that is none."""
    return x[::2]
