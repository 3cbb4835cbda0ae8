import contextlib

import numpy as np
import pytest

from experiments.evaluation import cache
from experiments.evaluation.cache import ResultCache
from experiments.runtime.errors import UserError

SETTINGS = {"protocol": "paper", "eps": (0.0, 0.1), "versions": {"jax": "1"}}


def test_without_a_directory_results_are_remembered():
    memory = ResultCache()
    assert memory.read("clean") == {}
    memory.add("clean", {"indices": np.array([3, 1]), "hit": np.array([True, False])}, last=False)
    memory.add("clean", {"indices": np.array([2]), "hit": np.array([True])}, last=True)
    np.testing.assert_array_equal(memory.read("clean")["indices"], [3, 1, 2])


def interrupted(out, last=True):
    """An evaluation that is stopped after one part."""

    with contextlib.suppress(KeyboardInterrupt), cache.resumable(out, SETTINGS) as first:
        first.add("pgd, eps 0.05", {"indices": np.arange(2), "hit": np.ones(2)}, last=last)
        raise KeyboardInterrupt


def resumed(out, settings=SETTINGS):
    """What a second start finds, when it comes to its end."""
    with cache.resumable(out, settings) as second:
        return second.read("pgd, eps 0.05")


def test_what_was_written_is_there_after_an_interruption_and_gone_after_success(tmp_path):
    interrupted(tmp_path / "r.json")
    np.testing.assert_array_equal(resumed(tmp_path / "r.json")["hit"], np.ones(2))
    assert not (tmp_path / "r.json.partial").exists()


def test_what_was_not_written_is_measured_again(tmp_path):
    interrupted(tmp_path / "r.json", last=False)
    assert resumed(tmp_path / "r.json") == {}


def test_long_measurements_are_written_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "INTERVAL", 0.0)
    interrupted(tmp_path / "r.json", last=False)
    np.testing.assert_array_equal(resumed(tmp_path / "r.json")["indices"], np.arange(2))


def test_other_settings_are_refused_with_the_difference(tmp_path):
    interrupted(tmp_path / "r.json")
    with pytest.raises(UserError, match=r"unfinished evaluation with other settings \(versions.jax: '1' -> '2'\)"):
        resumed(tmp_path / "r.json", {**SETTINGS, "versions": {"jax": "2"}})


def test_a_damaged_part_is_refused(tmp_path):
    interrupted(tmp_path / "r.json")
    (part,) = (tmp_path / "r.json.partial").glob("*.npz")
    part.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match=r"npz cannot be read .*: delete it to measure again"):
        resumed(tmp_path / "r.json")


def test_two_at_once_are_refused(tmp_path):
    with cache.resumable(tmp_path / "r.json", SETTINGS), pytest.raises(UserError, match="another evaluation is using"):
        resumed(tmp_path / "r.json")


def test_a_mistake_before_anything_was_measured_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="mine"), cache.resumable(tmp_path / "r.json", SETTINGS):
        raise UserError("mine")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "r.json.partial").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        resumed(tmp_path / "r.json")
    interrupted(tmp_path / "s.json")
    (tmp_path / "s.json.partial" / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings.json cannot be read: delete"):
        resumed(tmp_path / "s.json")


def test_names_become_files_of_bounded_length():
    names = ["pgd, eps 0.1", "pgd, eps 0,1", "x" * 300, "x" * 301]
    assert len({cache.file_name(name) for name in names}) == 4
    assert max(len(cache.file_name(name)) for name in names) < 100
