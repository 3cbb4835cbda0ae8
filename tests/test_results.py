import json

import numpy as np
import pytest

from experiments import results
from experiments.cli import UserError

RESULT = {
    "schema": results.SCHEMA,
    "method": "int",
    "dataset": "digits",
    "protocol": {"name": "paper"},
    "records": [],
    "n": 3,
    "seed": 1,
    "data": {"name": "digits"},
    **dict.fromkeys(("measures", "n_by_measure", "arrays", "versions", "git_revision", "device", "seconds")),
}


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "deep" / "r.json"
    results.write(RESULT, {"a/b": np.arange(3)}, file)
    result = results.read(file)
    assert {**result, "arrays": None} == RESULT
    np.testing.assert_array_equal(results.read_arrays(file, result)["a/b"], np.arange(3))
    assert sorted(path.name for path in file.parent.iterdir()) == ["r.json", "r.npz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(RESULT)[:-20], "is not a whole result file .*: measure it again"),
        ("", "is not a whole result file"),
        ("[]", "is no result file of experiments.evaluate"),
        ('{"a": 1}', "is no result file"),
        (json.dumps({**RESULT, "schema": 1}), f"has schema 1, this version reads {results.SCHEMA}"),
        (json.dumps({k: v for k, v in RESULT.items() if k != "records"}), r"is not a whole result file \(records is missing\)"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        results.read(file)


def test_arrays_of_another_run_are_refused(tmp_path):
    file = tmp_path / "r.json"
    results.write(RESULT, {"a": np.arange(3)}, file)
    result = results.read(file)
    np.savez(tmp_path / "r.npz", a=np.arange(4))
    with pytest.raises(UserError, match=r"r.npz is not what was written with r.json"):
        results.read_arrays(file, result)
    (tmp_path / "r.npz").unlink()
    assert results.read_arrays(file, result) == {}


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        results.read(tmp_path / "none.json")


def test_nothing_is_overwritten_unasked(tmp_path):
    for name in ("r.json", "r.npz"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match="exists: give another --out, or --overwrite"):
            results.check_free(tmp_path / "r.json", overwrite=False)
        results.check_free(tmp_path / "r.json", overwrite=True)
        (tmp_path / name).unlink()
    results.check_free(tmp_path / "r.json", overwrite=False)
    with pytest.raises(UserError, match=r"ends in \.json"):
        results.check_free(tmp_path / "r.txt", overwrite=False)
