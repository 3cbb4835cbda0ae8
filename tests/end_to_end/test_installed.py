"""The project as `pip install` leaves it: a wheel, built from the source distribution, no source tree beside it, an empty directory around it."""

import os
import shutil
import subprocess
import sys

import pytest
from commands import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs Python on the installed wheel from an empty directory."""
    source, site, empty = (tmp_path_factory.mktemp(name) for name in ("source", "site", "empty"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("irob", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))

    def python(*arguments, cwd=empty, **extra):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(site), **extra}
        done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--disable-pip-version-check")
    python("-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=source, PYTHONPATH="")
    (archive,) = (source / "dist").glob("*.tar.gz")
    python(*pip, "wheel", archive, "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist", PYTHONPATH="")
    (wheel,) = (source / "dist").glob("*.whl")
    python(*pip, "install", wheel, "--no-deps", "--target", site, PYTHONPATH="")
    python.site = site
    return python


@pytest.mark.slow
def test_every_module_and_data_file_of_the_tree_is_in_the_wheel(installed):
    def files(root):
        found = [path.relative_to(root) for name in ("irob", "experiments") for path in (root / name).rglob("*") if path.is_file()]
        return {str(path) for path in found if "__pycache__" not in path.parts}

    assert files(installed.site) == files(ROOT)


@pytest.mark.slow
def test_the_commands_run_from_an_empty_directory(installed):
    places = installed("-c", "import irob, experiments; print(irob.__file__, experiments.__path__[0])").split()
    assert all(place.startswith(str(installed.site)) for place in places)
    out = installed("-m", "experiments.quickstart", "--tiny", "--workdir", "runs")
    assert "int" in out
    assert "report.html" in installed("-m", "experiments.report", "--inputs", "runs", "--out", "report")
