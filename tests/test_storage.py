"""Files that are there completely or not at all, and locks that end with their process."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments.runtime import storage
from experiments.runtime.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "deep" / "a.json"
    storage.save_text(file, "old")

    def fails(opened):
        opened.write(b"half of the")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.save_atomically(file, fails)
    assert file.read_text() == "old" and [path.name for path in file.parent.iterdir()] == ["a.json"]
    storage.save_text(file, "new")
    assert file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o644


def test_arrays_are_read_back_and_damage_is_named(tmp_path):
    file = tmp_path / "a.npz"
    storage.save_arrays(file, {"x": np.arange(3)})
    np.testing.assert_array_equal(storage.read_arrays(file)["x"], np.arange(3))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.npz cannot be read .*: delete it to measure again"):
        storage.read_arrays(file)


HOLD = """
import pathlib, sys, time
from experiments.runtime import storage
lock = storage.lock(pathlib.Path(sys.argv[1]), "busy")
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="busy"):
        storage.lock(tmp_path, "busy")
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    storage.lock(tmp_path, "busy").release()
    storage.lock(tmp_path, "busy").release()


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("IROB_CACHE", str(tmp_path))
    assert storage.cache_dir() == tmp_path
    monkeypatch.delenv("IROB_CACHE")
    assert storage.cache_dir().parts[-2:] == (".cache", "irob")
