"""The notebooks: each runs from top to bottom, and is stored with what it printed and drew."""

import json
import re
import shlex

import pytest
from conftest import ROOT

FOLDER = ROOT / "experiments" / "notebooks"
NAMES = ("1_robust_interpretation", "2_own_network_and_data", "3_attack_an_explanation", "4_is_it_really_robust", "5_certify")


def cells(name, kind):
    content = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_there_is_no_other_notebook():
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_what_to_expect_and_what_to_try_and_has_its_outputs(name):
    text = "".join("".join(cell["source"]) for cell in cells(name, "markdown"))
    assert text.startswith("# ") and "**What to expect.**" in text and "## What to try" in text
    code = cells(name, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, in order
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 250_000


def test_the_commands_that_notebooks_name_are_taken(commands, tmp_path):
    """The sweep as far as its list; what names a place or a module of the reader's is refused for that, after all flags were read."""
    text = "\n".join("".join(cell["source"]) for name in NAMES for cell in cells(name, "markdown"))
    found = re.findall(r"(?:^ {4}|`)python -m experiments\.(\w+) ([^`\n]+)", text, flags=re.MULTILINE)
    assert {module for module, _ in found} == {"sweep", "evaluate", "train"} and len(found) == text.count("python -m experiments.")
    for module, options in found:
        arguments = shlex.split(options.replace("runs/", f"{tmp_path}/"))
        if module == "sweep":
            listed, _ = commands.run(module, *arguments, "--list")
            assert len(listed.splitlines()) == 9
        elif module == "train":
            assert "my.module" in commands.refused(module, *arguments)
        else:
            assert commands.refused(module, *arguments).startswith(f"error: there are no checkpoints in {tmp_path}/...:")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch, commands):
    """Every cell, at the size of a test."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", commands.flags)  # as a user's kernel, without the fake devices of the tests
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (parameters,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell("STEPS, N = 20, 4"))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
