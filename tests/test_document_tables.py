"""Tables of documents from summaries: what stands in a document is what the results say."""

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
    assert cell({"value": -0.25, "ci95": None}) == "-.250" and cell({"value": None, "ci95": None}) == "-"


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
