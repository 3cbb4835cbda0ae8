"""Tables of documents from summaries: what stands in a document is what the results say."""

import dataclasses
import json
import re

import numpy as np
import pytest
from conftest import ROOT
from test_seeds import RIGHT, arrays, entries, result  # noqa: F401 - a fixture

from experiments import documents
from experiments.reports.documents import DOCUMENTS, cell, rendered
from experiments.reports.entries import read_entries
from experiments.reports.results import write_result
from experiments.reports.summary import as_text, summarized
from experiments.runtime.errors import UserError


def block(spec, inside=""):
    return f"before\n<!-- results: {json.dumps(spec)} -->\n{inside}<!-- /results -->\nafter\n"


@pytest.fixture
def folder(entries, tmp_path):  # noqa: F811
    place = tmp_path / "summaries"
    place.mkdir()
    (place / "made.json").write_text(as_text(summarized(entries)))
    return place


SPEC = {
    "from": ["made"],
    "where": {"measure": "pgd", "metric": ["clean_accuracy", "robust_accuracy"]},
    "rows": ["network"],
    "columns": "eps",
}


def test_a_summary_has_every_network_with_its_seeds_and_records(folder):
    adv, both = json.loads((folder / "made.json").read_text())["networks"]
    assert (adv["network"], adv["seeds"], both["network"], both["seeds"]) == ("adv", [1], "int (2 seeds)", [1, 2])
    assert both["seconds"] == 3.0 and [record["value"] for record in both["records"]] == pytest.approx([11 / 12, 5 / 12])


def test_a_table_is_made_of_the_records_that_are_asked_for(folder):
    text = rendered(block(SPEC, "| old |\n"), folder)
    lines = text.splitlines()
    assert lines[2:6] == [
        "| network | eps 0 | .1 |",
        "| --- | --- | --- |",
        "| adv | 1.000 [.610, 1.000] | .167 [.030, .564] |",
        "| int (2 seeds) | .917 [.833, 1.000] | .417 [.333, .500] |",
    ]
    assert lines[7].startswith(
        "(n 6; seeds 1, 2; in brackets the lowest and the highest seed, for one seed the 95% interval; digits (here);"
    )
    assert "`experiments/results/made.json`" in lines[7] and lines[0] == "before" and lines[-1] == "after"
    assert rendered(text, folder) == text


def test_pairs_of_networks(folder):
    """In both directions; adv has one seed, int two."""
    difference = np.array(RIGHT["adv", 1][1]) - np.mean([RIGHT["int", 1][1], RIGHT["int", 2][1]], axis=0)
    half = 1.96 * difference.std(ddof=1) / np.sqrt(6)
    pairs = json.loads((folder / "made.json").read_text())["pairs"]
    assert [(pair["network"], pair["other"]) for pair in pairs] == [("adv", "int (2 seeds)"), ("int (2 seeds)", "adv")]
    for pair, sign in zip(pairs, (1, -1), strict=True):
        assert (pair["n"], pair["eps"]) == (6, 0.1)
        middle = sign * difference.mean()
        assert [pair["value"], *pair["ci95"]] == pytest.approx([middle, middle - half, middle + half], abs=1e-4)
    named = {"int (2 seeds)": "`int`, two seeds", "adv": "`adv`"}
    spec = {"from": ["made"], "rows": ["network", "other"], "columns": "eps", "names": named}
    lines = rendered(block(spec | {"where": {"metric": "paired_difference", "network": "int (2 seeds)"}}), folder).splitlines()
    p = f"{pairs[1]['p_value']:.2g}".removeprefix("0")
    low, high = (f"{value:.3f}".replace("0.", ".") for value in pairs[1]["ci95"])
    assert lines[2:5] == [
        "| network | other | eps .1 |",
        "| --- | --- | --- |",
        f"| `int`, two seeds | `adv` | .250 [{low}, {high}], p = {p} |",
    ]
    assert lines[6].startswith("(n 6; seeds 1, 2; in brackets 95% interval over images;")


def test_pairs_are_of_the_same_images(tmp_path):
    """Not of two splits, nor of two sets of measurements of which one seed has fewer; equal networks have no interval."""
    for split in ("test", "validation"):
        for method in ("int", "adv"):
            right = RIGHT[method, 1]
            write_result(result(1, right, method, split=split), arrays(right), tmp_path / f"{method}_{split}.json")
    equal = RIGHT["int", 1]
    write_result(result(1, equal, "trades"), arrays(equal), tmp_path / "equal.json")
    fewer = tuple(right[:4] for right in RIGHT["adv", 1])
    write_result(result(1, fewer, "int2"), arrays(fewer), tmp_path / "fewer.json")
    pairs = summarized(read_entries([str(tmp_path)]))["pairs"]
    (same,) = (pair for pair in pairs if (pair["network"], pair["other"]) == ("int", "trades"))
    assert (same["value"], same["ci95"], same["p_value"]) == (0.0, None, 1.0)
    assert not any("int2" in (pair["network"], pair["other"]) for pair in pairs)
    pairs = [pair for pair in pairs if "trades" not in (pair["network"], pair["other"])]
    assert {(pair["network"], pair["other"], pair["dataset"]) for pair in pairs} == {
        (*names, dataset) for names in (("int", "adv"), ("adv", "int")) for dataset in ("digits", "digits, validation split")
    }


def test_a_pair_has_the_eps_of_its_records(tmp_path):
    """To its last digit, so that a table of both has one column."""
    eps = 8 / 255
    for method in ("int", "adv"):
        made = result(1, RIGHT[method, 1], method)
        records = [dataclasses.replace(r, settings=r.settings | ({"eps": eps} if r.settings["eps"] else {})) for r in made.records]
        write_result(
            dataclasses.replace(made, records=records),
            arrays(RIGHT[method, 1]) | {"pgd/eps": np.array([0.0, eps])},
            tmp_path / f"{method}.json",
        )
    assert {pair["eps"] for pair in summarized(read_entries([str(tmp_path)]))["pairs"]} == {eps}


def test_networks_are_chosen_named_and_ordered(folder):
    text = rendered(
        block(SPEC | {"names": {"int (2 seeds)": "robust maps", "adv": "`adv`"}, "headings": {"network": "by", "0.1": "attacked"}}), folder
    )
    assert [line.split(" | ")[0] for line in text.splitlines()[2:6]] == ["| by", "| ---", "| robust maps", "| `adv`"]
    assert "| attacked |" in text
    only = rendered(block(SPEC | {"names": {"adv": "adv"}}), folder)
    assert "int" not in only.split("(n 6")[0].split("-->\n")[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPEC | {"from": ["none"]}, "is no summary"),
        (SPEC | {"where": {"measure": "aai"}}, "no record is like that"),
        (SPEC | {"names": {"trades": "t"}}, "no record is like that"),
        (SPEC | {"names": {"adv": "a", "trades": "t"}}, "no record is of trades"),
        (SPEC | {"rows": []}, "two records are of"),
        (SPEC | {"columns": "no_such"}, "KeyError"),
        ({"from": ["made"]}, "keys are"),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(folder, spec, message):
    with pytest.raises(UserError, match=message):
        rendered(block(spec), folder)


@pytest.mark.parametrize(
    "change", [("<!-- /results -->\nafter", "after"), ("} -->\n", "} --> \n"), ("before\n", "before <!-- results: {} -->\n")]
)
def test_a_table_that_does_not_begin_and_end_on_lines_of_its_own_is_refused(folder, change):
    with pytest.raises(UserError, match=r"each line <!-- \.\.\. --> stands alone"):
        rendered(block(SPEC).replace(*change), folder)
    two = block(SPEC).replace("<!-- /results -->", "") + block(SPEC)
    with pytest.raises(UserError, match="2 tables begin, 1 end"):
        rendered(two, folder)


def test_cells():
    assert cell({"value": 0.5, "ci95": (0.25, 1.0)}) == ".500 [.250, 1.000]"
    assert cell({"value": -0.5, "ci95": (-1.0, 0.0), "p_value": 0.0123}) == "-.500 [-1.000, .000], p = .012"
    assert cell({"value": 0.5, "ci95": None, "p_value": 1e-200}) == ".500, p < 1e-6"
    assert cell({"value": -0.25, "ci95": None}) == "-.250" and cell({"value": None, "ci95": None}) == "-"


def measured(title, ours, **others):
    contenders = {"irob": {"median": ours, "ratio": 1.0, "rounds": 9}} | {
        name: {"median": ours * ratio, "ratio": ratio, "rounds": 7} for name, ratio in others.items()
    }
    return {"name": title, "title": f"the {title}", "load": 0.25, "matmul_peak": 2.1e11, "contenders": contenders}


def test_tables_of_speed(tmp_path):
    rows = [{"memory": 5e8}, {"memory": 2e9}]
    scaling = {"name": "scaling", "title": "a step", "contenders": {}, "exponents": {"side": 2.0, "classes": None}, "scaling": rows}
    groups = [measured("map", 0.0123, captum=7.04, PyTorch=250.0) | {"fraction_of_floor": 0.5}, measured("step", 1.5), scaling]
    whole = {"device": "2 x cpu", "versions": {"irob": "1", "jax": "2", "torch": "3", "numpy": "4"}, "groups": groups}
    (tmp_path / "speed.json").write_text(json.dumps(whole))
    text = rendered('<!-- benchmark: {"from": "speed"} -->\n<!-- /benchmark -->\n', tmp_path)
    assert text.splitlines()[1:-1] == [
        "|  | ours | the floor, as a part of it | the others take |",
        "| --- | --- | --- | --- |",
        "| the map | 12.3 ms | 50% | captum 7.0 times; PyTorch 250 times |",
        "| the step | 1.5 s |  |  |",
        "",
        "a step: its time grows as the power side 2.00 of these; memory up to 2.0 GB.",
        "",
        "(2 x cpu; irob 1, jax 2, torch 3; matrix products at 210 GFLOP/s; load before a row at most 0.2; medians of 7 rounds or more;"
        " `experiments/results/speed.json`)",
    ]
    assert rendered(text, tmp_path) == text
    chosen = rendered('<!-- benchmark: {"from": "speed", "groups": ["step"]} -->\n<!-- /benchmark -->\n', tmp_path)
    assert "the step" in chosen and "the map" not in chosen and "power" not in chosen
    growth = rendered('<!-- benchmark: {"from": "speed", "groups": ["scaling"]} -->\n<!-- /benchmark -->\n', tmp_path)
    assert growth.splitlines()[1].startswith("a step: its time grows") and "|" not in growth and "irob 1" in growth
    for spec in ('{"from": "none"}', '{"groups": []}', '{"from": "speed", "groups": ["gone"]}', "nothing"):
        with pytest.raises(UserError, match="benchmark: "):
            rendered(f"<!-- benchmark: {spec} -->\n<!-- /benchmark -->\n", tmp_path)


def test_what_the_documents_say_is_what_the_results_say():
    """As `python -m experiments.documents --check`; a number that is altered by hand is found."""
    for name in DOCUMENTS:
        file = ROOT / name
        if file.exists():
            text = file.read_text()
            assert rendered(text, documents.RESULTS) == text, f"{name}: run python -m experiments.documents"
            for table in re.findall(r"<!-- results: .*?<!-- /results -->", text, flags=re.DOTALL):
                altered = text.replace(table, table.replace("| .", "| 1.", 1))
                assert altered != text and rendered(altered, documents.RESULTS) == text
    assert "<!-- results:" in (ROOT / "experiments" / "results" / "claims.md").read_text()


def test_validation_images_are_named_in_the_summary(tmp_path):
    right = RIGHT["int", 1]
    write_result(result(1, right, split="validation"), arrays(right), tmp_path / "validation.json")
    (network,) = summarized(read_entries([str(tmp_path)]))["networks"]
    assert network["dataset"] == "digits, validation split" and np.isfinite(network["records"][0]["value"])
