"""The architecture of BUILD.md, as rules that can fail: who imports whom, one name for one thing, plain words, functions of one page."""

import ast
import collections
import graphlib
import pathlib
import re

import pytest
from conftest import ROOT

from experiments.reports.documents import DOCUMENTS

IROB = [file.relative_to(ROOT) for file in sorted((ROOT / "irob").rglob("*.py"))]
EXPERIMENTS = [file.relative_to(ROOT) for file in sorted((ROOT / "experiments").rglob("*.py"))]
COMMANDS = {"runs", "train", "evaluate", "report", "prepare_data", "quickstart", "benchmark", "sweep", "documents", "site"}
# From the bottom to the top: a package imports those before it.
ORDER = [
    "types",
    "convolutions",
    "rewriting",
    "losses",
    "maps",
    "models",
    "discrepancies",
    "similarities",
    "attacks",
    "certify",
    "defenses",
    "metrics",
    "batches",
    "auto_attack",
    "paper",
]
ALLOWED = {"jax", "flax", "jaxtyping", "numpy", "irob"}


def tree(file):
    return ast.parse((ROOT / file).read_text())


def module_of(file):
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def imports(file, modules):
    """The modules that a file imports, wherever in it: packages of the project as the module that holds the name."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: absolute imports only"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


MODULES = {module_of(file): file for file in [*IROB, *EXPERIMENTS]}
IMPORTS = {module: set(imports(file, MODULES)) for module, file in MODULES.items()}


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_the_core_needs_nothing_but_jax_and_its_kin():
    standard = set(__import__("sys").stdlib_module_names)
    for module in map(module_of, IROB):
        assert {name.split(".")[0] for name in IMPORTS[module]} <= ALLOWED | standard, module


def test_imports_inside_the_core_run_one_way():
    for module in map(module_of, IROB):
        for name in IMPORTS[module]:
            if room(name) in ORDER and room(module) in ORDER:
                assert ORDER.index(room(name)) <= ORDER.index(room(module)), f"{module} imports {name}"
    assert {room(module_of(file)) for file in IROB} == {"", *ORDER}


def test_imports_inside_the_experiments_run_one_way():
    """A cycle raises, wherever the imports stand."""
    graph = {module: {name for name in IMPORTS[module] if name in MODULES} for module in map(module_of, EXPERIMENTS)}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 50


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("training", {"evaluation", "reports"}),
        ("evaluation", {"training"}),
        ("reports", {"training", "evaluation"}),
        ("runtime", {"training", "evaluation", "reports"}),
        ("data", {"training", "evaluation", "reports", "configs"}),
        ("configs", {"training", "evaluation", "reports"}),
    ],
)
def test_rooms_that_do_not_know_each_other(importer, forbidden):
    members = [module for module in map(module_of, EXPERIMENTS) if room(module) == importer]
    assert members
    for module in members:
        found = {name for name in IMPORTS[module] if name.startswith("experiments.") and room(name) in forbidden}
        assert not found, f"{module} imports {found}"


def test_nothing_imports_a_command_but_tests():
    for module in map(module_of, EXPERIMENTS):
        assert not {room(name) for name in IMPORTS[module] if name.startswith("experiments.")} & COMMANDS, module


def test_one_place_asks_for_the_device():
    """`irob` never asks on which device it runs, `convolutions` excepted; outside of it the plan does."""
    asking = {module for module, file in MODULES.items() if re.search(r"on_cpu\(|default_backend|\.platform\b", (ROOT / file).read_text())}
    assert asking == {"irob.convolutions", "experiments.runtime.plan", "experiments.benchmark"}


def definitions(kind):
    for module, file in MODULES.items():
        for node in ast.walk(tree(file)):
            if isinstance(node, kind):
                yield module, node


def length(node):
    text = ast.get_docstring(node)
    return node.end_lineno - node.lineno + 1 - (len(text.splitlines()) if text else 0)


def test_functions_fit_a_page_and_modules_are_not_drawers():
    lengths = [length(node) for _, node in definitions(ast.FunctionDef)]
    assert max(lengths) <= 60 and sorted(lengths)[len(lengths) // 2] <= 10
    assert max(len((ROOT / file).read_text().splitlines()) for file in MODULES.values()) <= 400


# What every file of a kind must have: the interface of a measure, of a config, of a command, of an unforeseen attack.
INTERFACES = {"Options", "run", "define_flags", "check", "describe", "tables", "pictures", "get_config", "main", "vary", "render"}


def test_a_public_name_means_one_thing():
    """Functions and classes of modules. (The peers of the benchmark repeat ours under our names.)"""
    where = collections.defaultdict(set)
    for module, file in MODULES.items():
        if "peers" not in module:
            for node in tree(file).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    where[node.name].add(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1 and name not in INTERFACES} == {}


def test_docstrings_say_more_than_the_name():
    """Five words, or a formula."""
    for module, node in definitions((ast.FunctionDef, ast.ClassDef)):
        text = ast.get_docstring(node)
        assert text is None or len(text.split()) > 4 or "`" in text, f"{module}.{node.name}: {text}"
        public = not node.name.startswith("_") and node in tree(MODULES[module]).body
        assert text or not public, f"{module}.{node.name}"


WORDS = re.compile(
    r"taken for|\bmend(s|ed)?\b|reckoned|stranger|\bcolour|normalis|optimis|regularis|artefact|\bbelieve\b|\bclimb|whoever|\bgrey\b|minimis|recognis|"
    r"centre|quantis",
    re.IGNORECASE,
)


def test_words_of_the_field():
    files = [*MODULES.values(), *map(pathlib.Path, (*DOCUMENTS, "setup.py"))]
    for file in files:
        if file.name == "old_results.py":  # it converts a word that older files have
            continue
        found = [line for line in (ROOT / file).read_text().splitlines() if WORDS.search(line)]
        assert not found, f"{file}: {found[0]}"
