"""What the command lines do before anything else: settings of the process, and the text of flags."""

import os
import subprocess
import sys

import pytest

from experiments.runtime import flags, process


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
    process.keep_compiled_programs()
    assert names(programs) == ["whole-atime", "whole-cache"]
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(programs)


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"])
def test_nothing_is_swept_where_the_user_has_a_say(programs, monkeypatch, variable):
    """Without a limit JAX writes no times of use, and another directory is not ours."""
    monkeypatch.setenv(variable, {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}[variable])
    process.keep_compiled_programs()
    assert names(programs) == ["killed-cache", "whole-atime", "whole-cache"]


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept():
    """What was written to 48 MB is still there when the next 48 MB are asked for: they did not come anew from the system."""
    code = """
import ctypes
from experiments.runtime import process
process.keep_freed_memory()
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


def test_overrides_of_a_config_become_one_flag():
    argv = ["train", "--config", "digits:int", "--config.eps=8/255", "--config.attack.norm", "l2", "--workdir=runs/a", "-config.seed=1"]
    assert flags.config_overrides(argv) == [
        "train",
        "--config",
        "digits:int",
        "--config_override=eps=8/255",
        "--config_override=attack.norm=l2",
        "--workdir=runs/a",
        "--config_override=seed=1",
    ]


def test_an_override_without_a_value_is_named(capsys):
    for argv in (["--config.eps", "--workdir=x"], ["--config.eps"]):
        with pytest.raises(SystemExit, match="2"):
            flags.config_overrides(argv)
        assert "--config.eps has no value" in capsys.readouterr().err


def test_flags_of_a_command_line_that_is_not_parsed_yet():
    assert flags.given(["evaluate", "--measure", "a,b", "--eps=0", "--measure=c"], "measure") == ["a,b", "c"]
