"""Result files: what is written is read; what is no result is refused; older ones are converted."""

import json

import numpy as np
import pytest

from experiments.reports import results
from experiments.reports.records import mean_record, proportion_record, record_from
from experiments.reports.results import MeasureInfo, Result
from experiments.runtime.errors import UserError

MADE = {"versions": {"irob": "1"}, "git_revision": None, "device": "1 x cpu", "seconds": 1.5, "checkpoint": {"sha256": "a", "step": 3}}
RECORDS = [
    proportion_record("robust_accuracy", np.array([True, False]), eps=0.1, attack="pgd"),
    mean_record("tau", np.array([np.nan]), map="cam"),
]
RESULT = Result("int", "digits", "paper", 1, {"pgd": MeasureInfo(3, "how", {"k": 8})}, RECORDS, {"name": "digits"}, MADE)


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "deep" / "r.json"
    results.write_result(RESULT, {"a/b": np.arange(3)}, file)
    found = results.read_result(file)
    assert {**found.as_dict(), "arrays": None} == {**RESULT.as_dict(), "arrays": None}
    assert found.records == RECORDS and found.measures == RESULT.measures and found.n == 3
    np.testing.assert_array_equal(results.read_result_arrays(file, found)["a/b"], np.arange(3))
    assert sorted(path.name for path in file.parent.iterdir()) == ["r.json", "r.npz"]


def test_records_are_flat_and_typed():
    accuracy, tau = RECORDS
    flat = accuracy.as_dict()
    assert flat == {
        "measure": "",
        "metric": "robust_accuracy",
        "eps": 0.1,
        "attack": "pgd",
        "n": 2,
        "value": 0.5,
        "ci95": list(accuracy.ci95),
    }
    assert record_from(flat) == accuracy and accuracy["eps"] == 0.1 and accuracy.get("map") is None
    assert accuracy.has(eps=0.1, n=2) and not accuracy.has(eps=0.2)
    assert (tau.n, tau.value, tau.ci95) == (0, None, None)
    assert mean_record("tau", np.array([0.5])).ci95 is None
    three = mean_record("tau", np.array([1.0, 2.0, 3.0, np.inf]))
    assert (three.n, three.value) == (3, 2.0) and three.ci95 == pytest.approx((2 - 1.959964 / 3**0.5, 2 + 1.959964 / 3**0.5))


TEXT = json.dumps(RESULT.as_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT[:-20], "is not a complete result file .*: measure again"),
        ("", "is not a complete result file"),
        ("[]", "is not a result file of experiments.evaluate"),
        ('{"a": 1}', "is not a result file"),
        (TEXT.replace('"schema": 3', '"schema": 1'), "has schema 1; this version reads 3 and converts 2"),
        (TEXT.replace('"records"', '"recorded"'), r"is not a complete result file \(records is missing\)"),
        (TEXT.replace('"metric"', '"metrics"'), r"a record or a measure lacks 'metric'"),
        (TEXT.replace('"description"', '"descriptions"'), r"is not a complete result file"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        results.read_result(file)


OLD = {
    "schema": 2,
    "method": "int",
    "dataset": "mnist",
    "measures": ["pgd", "aai", "bound", "isa", "tradeoff", "unforeseen"],
    "protocol": {"name": "standard", "description": "strong", "steps": 150},
    "attacks": [],
    "records": [
        {"metric": "clean_accuracy", "eps": 0.0, "n": 5, "value": 1.0, "ci95": [0.5, 1.0]},
        {"metric": "robust_accuracy", "attack": "pgd", "eps": 0.1, "n": 5, "value": 0.8, "ci95": [0.4, 0.9]},
        {"metric": "kendall_tau", "attack": "aai", "map": "cam", "eps": 0.1, "n": 5, "value": 0.8, "ci95": None},
        {"metric": "bound_holds", "attack": "isa", "against": "one_class", "discrepancy": "two_class", "n": 5, "value": 1.0, "ci95": None},
        {"metric": "normalised_discrepancy", "attack": "isa", "discrepancy": "all_class", "n": 5, "value": 2.0, "ci95": None},
        {"metric": "kendall_tau", "attack": "isa", "discrepancy": "all_class", "n": 5, "value": 0.2, "ci95": None},
        {"metric": "discrepancy", "attack": "isa", "discrepancy": "one_class", "eps": 0.2, "n": 5, "value": 3.0, "ci95": None},
        {"metric": "clean_accuracy", "attack": "none", "eps": 0.0, "n": 5, "value": 1.0, "ci95": None},
        {"metric": "robust_accuracy", "attack": "fog", "eps": 128, "n": 5, "value": 0.5, "ci95": None},
    ],
    "n": 5,
    "n_by_measure": {"pgd": 5, "aai": 5, "bound": 5, "isa": 5, "tradeoff": 5, "unforeseen": 5},
    "seed": 99,
    "data": {"name": "mnist"},
    **MADE,
}


def test_a_result_of_schema_2_is_converted(tmp_path):
    file = tmp_path / "r.json"
    np.savez(file.with_suffix(".npz"), **{"isa/cam.one_class.l1/normalised": np.ones(2), "bound/minimal/margin": np.zeros(2)})
    file.write_text(json.dumps({**OLD, "arrays": {"file": "r.npz", "sha256": results.storage.checksum(file.with_suffix(".npz"))}}))
    found = results.read_result(file)
    measures = [record.measure for record in found.records]
    assert measures == ["pgd", "pgd", "aai", "bound", "isa", "isa", "tradeoff", "unforeseen", "unforeseen"]
    assert found.records[3]["classes"] == "two_class" and found.records[4].metric == "normalized_discrepancy"
    assert found.records[6].metric == "discrepancy" and found.records[6]["mean_eps"] == 0.2
    assert found.protocol == "standard" and found.measures["aai"] == MeasureInfo(5, "strong", {}) and found.seed == 99
    assert set(results.read_result_arrays(file, found)) == {"isa/cam.one_class.l1/normalized", "bound/minimal/half_gap"}


def test_arrays_of_another_run_are_refused(tmp_path):
    file = tmp_path / "r.json"
    results.write_result(RESULT, {"a": np.arange(3)}, file)
    result = results.read_result(file)
    np.savez(tmp_path / "r.npz", a=np.arange(4))
    with pytest.raises(UserError, match=r"r.npz is not what was written with r.json"):
        results.read_result_arrays(file, result)
    (tmp_path / "r.npz").unlink()
    assert results.read_result_arrays(file, result) == {}


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        results.read_result(tmp_path / "none.json")


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 17.0}, r"an accuracy in \[0, 1\], not"),
        ({"value": float("nan")}, "finite numbers, not"),
        ({"value": "0.5"}, "finite numbers, not"),
        ({"ci95": [0.1, float("inf")]}, "finite numbers, not"),
        ({"n": -1}, "an n that is a count, not -1"),
        ({"n": True}, "an n that is a count, not True"),
    ],
)
def test_records_that_are_no_numbers_are_refused(change, message):
    good = {"measure": "pgd", "metric": "robust_accuracy", "n": 4, "value": 0.5, "ci95": [0.1, 0.9], "eps": 0.1}
    assert record_from(good).value == 0.5
    with pytest.raises(TypeError, match=message):
        record_from(good | change)
    assert record_from(good | {"metric": "discrepancy", "value": 17.0}).value == 17.0


def test_a_result_that_was_altered_is_refused(tmp_path):
    from test_reports import entry

    file = tmp_path / "r.json"
    results.write_result(entry().result, {"pgd/indices": np.arange(2)}, file)
    written = file.read_text()
    assert results.read_result(file).records
    for altered in (written.replace('"value": 0.5', '"value": 0.75'), written.replace('"seed": 1', '"seed": 2')):
        assert altered != written
        file.write_text(altered)
        with pytest.raises(UserError, match="is not as it was written"):
            results.read_result(file)
