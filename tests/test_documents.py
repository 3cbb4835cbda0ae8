"""Every command and every Python example of the documents runs, and prints what they say."""

import doctest
import json
import re
import shlex

import numpy as np
import pytest
import readme
from conftest import ROOT

from experiments.reports.documents import DOCUMENTS

CI = ["pip install -e . && python -m experiments.quickstart --workdir runs/quickstart", "pip install -e '.[test]' && pytest"]


def commands_of(document):
    text = (ROOT / document).read_text().replace("\\\n", "")
    return re.findall(r"^ {4}((?:pip|python) .*)$", text, flags=re.MULTILINE)


SIZES = {"isa": " --num_steps 5", "map_attacks": " --num_steps 5 --restarts 1"}  # of measures that would take longest


def tiny(command, tmp_path):
    """The same command at the size of a test."""
    command = (
        command.replace("runs/", f"{tmp_path}/").replace(",tiny", "").replace(",fast", "").replace(",robust", "").replace(",trades_wrn", "")
    )
    command = re.sub(r"(configs/\w+\.py:\w+)", r"\1,tiny", command)
    command = re.sub(r"configs/(mnist|cifar10).py", "configs/digits.py", command)
    command = re.sub(r" --config\.num_steps=\S+| --config\.(learning_rate|eps_ramp)\S*", "", command)
    if "sweep" in command:
        command = re.sub(r" --seeds \d+", " --seeds 1", command)
        small = lambda found: f"--evaluate '{re.sub(r' --(num_examples|eps)=[^ ]*', '', found[1])} --num_examples=8 --eps=0,0.1'"
        return re.sub(r"--evaluate '(.*?)'", small, command)
    if "evaluate" in command and "paper" not in command:
        command = re.sub(r" --num_examples \d+", "", command) + " --num_examples 8 --eps 0,0.1"
        command += " --budgets 2" if re.search(r"bound|isa|tradeoff", command) else ""
        command += "".join(options for measure, options in SIZES.items() if re.search(rf"--measure {measure} ", command))
    if "benchmark" in command:
        command += " --only mnist_small_normal --rounds 1 --least 0"
    return command


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands(document, tmp_path, commands):
    """In their order: an evaluation finds what a training before it left."""
    found = [c for c in commands_of(document) if c not in CI]
    assert found or document in ("experiments/guide/python.md", "experiments/guide/mathematics.md")
    for command in found:
        python, *arguments = shlex.split(tiny(command, tmp_path), comments=True)
        assert python == "python" and arguments[0] == "-m" and arguments[1].startswith("experiments."), command
        module = arguments[1].removeprefix("experiments.")
        if module == "prepare_data":
            out, _ = commands.run(module, "--help", code=1)  # it needs TensorFlow and the network, but its flags exist
            assert all(re.search(rf"{flag}\b", out) for flag in arguments[2:] if flag.startswith("--"))
        else:
            commands.run(module, *arguments[2:])


def test_the_first_two_commands_are_those_that_ci_and_the_quickstart_test_run():
    assert commands_of("README.md")[:2] == CI


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if ">>> " in (ROOT / document).read_text()])
def test_examples_in_python(document):
    results = doctest.testfile(str(ROOT / document), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.attempted > 3 and results.failed == 0


def test_the_readme_is_read_in_a_few_minutes():
    text = re.sub(r"```.*?```|<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    words = re.sub(r"^    .*$", "", text, flags=re.MULTILINE).split()
    assert len(words) <= 900


def assert_prints(found, said, tolerance):
    """The same words line by line; the same numbers up to a tolerance."""
    assert [re.sub(r"[\d.]+", "#", line).split() for line in found] == [re.sub(r"[\d.]+", "#", line).split() for line in said]
    np.testing.assert_allclose(readme.numbers("\n".join(found)), readme.numbers("\n".join(said)), atol=tolerance)


@pytest.mark.slow
def test_the_quickstart_prints_the_readmes_table(commands, tmp_path):
    out, _ = commands.run("quickstart", "--workdir", tmp_path, devices=None)
    said = readme.lines_after("trains three small networks", 6)
    assert_prints(out.splitlines()[:6], said, tolerance=0.05)  # another number of cores rounds differently, which a training amplifies


@pytest.mark.slow
def test_the_example_of_a_training_prints_the_numbers_of_the_guide(commands, tmp_path):
    document = commands_of("experiments/guide/evaluation.md")
    train = next(command for command in document if "num_steps=500" in command).replace("runs/", f"{tmp_path}/")
    commands.run("train", *shlex.split(train)[3:], devices=None)
    evaluate = next(command for command in document if "experiments.evaluate" in command).replace("runs/", f"{tmp_path}/")
    out, _ = commands.run("evaluate", *shlex.split(evaluate)[3:], devices=None)
    found = [line for line in out.splitlines() if line.strip()]
    said = readme.lines_after("sixth of the schedule, the first `evaluate` prints", 6)
    first = next(i for i, line in enumerate(found) if line.split() == said[0].split())
    assert_prints(found[first : first + 6], said, tolerance=0.15)
    workdir = tmp_path / "digits_int"
    result = json.loads((workdir / "standard_latest.json").read_text())
    shown = readme.record()
    (same,) = [r for r in result["records"] if r["eps"] == shown["eps"] and r["metric"] == shown["metric"]]
    measured = {"value": 0, "ci95": 0, "white_box": 0}
    assert {**shown, **measured} == {**same, **measured}
    assert same["value"] == pytest.approx(shown["value"], abs=0.1)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for shown, line in zip(readme.log_lines(), [line for line in lines if line["step"] == 500], strict=True):
        assert set(shown) == set(line)
        for key in {"step", "eps", "learning_rate", "loss"} & set(shown):
            assert line[key] == pytest.approx(shown[key], rel=0.05)


def test_what_is_checked_before_a_commit_is_what_ci_checks_before_the_tests():
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if re.match(r"ruff|mypy", line)]
    assert re.findall(r"entry: ([^,]+),", (ROOT / ".pre-commit-config.yaml").read_text()) == ci
