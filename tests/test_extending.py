"""A made-up package outside of the project (tests/made_up) brings one of each seam, in one short file each, through the commands alone."""

import csv
import json

import made_up.data
import numpy as np
import pytest
import tfds_directories
from conftest import ROOT
from PIL import Image

from experiments import data
from experiments.runtime.checkpoints import Checkpoints

PACKAGE = ROOT / "tests" / "made_up"
OUTSIDE = {"PYTHONPATH": str(PACKAGE.parent)}
CONFIG = (
    "--config",
    "digits:made_up.defenses:int_largest,tiny",
    "--config.network=made_up.networks:make",
    "--config.map=made_up.maps:GRADIENT_SIZE",
    "--config.defense.weight=1/20",
    "--config.num_steps=32",
)


@pytest.fixture(scope="module")
def workdir(commands, tmp_path_factory):
    """A training by a defense, in a norm and on a map of that package."""
    where = tmp_path_factory.mktemp("outside")
    norm = (
        "--config.attack.norm=made_up.norms:LowerHalf",
        "--config.eps=0.12",
        "--config.attack.step_size=0.04",
        "--config.evaluation.eps=0,0.1",
    )
    commands.run("train", *CONFIG, *norm, "--workdir", where, **OUTSIDE)
    return where


@pytest.fixture(scope="module")
def report(commands, workdir):
    """Measured by its measure, attacks, discrepancy and protocol, and reported."""
    commands.run(
        *("evaluate", "--workdir", workdir, "--num_examples", 8, "--eps", "0,0.1", "--protocol", "made_up.protocols:QUICK"),
        *("--measure", "pgd,aai,made_up.measures:CONFIDENT", "--threshold", "1/5"),
        *("--attack", "made_up.attacks:momentum", "--map", "made_up.maps:GRADIENT_SIZE"),
        **OUTSIDE,
    )
    commands.run(
        *(
            "evaluate",
            "--workdir",
            workdir,
            "--num_examples",
            8,
            "--protocol",
            "made_up.protocols:QUICK",
            "--measure",
            "tradeoff,unforeseen",
        ),
        *("--discrepancy_norms", "l1,made_up.discrepancies:largest", "--unforeseen_attacks", "made_up.unforeseen:VEIL"),
        **OUTSIDE,
    )
    commands.run("report", "--inputs", workdir, "--out", workdir / "report", **OUTSIDE)
    return workdir / "report"


def rows(report, table):
    with (report / "tables" / f"digits_{table}.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_is_one_file_of_under_thirty_lines():
    """The number of files that are edited to add one: this one."""
    files = [file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]
    assert {file.stem for file in files} == {
        *("maps", "discrepancies", "attacks", "norms", "unforeseen", "defenses", "measures", "protocols", "networks"),
        *("functions", "recipes", "data", "nnx_networks", "config"),
    }
    for file in files:
        assert len(file.read_text().splitlines()) < 30, file.name


def test_the_training_was_made_by_them(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert (config["method"], config["map"]) == ("made_up.defenses:int_largest", "made_up.maps:GRADIENT_SIZE")
    assert config["attack"]["norm"] == "made_up.norms:LowerHalf" and config["defense"] == {"weight": 0.05}


def test_accuracy_under_an_attack_in_a_norm(report):
    (row,) = rows(report, "accuracy")
    assert row["network"] == "made_up.defenses:int_largest" and row["protocol"] == "made_up.protocols:QUICK"
    assert (row["attack"], row["norm"], row["steps"], row["n"]) == ("made_up.attacks:momentum", "made_up.norms:LowerHalf", "3", "8")
    assert row["eps 0"] and row["eps 0.1"]


def test_a_map_and_a_discrepancy(report):
    assert {row["map"] for row in rows(report, "kendall_tau")} == {"made_up.maps:GRADIENT_SIZE"}
    assert [row["norm"] for row in rows(report, "tradeoff")] == ["l1", "made_up.discrepancies:largest"]


def test_a_measure_with_a_flag_of_its_own(report, workdir):
    (row,) = rows(report, "made_up_measures_CONFIDENT")
    assert row["above"] == "0.200" and row["n"] == "8" and row["value"]
    assert "Confident predictions" in (report / "report.html").read_text()
    result = json.loads(next(workdir.glob("*CONFIDENT*.json")).read_text())
    assert result["measures"]["made_up.measures:CONFIDENT"]["settings"]["threshold"] == 0.2
    assert [record["measure"] for record in result["records"]].count("made_up.measures:CONFIDENT") == 1


def test_an_unforeseen_attack_with_sizes_of_its_own(report):
    (row,) = [row for row in rows(report, "unforeseen") if row["attack"] != "none"]
    assert row["attack"] == "made_up.unforeseen:VEIL" and row["sizes of"] == "its own" and row["size 2"].endswith("at 0.9")


def test_the_flag_is_in_the_help(commands):
    process = commands.start("evaluate", "--help", "--measure", "made_up.measures:CONFIDENT", **OUTSIDE)
    out, _ = process.communicate()
    assert "probability from which the network is confident" in out.replace("\n    ", " ")


def test_a_report_without_the_package_says_so(commands, workdir, report, tmp_path):
    said = commands.refused("report", "--inputs", workdir, "--out", tmp_path / "out")
    assert said == (
        "error: measure 'made_up.measures:CONFIDENT': there is no module 'made_up'; its folder must be the current one or on PYTHONPATH"
    )


@pytest.mark.slow
def test_an_npz_file_and_a_plain_function(commands, tmp_path):
    """Data of floats in a file of one's own, trained, measured and reported with a function without maps."""
    digits = data.load_split("digits", "test")
    np.savez(tmp_path / "mine.npz", images=digits.images[::4] / 255.0, labels=digits.labels[::4])
    own = (f"--config.dataset=npz:{tmp_path / 'mine.npz'}", "--config.network=made_up.functions:linear")
    workdir = tmp_path / "run"
    commands.run("train", "--config", "digits:adv,tiny", *own, "--workdir", workdir, **OUTSIDE)
    commands.run("evaluate", "--workdir", workdir, "--eps", "0,0.1", "--steps", "5", **OUTSIDE)
    result = json.loads((workdir / "standard_latest.json").read_text())
    assert result["data"]["name"] == "mine" and result["network"] == "made_up.functions:linear"
    commands.run("report", "--inputs", workdir, "--out", tmp_path / "report", **OUTSIDE)
    assert "npz" in (tmp_path / "report" / "report.md").read_text()
    _, err = commands.run("train", "--config", "digits:int,tiny", *own, "--workdir", tmp_path / "other", code=2, **OUTSIDE)
    assert "config.map = 'cam', which int compares: the network has no such maps" in err
    _, err = commands.run("evaluate", "--workdir", workdir, "--measure", "bound", code=2, **OUTSIDE)
    assert "map cam: the network has no such maps" in err


@pytest.mark.slow
def test_a_folder_and_an_nnx_network(commands, tmp_path):
    """Images of a folder, trained on by an nnx network with BatchNorm and dropout, resumed after SIGKILL, measured, reported."""
    for split in ("train", "val", "test"):
        images, labels, classes = made_up.data.stripes({"val": "validation"}.get(split, split))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "stripes" / split / classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image).astype(np.uint8)).save(folder / f"{i}.png")
    config = (
        "--config",
        "digits:int,tiny",
        f"--config.dataset=folder:{tmp_path / 'stripes'}",
        "--config.network=made_up.nnx_networks:make",
    )
    commands.run("train", *config, "--workdir", tmp_path / "one", **OUTSIDE)
    commands.train_until_killed(tmp_path / "killed" / "checkpoints" / "4", *config, "--workdir", tmp_path / "killed", **OUTSIDE)
    commands.run("train", *config, "--workdir", tmp_path / "killed", **OUTSIDE)
    assert checksums_of(tmp_path / "one") == checksums_of(tmp_path / "killed")
    commands.run(
        "evaluate", "--workdir", tmp_path / "one", "--eps", "0,0.1", "--steps", "5", "--measure", "pgd,bound", "--budgets", "2", **OUTSIDE
    )
    commands.run("report", "--inputs", tmp_path / "one", "--out", tmp_path / "report", **OUTSIDE)
    assert "stripes" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_set_of_tfds_by_name_trains(commands, tmp_path):
    """Forty images under MNIST's name, resized, with a recipe from outside; `--data_dir` says where it is."""
    tfds_directories.write_mnist(tmp_path / "tfds", n=80)
    config = ("--config", "digits:adv,tiny", "--config.dataset=tfds:mnist@16", "--config.optimizer=made_up.recipes:sign_momentum")
    commands.run("train", *config, "--data_dir", tmp_path / "tfds", "--workdir", tmp_path / "run", **OUTSIDE)
    commands.run("evaluate", "--workdir", tmp_path / "run", "--data_dir", tmp_path / "tfds", "--eps", "0,0.1", "--steps", "5", **OUTSIDE)
    result = json.loads((tmp_path / "run" / "standard_latest.json").read_text())
    assert result["dataset"] == "tfds:mnist@16" and "16 x 16" in result["data"]["from"]


@pytest.mark.slow
def test_a_function_of_data_trains(commands, tmp_path):
    """By a config file of ten lines, which `evaluate` and `report` need not know."""
    assert len((PACKAGE / "config.py").read_text().splitlines()) <= 10
    commands.run("train", "--config", f"{PACKAGE / 'config.py'}:adv,tiny", "--workdir", tmp_path, **OUTSIDE)
    commands.run("evaluate", "--workdir", tmp_path, "--eps", "0,0.1", "--steps", "5", **OUTSIDE)
    assert json.loads((tmp_path / "standard_latest.json").read_text())["data"]["from"] == "made_up.data:stripes"


def checksums_of(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.metadata("latest")["sha256"]


@pytest.mark.slow
def test_a_network_with_batch_norm_is_resumed_bit_for_bit_and_four_devices_train_like_one(commands, tmp_path):
    config = (
        *("--config", "digits:int,tiny", "--config.network=made_up.networks:make", "--config.num_steps=24"),
        *("--config.optimizer=made_up.recipes:sign_momentum(decay=0.8)", "--config.schedule=made_up.recipes:halved(at=12)"),
        *("--config.augment=flip,made_up.recipes:brightness(most=1/20)", "--config.mix=mixup", "--config.ema_decay=0.9"),
        "--config.learning_rate=1e-4",
    )
    commands.run("train", *config, "--workdir", tmp_path / "one", **OUTSIDE)
    commands.train_until_killed(tmp_path / "killed" / "checkpoints" / "8", *config, "--workdir", tmp_path / "killed", **OUTSIDE)
    commands.run("train", *config, "--workdir", tmp_path / "killed", **OUTSIDE)
    commands.run("train", *config, "--workdir", tmp_path / "four", devices=4, **OUTSIDE)
    found = {name: checksums_of(tmp_path / name) for name in ("one", "killed", "four")}
    assert found["one"] == found["killed"] and any("batch_stats" in key for key in found["one"])
    logs = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "four")
    ]
    losses = [[loss for loss in log if loss is not None] for log in logs]
    np.testing.assert_allclose(*losses, rtol=1e-2)
    assert any(".averaged" in key for key in found["one"])
