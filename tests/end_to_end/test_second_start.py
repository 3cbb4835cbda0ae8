"""A command that is started a second time compiles nothing: every program comes from the cache on disk."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

COUNTING = """
import atexit, runpy, sys
from experiments.runtime.process import keep_compiled_programs
keep_compiled_programs()
import jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
atexit.register(lambda: print("compiled", events.count("cache_misses"), "read", events.count("cache_hits")))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_second_start_of_a_command_compiles_nothing(tmp_path):
    def programs(module, *arguments):
        command = [sys.executable, "-c", COUNTING, f"experiments.{module}", *map(str, arguments)]
        environment = {**os.environ, "IROB_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        words = done.stdout.split()
        return int(words[-3]), int(words[-1])

    train = lambda i: programs("train", "--config", "digits:int,tiny", "--workdir", tmp_path / f"run{i}", "--quiet")
    compiled, read = train(1)
    assert compiled > 10 and read == 0
    assert train(2) == (0, compiled)
    evaluate = lambda i: programs(
        "evaluate", "--workdir", tmp_path / "run1", "--num_examples", 8, "--out", tmp_path / f"{i}.json", "--quiet"
    )
    compiled, _ = evaluate(1)
    assert compiled > 3
    again, read = evaluate(2)
    assert again == 0 and read >= compiled
