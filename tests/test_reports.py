"""Tables of a report: one record a cell, notes, names of files."""

import dataclasses
import json
import types

import numpy as np
import pytest
from test_results import MADE

from experiments.evaluation import reporting
from experiments.evaluation.measures import MEASURES
from experiments.reports import figures, pages
from experiments.reports.entries import Entry
from experiments.reports.records import proportion_record
from experiments.reports.results import MeasureInfo, Result
from experiments.reports.tables import coverage, eps_table
from experiments.runtime.errors import UserError

PROVENANCE = {**MADE, "versions": {"irob": "1", "jax": "1"}, "checkpoint": {**MADE["checkpoint"], "workdir": "runs/a"}}
COLUMNS = (("attack", "attack"),)


def entry(label="int", protocol="standard", measure="pgd", dataset="digits", **settings):
    clean = proportion_record("clean_accuracy", np.array([True, True]), eps=0.0)
    attacked = proportion_record("robust_accuracy", np.array([True, False]), eps=0.1, attack="pgd", norm="linf", steps=150, **settings)
    records = [dataclasses.replace(record, measure=measure) for record in (clean, attacked)]
    result = Result(label, dataset, protocol, 1, {measure: MeasureInfo(2, "", {})}, records, {"name": "digits", "from": "here"}, PROVENANCE)
    return Entry(label, result, {f"{measure}/indices": np.arange(2), "other/indices": np.arange(3)})


def texts(table):
    return [table.header, *[[cell.text for cell in row] for row in table.rows]]


def test_a_table_has_a_row_for_each_network_and_a_column_for_each_eps():
    table = eps_table("accuracy", "Accuracy", COLUMNS, [entry("a"), entry("b")], "robust_accuracy", "clean_accuracy", notes=["so"])
    header, *rows = texts(table)
    assert header == ["network", "protocol", "attack", "eps 0", "eps 0.1"]
    assert [row[:3] for row in rows] == [["a", "standard", "pgd"], ["b", "standard", "pgd"]]
    assert rows[0][3].startswith("1.000 [") and rows[0][4].startswith("0.500 [") and table.notes == ["so"]
    alone = eps_table("accuracy", "Accuracy", COLUMNS, [entry("a")], "no_such_metric", "clean_accuracy", notes=[])
    assert [row[:3] for row in texts(alone)[1:]] == [["a", "standard", ""]]


def test_two_results_of_one_cell_are_refused_and_named():
    with pytest.raises(
        UserError, match=r"two results have robust_accuracy of int at eps 0.1 under the standard protocol, with other restarts"
    ):
        eps_table("accuracy", "Accuracy", COLUMNS, [entry(restarts=1), entry(restarts=5)], "robust_accuracy", notes=[])


def test_a_network_measured_under_paper_alone_is_named():
    entries = [entry("a"), entry("b", "paper"), entry("c", "paper"), entry("c")]
    assert coverage(entries) == ["Measured under `paper` alone, which says little: b."]
    assert coverage(entries[:1]) == []


def test_two_seeds_of_one_network_are_two_rows(tmp_path):
    from experiments.reports.entries import read_entries
    from experiments.reports.results import write_result

    for seed in (1, 2):
        result = dataclasses.replace(entry().result, seed=seed, provenance=PROVENANCE)
        write_result(result, {"pgd/indices": np.arange(2)}, tmp_path / f"seed{seed}.json")
    assert sorted(e.label for e in read_entries([str(tmp_path)])) == ["int, attack seed 1", "int, attack seed 2"]


def test_an_entry_of_one_measure_has_its_records_and_arrays_alone():
    both = entry()
    assert list(both.of("pgd").arrays) == ["indices"] and len(both.of("pgd").records()) == 2
    assert both.of("other").records() == [] and len(both.of("other").arrays["indices"]) == 3


def test_a_variant_of_a_measure_is_reported_under_its_own_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mine", types.SimpleNamespace(MINE=MEASURES["pgd"]))
    section = reporting.section("digits", [entry(measure="mine:MINE")])
    assert section.tables[0].rows[0][-1].text.startswith("0.500 [") and [p.name for p in section.pictures] == ["accuracy_against_eps"]


def test_a_method_has_one_color_in_every_figure():
    alone, among = figures.colors_of(["int"]), figures.colors_of(["normal", "adv (3 seeds)", "int, seed 99", "mine"])
    assert alone["int"] == among["int, seed 99"] and among["adv (3 seeds)"] == figures.colors_of(["adv"])["adv"]
    many = figures.colors_of([f"int, defense.weight {i}" for i in range(12)] + ["mine"])
    assert many["int, defense.weight 0"] == alone["int"] and len(set(many.values())) == 13
    assert len(figures.colors_of([f"network {i}" for i in range(40)])) == 40


def test_files_of_a_data_set_of_ones_own_do_not_collide(tmp_path):
    of = lambda name: eps_table(name, name, COLUMNS, [entry()], "robust_accuracy", notes=[])
    pages.write_report([pages.Section("my.data:SET", ["a sentence"], [of("one"), of("two")], [])], [entry()], tmp_path)
    assert "* a sentence" in (tmp_path / "report.md").read_text()
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == [
        "my_data_SET_one.csv",
        "my_data_SET_one.md",
        "my_data_SET_two.csv",
        "my_data_SET_two.md",
    ]


def test_two_figures_of_one_name_are_refused(tmp_path):
    made = [pages.Section(name, [], [], [figures.Picture(of, None, "")]) for name, of in (("a", "b_c"), ("a_b", "c"))]
    with pytest.raises(UserError, match=r"two files a_b_c\.svg"):
        pages.write_report(made, [entry()], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_result_without_its_arrays_is_reported_without_pictures():
    assert MEASURES["inversion"].figures([entry(measure="inversion").of("nothing")], "0123456789") == []


WRONG = ([], None, 3, "x", {}, -1.5, True)


def parts_of(value, path=()):
    """Every place in a result that a file may damage."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from parts_of(part, (*path, key))
    elif isinstance(value, list) and len(path) < 2:
        for i, part in enumerate(value[:2]):
            yield from parts_of(part, (*path, i))


def test_a_damaged_result_is_reported_or_refused_in_one_line(tmp_path, monkeypatch):
    """Each place with each of several wrong values, or missing: a table, or a `UserError`. (Without a checksum, as earlier versions wrote them.)"""
    from experiments.reports.entries import read_entries

    monkeypatch.setitem(MEASURES, "pgd", MEASURES["pgd"]._replace(figures=lambda entries, classes: []))
    good = dataclasses.replace(entry().result, provenance=PROVENANCE).as_dict()
    tables, lines = 0, []
    for path in parts_of(good):
        for wrong in [*WRONG, "delete"]:
            damaged = json.loads(json.dumps(good))
            parent = damaged
            for key in path[:-1]:
                parent = parent[key]
            if not path:
                damaged = wrong
            elif wrong == "delete":
                parent.pop(path[-1])
            else:
                parent[path[-1]] = wrong
            (tmp_path / "r.json").write_text(json.dumps(damaged))
            try:
                entries = read_entries([str(tmp_path / "r.json")])
                for dataset in {each.dataset for each in entries}:
                    reporting.section(dataset, entries)
                tables += 1
            except UserError as error:
                lines.append(str(error))
    assert tables > 100 and len(lines) > 100 and all(len(line.splitlines()) == 1 for line in lines)
