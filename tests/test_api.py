"""What `import irob` promises."""

import ast
import inspect
import pathlib
import pkgutil

import pytest
from conftest import ROOT

import irob

ALLOWED = {"jax", "flax", "jaxtyping", "numpy", "irob"}
ORDER = [
    "arrays",
    "convolutions",
    "losses",
    "maps",
    "networks",
    "explainers",
    "authors",
    "discrepancy",
    "attacks",
    "inversion",
    "defenses",
    "metrics",
]
MODULES = [pathlib.Path(p) for p in sorted((ROOT / "irob").rglob("*.py"))]


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "irob" else [node.module]
            yield from names


@pytest.mark.parametrize("file", MODULES, ids=lambda f: f.name)
def test_the_core_needs_nothing_but_jax_and_its_kin(file):
    standard = set(__import__("sys").stdlib_module_names)
    assert {name.split(".")[0] for name in imports(file)} <= ALLOWED | standard


@pytest.mark.parametrize("file", [f for f in MODULES if f.name != "__init__.py"], ids=lambda f: f.name)
def test_imports_inside_the_core_run_one_way(file):
    own = file.relative_to(ROOT / "irob").parts[0].removesuffix(".py")
    for name in imports(file):
        if name.startswith("irob."):
            assert ORDER.index(name.split(".")[1]) <= ORDER.index(own), f"{own} imports {name}"


def test_every_public_name_is_exported_and_documented():
    for name in irob.__all__:
        thing = getattr(irob, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__doc__, name
        if inspect.isfunction(thing):
            assert name in irob.__doc__, f"{name} is missing in the overview of irob/__init__.py"


def test_every_public_function_has_a_docstring():
    for module in pkgutil.walk_packages(irob.__path__, "irob."):
        for name, thing in vars(__import__(module.name, fromlist=["_"])).items():
            if not name.startswith("_") and inspect.isfunction(thing) and thing.__module__ == module.name:
                assert thing.__doc__, f"{module.name}.{name}"
