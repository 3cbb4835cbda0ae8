import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from experiments.runtime.checkpoints import SCORE, Checkpoints, checksums
from experiments.runtime.errors import UserError


def state(value=0.0, width=5):
    return {"params": {"w": np.full((4, width), value, np.float32)}, "step": np.array(3, np.int32)}


def save(workdir, scores, keep_last=2):
    with Checkpoints(workdir, keep_last) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state(float(step)), {"config": {"seed": 1}}, {SCORE: score})


def array_files(workdir, step):
    return sorted((pathlib.Path(workdir) / "checkpoints" / str(step) / "state").rglob("*"), key=lambda f: f.stat().st_size)


def test_round_trip_keeps_every_bit_and_the_metadata(tmp_path):
    save(tmp_path, {1: 0.5})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore("latest", state())
    assert checksums(restored.state) == checksums(state(1.0))
    assert restored.metadata["config"] == {"seed": 1} and restored.step == 1


def test_the_last_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.2})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 4, 5]
        assert checkpoints.restore("best", state()).step == 1
        assert checkpoints.restore("latest", state()).step == 5
        assert checkpoints.restore("4", state()).step == 4
        with pytest.raises(UserError, match=r"no checkpoint '3' .* one of \[1, 4, 5\]"):
            checkpoints.restore("3", state())


def test_no_checkpoints(tmp_path):
    with pytest.raises(UserError, match="there are no checkpoints in"):
        Checkpoints(tmp_path, read_only=True)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.restore("latest", state())


def test_truncated_arrays(tmp_path):
    save(tmp_path, {1: 0.5})
    for file in array_files(tmp_path, 1):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(UserError, match=r"cannot be read|damaged"):
        checkpoints.restore("latest", state())


def test_an_altered_byte_is_noticed_wherever_it_changes_a_value(tmp_path):
    """One bit of the files of the arrays, in many places: an error, or the same values as before."""
    saved = {"params": {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved, {}, {SCORE: 0.5})
    messages = []
    for file in [file for file in array_files(tmp_path, 1) if file.is_file()][-2:]:  # the two largest
        whole = file.read_bytes()
        for place in range(0, len(whole), -(-len(whole) // 8)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with Checkpoints(tmp_path, read_only=True) as checkpoints:
                try:
                    assert checksums(checkpoints.restore("latest", saved).state) == checksums(saved)
                except UserError as error:
                    messages.append(str(error))
        file.write_bytes(whole)
    assert len(messages) >= 4 and all("damaged" in message or "cannot be read" in message for message in messages)


def test_arrays_that_restore_with_other_values_are_noticed(tmp_path, monkeypatch):
    """What orbax does with some altered bytes: it returns other numbers without a word."""
    save(tmp_path, {1: 0.5})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restore = checkpoints.manager.restore

        def altered(*arguments, **options):
            found = restore(*arguments, **options)
            return found if "state" not in found else {"state": jax.tree.map(lambda a: a + 1, found["state"])}

        monkeypatch.setattr(checkpoints.manager, "restore", altered)
        with pytest.raises(UserError, match=r"damaged: .* does not match its checksum; choose another --step"):
            checkpoints.restore("latest", state())


class State(NamedTuple):
    params: Any
    optimizer: Any


def test_parameters_alone_are_read_whatever_the_optimizer(tmp_path):
    """A run with an optimizer that this version does not know."""
    params = {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "head": {"bias": np.ones(2, np.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, State(params, {"strange": np.zeros(7), "momentum": [np.zeros(3), np.ones(2)]}), {"a": 1}, {SCORE: 0.5})
    zeros = jax.tree.map(np.zeros_like, params)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_params("latest", zeros)
    assert checksums(restored.state) == checksums(params) and restored.metadata["a"] == 1 and restored.step == 1
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"of another network or method \(\.params\['conv'\]\['kernel'\] differs\)"),
    ):
        checkpoints.restore_params("latest", {**zeros, "conv": {"kernel": np.zeros((3, 3), np.float32)}})


@pytest.mark.parametrize("like", [state(width=6), {"params": {"v": np.zeros((4, 5), np.float32)}, "step": np.array(3, np.int32)}])
def test_another_network(tmp_path, like):
    save(tmp_path, {1: 0.5})
    with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(UserError, match="of another network"):
        checkpoints.restore("latest", like)


def test_what_a_killed_save_leaves_is_not_a_checkpoint(tmp_path):
    save(tmp_path, {1: 0.5})
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.save(2, state(2.0), {}, {SCORE: 0.1})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert jax.tree.leaves(checkpoints.restore("latest", state()).state)[0][0, 0] == 2.0


def test_metadata_that_were_altered_are_refused(tmp_path):
    """What evaluation obeys (norm, seed, data set) is covered by a checksum, too; other checkpoints stay usable."""
    with Checkpoints(tmp_path, keep_last=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(float(step)), {"config": {"seed": 1, "norm": "linf"}}, {SCORE: 0.5})
    (file,) = (tmp_path / "checkpoints" / "2").rglob("metadata/metadata")
    written = file.read_text()
    for altered in (
        written.replace('"linf"', '"l2"'),
        written.replace('"seed": 1', '"seed": 3'),
        "[]",
        "null",
        "{}",
        '{"sha256": []}',
        "{",
        "",
    ):
        assert altered != written
        file.write_text(altered)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            with pytest.raises(UserError, match=r"checkpoint 2 .*(is damaged|cannot be read).*choose another --step, or move it away"):
                checkpoints.metadata("latest")
            assert checkpoints.restore("1", state()).step == 1
