"""What the command lines do before anything else."""

import os
import subprocess
import sys

import pytest

from experiments import cli


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """A whole compiled program and one without its time of use, and no word of the user about where they are."""
    for name in list(os.environ):
        if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    directory = tmp_path / "compiled"
    directory.mkdir()
    for name in ("whole-cache", "whole-atime", "killed-cache"):
        (directory / name).touch()
    return directory


def names(directory):
    return sorted(file.name for file in directory.iterdir())


def test_half_written_programs_are_swept_away(programs):
    cli.keep_compiled()
    assert names(programs) == ["whole-atime", "whole-cache"]
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(programs)


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"])
def test_nothing_is_swept_where_the_user_has_a_say(programs, monkeypatch, variable):
    """Without a limit JAX writes no times of use, and another directory is not ours."""
    monkeypatch.setenv(variable, {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}[variable])
    cli.keep_compiled()
    assert names(programs) == ["killed-cache", "whole-atime", "whole-cache"]


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept():
    """What was written to 48 MB is still there when the next 48 MB are asked for: they did not come anew from the system."""
    code = """
import ctypes
from experiments import cli
cli.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 48 * 2**20
first = libc.malloc(size)
ctypes.memset(first, 7, size)
libc.free(first)
again = libc.malloc(size)
print(again == first and ctypes.string_at(again + size // 2, 1) == bytes([7]))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "True"
