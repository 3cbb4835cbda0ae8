"""Optimizers and schedules by name against NumPy; the moving average, patience, extension and initial parameters of a run."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import base
from experiments.runtime.calls import parsed
from experiments.runtime.checkpoints import Checkpoints, checksums
from experiments.runtime.errors import UserError
from experiments.runtime.models import from_workdir
from experiments.training import loop, recipe
from experiments.training.loop import History, train
from experiments.training.step import TrainState, moving_average


def config_of(*overrides, variant="digits:normal,tiny"):
    config = base.load_config(variant, overrides)
    base.validate_config(config)
    return config


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant_schedule", lambda s: 0.5),
        ("cosine_decay_schedule", lambda s: 0.5 * (1 + math.cos(math.pi * s / 100)) / 2),
        ("cosine_decay_schedule(decay_steps=50, alpha=0.1)", lambda s: 0.05 + 0.45 * (1 + math.cos(math.pi * min(s, 50) / 50)) / 2),
        ("linear_schedule(end_value=0.1)", lambda s: 0.5 - 0.4 * s / 100),
        ("warmup_constant_schedule(warmup_steps=20)", lambda s: 0.5 * min(s / 20, 1)),
        (
            "warmup_cosine_decay_schedule(warmup_steps=20)",
            lambda s: 0.5 * s / 20 if s < 20 else 0.5 * (1 + math.cos(math.pi * (s - 20) / 80)) / 2,
        ),
        (
            "piecewise_constant_schedule(boundaries_and_scales={30: 0.1, 60: 0.5})",
            lambda s: 0.5 * (0.1 if s >= 30 else 1) * (0.5 if s >= 60 else 1),
        ),
        ("exponential_decay(decay_rate=0.25)", lambda s: 0.5 * 0.25 ** (s / 100)),
    ],
)
def test_schedules_get_the_learning_rate_and_the_number_of_steps(schedule, expected):
    config = config_of(f"schedule={schedule}", "learning_rate=0.5", "num_steps=100")
    for step in (0, 10, 29, 30, 59, 60, 90):
        np.testing.assert_allclose(recipe.learning_rate_at(config, np.int32(step)), expected(step), rtol=1e-5, atol=1e-7)


def test_a_one_cycle_schedule_has_its_peak_at_the_learning_rate():
    config = config_of("schedule=cosine_onecycle_schedule(pct_start=0.3)", "learning_rate=0.5", "num_steps=100")
    rates = [float(recipe.learning_rate_at(config, np.int32(step))) for step in range(101)]
    assert np.argmax(rates) == 30 and max(rates) == pytest.approx(0.5) and rates[0] == pytest.approx(0.5 / 25) and rates[-1] < 1e-4


def test_a_schedule_of_old_configs_is_converted():
    stored = base.plain_config(base.load_config("digits:int"))
    del stored["schedule"], stored["optimizer"]
    stored["learning_rate_drops"] = [2_500]
    assert base.changes(base.with_defaults(stored), base.plain_config(base.load_config("digits:int"))) == []
    assert base.plain_config(base.load_config("digits:int"))["schedule"][1] == {"boundaries_and_scales": {"2501": 0.1}}


PARAMS = {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.array([0.5, 0.25], np.float32)}
GRADIENTS = [{"kernel": np.array([[3.0, 4.0 * i]], np.float32), "bias": np.array([1.0, -1.0], np.float32)} for i in range(4)]


def after(config, gradients):
    transformation = recipe.optimizer(config)
    params, state = PARAMS, transformation.init(PARAMS)
    for gradient in gradients:
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_with_momentum_weight_decay_and_clipping_is_that_of_pytorch():
    config = config_of("optimizer=sgd(momentum=0.9, nesterov=true)", "learning_rate=0.1", "weight_decay=0.01", "clip_norm=2")
    values = {name: value.astype(np.float64) for name, value in PARAMS.items()}
    momentum = dict.fromkeys(values, 0.0)
    for gradient in GRADIENTS:
        norm = math.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values()))
        for name in values:
            g = gradient[name] * min(1, 2 / norm) + (0.01 * values[name] if name == "kernel" else 0)
            momentum[name] = 0.9 * momentum[name] + g
            values[name] = values[name] - 0.1 * (g + 0.9 * momentum[name])
    found = after(config, GRADIENTS)
    for name, value in values.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_decoupled_decay_of_an_optimizer_leaves_biases_alone():
    config = config_of("optimizer=adamw(weight_decay=0.5)", "learning_rate=0.1")
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    found = after(config, [zeros])
    np.testing.assert_allclose(found["kernel"], PARAMS["kernel"] * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], PARAMS["bias"])


def test_accumulated_steps_are_one_update_with_the_mean_gradient():
    of_two = config_of("optimizer=sgd", "learning_rate=0.1", "accumulate_steps=2", "schedule=linear_schedule(end_value=0.0)", "num_steps=8")
    found = after(of_two, GRADIENTS)
    expected = {name: value.copy() for name, value in PARAMS.items()}
    for update in range(2):
        rate = 0.1 * (1 - update / 4)
        for name in expected:
            expected[name] -= rate * (GRADIENTS[2 * update][name] + GRADIENTS[2 * update + 1][name]) / 2
        assert recipe.learning_rate_at(of_two, np.int32(2 * update + 1)) == pytest.approx(rate)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_the_moving_average_forgets_the_initial_parameters():
    config = config_of("ema_decay=0.9", "accumulate_steps=2")
    state, average = TrainState(None, None, np.int32(0), None, jnp.float32(5.0)), 5.0
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]):
        found = moving_average(config, state, jnp.float32(value))
        if step % 2:  # an update was made
            updates = (step + 1) // 2
            decay = min(0.9, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * value
        np.testing.assert_allclose(found, average, rtol=1e-6)
        state = state._replace(step=np.int32(step + 1), averaged=found)


def test_optimizers_that_cannot_work_are_refused_before_the_first_step(tmp_path):
    config = config_of("optimizer=rprop")
    with pytest.raises(UserError, match=r"config.optimizer, config.schedule: rprop with .* make no optimizer"):
        train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_texts_that_are_no_call():
    for text in (
        "sgd(",
        "sgd(0.9)",
        "sgd momentum",
        "",
        "sgd(momentum=)",
        "sgd(momentum=a/2)",
        "sgd(momentum=1/0)",
        "sgd(a=1)(b=2)",
        "sgd(**x)",
    ):
        with pytest.raises(ValueError, match="a name, a name with keyword arguments"):
            parsed(text)
    assert parsed("package.module:make(a=1/4, b=text, c={1: 0.1})") == ("package.module:make", {"a": 0.25, "b": "text", "c": {"1": 0.1}})


def own_schedule(learning_rate, halved_at=10):
    """A schedule of one's own, by test_recipe:own_schedule."""
    return lambda step: learning_rate * jnp.where(step >= halved_at, 0.5, 1.0)


# --- runs -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Eight steps with everything: augmentation, smoothing, SGD, decay, clipping, an average."""
    overrides = (
        "optimizer=sgd(momentum=0.9)",
        "schedule=cosine_decay_schedule",
        "learning_rate=0.05",
        "weight_decay=1e-4",
        "clip_norm=1",
        "ema_decay=0.5",
        "label_smoothing=0.1",
        "augment=flip,padded_crop(pad=2)",
        "mix=cutmix",
    )
    workdir, config = tmp_path_factory.mktemp("averaged"), config_of(*overrides, variant="digits:adv,tiny")
    return workdir, config, train(config, str(workdir))


def test_a_run_with_a_moving_average_stores_and_validates_both(averaged):
    workdir, _, state = averaged
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "validation_robust_accuracy" in line]
    assert len(found) == 2 and all("validation_raw_robust_accuracy" in line for line in found)
    raw, average = (from_workdir(str(workdir), parameters=which) for which in ("raw", "averaged"))
    assert checksums(raw.params) == checksums(state.params) and checksums(average.params) == checksums(state.averaged)
    assert checksums(raw.params) != checksums(average.params)
    assert (raw.name, average.name) == ("adv", "adv (averaged)")


def test_a_run_without_an_average_says_so(averaged, tmp_path):
    train(config_of("num_steps=4"), str(tmp_path))
    with pytest.raises(UserError, match=r"holds no moving average: train with config.ema_decay"):
        from_workdir(str(tmp_path), parameters="averaged")


def test_an_interrupted_run_with_everything_ends_with_the_same_parameters(averaged, tmp_path, monkeypatch):
    _, config, state = averaged
    at_each_save = iter([loop.all_scores, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)])
    with monkeypatch.context() as patched:
        patched.setattr(loop, "all_scores", lambda *arguments: next(at_each_save)(*arguments))
        with pytest.raises(KeyboardInterrupt):
            train(config, str(tmp_path))
    assert checksums(train(config, str(tmp_path))) == checksums(state)


def test_patience_stops_and_is_remembered(tmp_path, monkeypatch, capsys):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(loop, "validation_scores", lambda *_: {"clean_accuracy": 1.0, "robust_accuracy": next(scores)})
    config = config_of("patience=2", "num_steps=40")
    state = train(config, str(tmp_path))
    assert int(state.step) == 16 and "stopped: no better validation since step 8" in capsys.readouterr().err
    assert checksums(train(config, str(tmp_path))) == checksums(state)
    assert "it stopped at 16, config.patience after its best validation at 8" in capsys.readouterr().err
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.metadata("latest")["history"] == History(0.7, 8, 2)._asdict() | {"extended_from": []}


def test_more_steps_only_on_request(tmp_path):
    whole = train(config_of("num_steps=12"), str(tmp_path / "whole"))
    part = str(tmp_path / "part")
    train(config_of("num_steps=8"), part)
    with pytest.raises(UserError, match=r"config.num_steps: 8 -> 12 \(--extend continues a run to more steps\)"):
        train(config_of("num_steps=12"), part)
    with pytest.raises(UserError, match=r"config.seed: 99 -> 1"):
        train(config_of("num_steps=12", "seed=1"), part, extend=True)
    assert checksums(train(config_of("num_steps=12"), part, extend=True)) == checksums(whole)
    assert checksums(train(config_of("num_steps=12"), part)) == checksums(whole)
    with pytest.raises(UserError, match=r"config.num_steps: 12 -> 8"):
        train(config_of("num_steps=8"), part, extend=True)
    with Checkpoints(part, read_only=True) as checkpoints:
        assert checkpoints.metadata("latest")["history"]["extended_from"] == [8]


def test_a_run_starts_from_the_parameters_of_another(averaged, tmp_path):
    workdir, _, state = averaged
    frozen = config_of(f"init_from={workdir}", "num_steps=1", "learning_rate=1e-30", "checkpoint_every=1", "log_every=1")
    assert checksums(train(frozen, str(tmp_path / "copy")).params) == checksums(state.params)
    np.savez(
        tmp_path / "weights.npz",
        **{"/".join(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)},
    )
    frozen.init_from = str(tmp_path / "weights.npz")
    assert checksums(train(frozen, str(tmp_path / "again")).params) == checksums(state.params)
    frozen.init_from = str(tmp_path / "nothing.npz")
    with pytest.raises(UserError, match="there is no file of variables"):
        train(frozen, str(tmp_path / "none"))
