"""The sentences that a report begins with, and how its page shows cells and figures."""

import dataclasses
import re

import numpy as np
import pytest
from test_reports import entry
from test_seeds import arrays, entries, result  # noqa: F401 - a fixture

from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.findings import best_networks, bounds, findings, map_stability
from experiments.reports.pages import inlined, interval
from experiments.reports.records import mean_record, proportion_record
from experiments.reports.results import MeasureInfo
from experiments.reports.seeds import over_seeds


def test_the_network_that_withstands_most_comes_first(entries):  # noqa: F811
    """Of 6 images adv withstands on 1, the seeds of int on 3 and on 2; the images are too few for a difference."""
    first, *_ = findings(entries, over_seeds(entries))
    assert first.startswith(
        "At linf eps 0.1 int (2 seeds) withstands on 0.417 [0.333, 0.500] of 6 images, not distinguishable from the next, adv, 0.167 ["
    )


def network(label, right):
    return Entry(label, result(1, [np.ones_like(right), right], label), arrays([np.ones_like(right), right]))


def test_a_difference_is_said_where_it_is_one():
    good, bad, worst = (network(label, np.arange(6) < count) for label, count in (("good", 6), ("bad", 0), ("worst", 0)))
    (said,) = best_networks([bad, good])
    assert "good withstands on 1.000 [" in said and "more than the next, bad, 0.000 [" in said and "(p 0.031, same images)" in said
    assert list(best_networks([bad, worst])) == ["At linf eps 0.1 every network is broken on each of 6 images."]
    assert list(best_networks([good])) == ["At linf eps 0.1 good withstands on 1.000 [0.610, 1.000] of 6 images."]


def of_measure(label, measure, records):
    made = dataclasses.replace(
        entry(label).result,
        measures={measure: MeasureInfo(4, "", {})},
        records=[dataclasses.replace(record, measure=measure) for record in records],
    )
    return Entry(label, made, {})


def test_what_holds_of_the_interpretation_is_said():
    held = [
        proportion_record("bound_holds", np.array(right, bool), attack="isa", against="one_class", classes=classes)
        for classes, right in (("two_class", [1, 1, 1, 1]), ("one_class", [0, 0, 1, 0]))
    ]
    (said,) = bounds([of_measure("int", "bound", held)])
    assert "on 100% of the images" in said and said.endswith("the one-class discrepancy was pushed below it on 75%.")
    tau = {"int": (0.9, 0.8), "normal": (0.5, 0.25)}
    taus = [
        of_measure(
            label,
            "aai",
            [
                mean_record("kendall_tau", np.array([value]), eps=eps, map="cam", over="unchanged")
                for eps, value in zip((0.1, 0.2), of, strict=True)
            ],
        )
        for label, of in tau.items()
    ]
    assert list(map_stability(taus)) == ["Kendall's tau of cam under attack on it, eps 0.2, standard: int 0.80, normal 0.25."]
    assert list(map_stability(taus[:1])) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.5 [0.1, 0.9] (n 3)", "0.5<small>[0.1, 0.9] (n 3)</small>"),
        ("a <b>", "a &lt;b&gt;"),
        ("[0.1, 0.9]", "[0.1, 0.9]"),
    ],
)
def test_an_interval_stands_below_its_value(text, shown):
    assert interval(text) == shown


def test_markers_of_a_curve_tell_their_values(tmp_path):
    figure = figures.curves_against_eps(
        {"a": [figures.Curve("int", [0.0, 0.1], [1.0, 0.25], [None, None])]}, "accuracy", (0.0, 1.05), "network"
    )
    figures.save(figure, tmp_path / "curve.svg")
    page = inlined(tmp_path / "curve.svg")
    assert re.findall(r"<title>int\neps [^:]*: (\S+)\n(\S+)</title>", page) == [("0", "1.000"), ("0.1", "0.250")]
    names = re.findall(r'\bid="([^"]+)"', page)
    assert names and all(name.startswith("curve-") for name in names) and "xmlns" not in page and "http" not in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(names)
