"""Requests to stop: the run is saved where it is, ends with a line and a code, and continues bit for bit."""

import os
import signal

import pytest

from experiments.configs import base
from experiments.runtime.checkpoints import Checkpoints, checksums
from experiments.runtime.errors import Stopped
from experiments.runtime.signals import stop_requests
from experiments.training.loop import train


def test_a_stopped_run_is_saved_at_its_step_and_ends_as_if_it_had_not_been(tmp_path):
    """At a step without a checkpoint of its own, and at one with."""
    config = base.load_config("digits:adv,tiny", ["ema_decay=0.5"])
    whole = train(config, str(tmp_path / "whole"))
    for at, number in ((2, signal.SIGTERM), (4, signal.SIGINT)):
        seen, workdir = [], str(tmp_path / f"at{at}")
        with pytest.raises(Stopped, match=rf"{number.name}: saved at step {at} of 8; the same command resumes") as stopped:
            train(config, workdir, stop=lambda at=at, number=number, seen=seen: number if len(seen) >= at - 1 else seen.append(1))
        assert stopped.value.code == (0 if number == signal.SIGTERM else 130)
        with Checkpoints(workdir, read_only=True) as checkpoints:
            assert checkpoints.steps() == [at]
        assert checksums(train(config, workdir)) == checksums(whole)
        with Checkpoints(workdir, read_only=True) as checkpoints, Checkpoints(tmp_path / "whole", read_only=True) as expected:
            assert checkpoints._step("best") == expected._step("best"), "what was saved without validation is no candidate"


def test_a_request_at_the_last_step_is_no_reason_to_complain(tmp_path):
    config = base.load_config("digits:normal,tiny", ["num_steps=4"])
    seen = []
    state = train(config, str(tmp_path), stop=lambda: signal.SIGTERM if len(seen) >= 3 else seen.append(1))
    assert int(state.step) == 4


def test_the_first_signal_is_noted_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert stop() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_ends_with_one_line_and_resumes(commands, tmp_path, number, code):
    options = ("--config", "digits:normal,tiny", "--config.num_steps=4000", "--config.checkpoint_every=2000", "--workdir", tmp_path / "run")
    process = commands.start("train", *options)
    log = tmp_path / "run" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, err = commands.finish(process, code)
    assert "Traceback" not in err and f"{number.name}: saved at step " in err.splitlines()[-1]
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        (step,) = checkpoints.steps()
    assert 0 < step < 4000
    _, err = commands.run("train", *options)
    assert "saved at step" not in err
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 4000
