"""Every command and every Python example of the documents runs."""

import doctest
import re
import shlex

import pytest
from conftest import ROOT

import irob
from experiments import training
from experiments.configs import common
from experiments.configs import digits as digits_config
from experiments.evaluator import Evaluator
from experiments.measures import aai
from experiments.measures.task import Task
from experiments.protocols import PROTOCOLS
from irob import defenses, explainers

DOCUMENTS = ("README.md", "BUILD.md")
CI = ["pip install -e . && python -m experiments.quickstart --workdir runs/quickstart", "pip install -e '.[test]' && pytest"]


def commands_of(document):
    text = (ROOT / document).read_text()
    return re.findall(r"^(?: {4})?((?:pip|python) .*)$", text, flags=re.MULTILINE)


def tiny(command, tmp_path):
    """The same command at the size of a test."""
    command = command.replace("runs/", f"{tmp_path}/").replace(",tiny", "").replace(",fast", "")
    command = re.sub(r"(configs/\w+\.py:\w+)", r"\1,tiny", command)
    command = re.sub(r"configs/(mnist|cifar10).py", "configs/digits.py", command)
    command = re.sub(r" --config\.num_steps=\S+| --config\.(learning_rate|eps_ramp)\S*", "", command)
    if "evaluate" in command and "paper" not in command:
        command = re.sub(r" --num_examples \d+", "", command) + " --num_examples 8 --eps 0,0.1 --budgets 2"
    if "benchmark" in command:
        command += " --only mnist_small_normal --rounds 1 --least 0"
    return command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands(document, tmp_path, commands):
    """In their order: an evaluation finds what a training before it left."""
    found = [c for c in commands_of(document) if c not in CI]
    assert found
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


def test_how_to_add_a_map_a_discrepancy_and_a_defense(tmp_path, trained, digits):
    """The examples of BUILD.md, run in their order; what they add is trained with and measured."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "BUILD.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3 and all(len(block.splitlines()) < 20 for block in blocks)
    tables = (explainers.EXPLAINERS, irob.NORMS, defenses.DEFENSES, common.METHODS)
    before = [dict(table) for table in tables]
    try:
        exec("\n".join(blocks), {})
        added = [(set(table) - set(old)).pop() for table, old in zip(tables, before, strict=True)]
        assert added == ["gradient_size", "largest", "int_largest", "int_largest"]
        training.train(digits_config.get_config("int_largest,tiny"), str(tmp_path / "run"))
        task = Task(
            Evaluator(*trained, digits, 4, seed=3), PROTOCOLS["standard"], "linf", (0.0, 0.1), num_examples=4, maps=("gradient_size",)
        )
        found = aai.measure(task)
        assert {record["map"] for record in found.records} == {"gradient_size"}
        assert found.arrays["gradient_size/taus"][-1].mean() < 0.99
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def test_examples_in_python():
    results = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.attempted > 5 and results.failed == 0
