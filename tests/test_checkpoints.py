import json
import pathlib

import jax
import numpy as np
import pytest

from experiments.checkpoints import SCORE, Checkpoints, checksums
from experiments.cli import UserError


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


def test_a_changed_checksum_is_noticed(tmp_path):
    """One altered byte of an array and an altered checksum look the same from here; the latter is easy to make."""
    save(tmp_path, {1: 0.5})
    (file,) = (f for f in (tmp_path / "checkpoints" / "1" / "metadata").rglob("*") if f.is_file() and "sha256" in f.read_text())
    metadata = json.loads(file.read_text())
    name = next(iter(metadata["sha256"]))
    metadata["sha256"][name] = "0" * 64
    file.write_text(json.dumps(metadata))
    with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(UserError, match="does not match its checksum"):
        checkpoints.restore("latest", state())


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
