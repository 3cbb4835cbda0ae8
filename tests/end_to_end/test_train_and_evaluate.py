"""Train, kill, resume, evaluate, on one device, many, and several processes: through the command lines."""

import json
import socket

import jax
import numpy as np
import pytest

from experiments.configs import base
from experiments.runtime import devices
from experiments.runtime.checkpoints import Checkpoints, checksums
from experiments.runtime.models import build_network
from experiments.training.step import initial_state

CONFIG = ("--config", "experiments/configs/digits.py:int,tiny", "--config.num_steps=24", "--config.evaluation.eps=(0.0,0.02,0.1)")


def final_state(workdir):
    config = base.load_config("digits:int,tiny")
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore("latest", initial_state(config, build_network(config))).state


def log(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_equal_up_to_rounding(state, other):
    """Adam divides by the root of the second moment, so a weight whose gradient is rounding noise may move freely; few do."""
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        assert np.mean(np.abs(a - b) > 1e-3) < 0.02


@pytest.fixture(scope="module")
def uninterrupted(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    commands.run("train", *CONFIG, "--workdir", workdir)
    return workdir


def test_killed_and_started_again_it_ends_with_the_same_bits(commands, uninterrupted, tmp_path):
    for step in (4, 12):  # killed twice, once early
        commands.train_until_killed(tmp_path / "checkpoints" / str(step), *CONFIG, "--workdir", tmp_path)
    commands.run("train", *CONFIG, "--workdir", tmp_path)
    assert checksums(final_state(tmp_path)) == checksums(final_state(uninterrupted))
    assert [line["step"] for line in log(tmp_path)] == [line["step"] for line in log(uninterrupted)]


@pytest.mark.slow
def test_eight_devices_train_and_evaluate_like_one(commands, uninterrupted, tmp_path):
    commands.run("train", *CONFIG, "--workdir", tmp_path, devices=8)
    assert_equal_up_to_rounding(final_state(tmp_path), final_state(uninterrupted))
    options = ("--workdir", uninterrupted, "--num_examples", 37)
    for count, batch_size in ((1, 8), (8, 3)):
        commands.run("evaluate", *options, "--batch_size", batch_size, "--out", tmp_path / f"{count}.json", devices=count)
    one, eight = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 8))
    assert one["records"] == eight["records"]
    assert one["measures"]["pgd"]["n"] == 37


@pytest.mark.slow
def test_a_command_makes_a_device_of_each_core_that_the_batch_fills(commands, tmp_path):
    commands.run("train", *CONFIG, "--config.batch_size=17", "--workdir", tmp_path, devices=None)  # which no other number divides
    commands.run("evaluate", "--workdir", tmp_path, "--num_examples", 33, "--eps", "0", devices=None)
    result = json.loads((tmp_path / "standard_latest.json").read_text())
    assert result["device"] == f"{min(devices.cores(), 2)} x cpu"
    assert result["measures"]["pgd"]["n"] == 33


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def on_two_processes(commands, module, *arguments):
    shared = ("--coordinator", free_address(), "--num_processes", 2)
    for process in [commands.start(module, *arguments, *shared, "--process_id", i) for i in range(2)]:
        commands.finish(process)


@pytest.mark.slow
def test_two_processes_go_on_train_and_evaluate_like_one(commands, uninterrupted, tmp_path):
    commands.train_until_killed(tmp_path / "checkpoints" / "4", *CONFIG, "--workdir", tmp_path)
    on_two_processes(commands, "train", *CONFIG, "--workdir", tmp_path)
    assert_equal_up_to_rounding(final_state(tmp_path), final_state(uninterrupted))
    losses = [[line["loss"] for line in log(workdir) if "loss" in line] for workdir in (tmp_path, uninterrupted)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
    options = ("--workdir", uninterrupted, "--num_examples", 19, "--batch_size", 4, "--eps", "0,0.1")
    on_two_processes(commands, "evaluate", *options, "--out", tmp_path / "two.json")
    commands.run("evaluate", *options, "--out", tmp_path / "one.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["records"] == two["records"] and two["processes"] == 2


def test_evaluate_writes_records_with_their_provenance(commands, uninterrupted, tmp_path):
    out, _ = commands.run(
        "evaluate", "--workdir", uninterrupted, "--protocol", "paper", "--eps", "0,0.02,8/255", "--out", tmp_path / "r.json"
    )
    result = json.loads((tmp_path / "r.json").read_text())
    overall, by_class = result["records"][:3], result["records"][3:]
    assert [record["eps"] for record in overall] == [0.0, 0.02, 8 / 255]
    assert [record["metric"] for record in overall] == ["clean_accuracy", "robust_accuracy", "robust_accuracy"]
    assert {record["metric"] for record in by_class} == {"class_accuracy"} and len(by_class) == 3 * 10
    for record in overall:
        assert record["n"] == 200
        assert record["ci95"][0] <= record["value"] <= record["ci95"][1]
        assert f"{record['value']:.3f}" in out
    settings = result["measures"]["pgd"]["settings"]
    assert settings["steps"] == [200] and settings["objectives"] == ["logsumexp_cross_entropy"] and settings["attack"] == "paper_pgd"
    assert {record["measure"] for record in result["records"]} == {"pgd"} and result["protocol"] == "paper"
    assert result["data"]["name"] == "digits" and result["config"]["method"] == "int" and result["seed"] == 99
    assert {"versions", "git_revision", "device", "checkpoint", "schema"} <= set(result)


def test_evaluate_takes_best_and_numbered_steps_and_never_overwrites(commands, uninterrupted, tmp_path):
    quick = ("--protocol", "paper", "--eps", "0")
    commands.run("evaluate", "--workdir", uninterrupted, *quick, "--step", "best", "--out", tmp_path / "best.json")
    assert "exists: give another --out, or --overwrite" in commands.refused(
        "evaluate", "--workdir", uninterrupted, *quick, "--out", tmp_path / "best.json"
    )
    commands.run("evaluate", "--workdir", uninterrupted, *quick, "--step", "20", "--out", tmp_path / "best.json", "--overwrite")
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"]["step"] == 20
