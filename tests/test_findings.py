"""The sentences that a report begins with, and how its page shows cells and figures."""

import dataclasses
import re

import numpy as np
import pytest
from test_reports import entry
from test_seeds import arrays, entries, result  # noqa: F401 - a fixture

from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.findings import FEWEST, best_networks, bounds, doubts, findings, map_stability
from experiments.reports.pages import inlined, interval
from experiments.reports.records import Record, mean_record, proportion_record
from experiments.reports.results import MeasureInfo
from experiments.reports.seeds import over_seeds


def test_the_network_that_withstands_most_comes_first(entries):  # noqa: F811
    """Of 6 images adv withstands on 1, the seeds of int on 3 and on 2; the images are too few for a difference."""
    first, *_ = findings(entries, over_seeds(entries))
    assert first.startswith(
        "At linf eps 0.1, under pgd (standard), int (2 seeds) classifies 0.417 [0.333, 0.500] of 6 images correctly, not distinguishable from the"
        " next, adv 0.167 ["
    )


def network(label, right):
    return Entry(label, result(1, [np.ones_like(right), right], label), arrays([np.ones_like(right), right]))


def test_a_difference_is_said_where_it_is_one():
    good, bad, worst = (network(label, np.arange(6) < count) for label, count in (("good", 6), ("bad", 0), ("worst", 0)))
    (said,) = best_networks([bad, good])
    assert "good classifies 1.000 [0.610, 1.000] of 6 images correctly, more than the next, bad 0.000 [" in said and "(p 0.031)" in said
    start = "At linf eps 0.1, under pgd (standard),"
    assert list(best_networks([bad, worst])) == [f"{start} bad, worst classify none of 6 images correctly."]
    assert list(best_networks([bad])) == [f"{start} bad classifies none of 6 images correctly."]
    odd = network("adv, optimizer [sgd, {momentum: 0.9}]", np.arange(6) < 6)
    assert list(best_networks([odd])) == [f"{start} {odd.label} classifies 1.000 [0.610, 1.000] of 6 images correctly."]


def with_settings(entry, **settings):
    return entry._replace(result=dataclasses.replace(entry.result, measures={"pgd": MeasureInfo(6, "", settings)}))


def test_networks_that_were_attacked_otherwise_are_not_compared():
    good, bad = network("good", np.arange(6) < 6), network("bad", np.arange(6) < 0)
    said = list(best_networks([with_settings(good, num_steps=1), bad]))
    assert len(said) == 2 and all("next" not in each and "attacked otherwise" in each for each in said)
    assert "more than the next, bad" in next(best_networks([with_settings(good, save_examples=True), bad]))


def test_what_a_smaller_eps_broke_is_no_reason_to_lose():
    """One network was attacked at a smaller eps, too, which counts at the larger one."""
    right = np.arange(6) < 6
    more = network("more", right)
    arrays_of = {
        **more.arrays,
        "pgd/eps": np.array([0.0, 0.05, 0.1]),
        "pgd/predictions_150_steps": more.arrays["pgd/predictions_150_steps"][[0, 1, 1]],
    }
    said = [each for each in best_networks([more._replace(arrays=arrays_of), network("less", right)]) if "eps 0.1" in each]
    assert len(said) == 2 and all("next" not in each for each in said)


def test_doubts_come_first():
    hidden = network("hidden", np.arange(6) < 6)
    records = [
        dataclasses.replace(r, settings={**r.settings, "without_gradient": 4} if r["eps"] else r.settings) for r in hidden.result.records
    ]
    first, *_ = findings([hidden._replace(result=dataclasses.replace(hidden.result, records=records))], [])
    assert first.startswith("Not to be trusted: hidden (standard), pgd, eps 0.1: 4 of 6 images withstood attacks that had no gradient")
    verdicts = [
        Record("", "diagnosis", 4, 0.0, None, {"item": item, "verdict": verdict}) for item, verdict in (("a", "fail"), ("b", "pass"))
    ]
    assert list(doubts([of_measure("int", "diagnose", verdicts)], [])) == ["Not to be trusted: int fails a of the diagnosis."]


def of_measure(label, measure, records):
    made = dataclasses.replace(
        entry(label).result,
        measures={measure: MeasureInfo(4, "", {})},
        records=[dataclasses.replace(record, measure=measure) for record in records],
    )
    return Entry(label, made, {})


def test_masked_gradients_are_said_once_for_all_seeds(entries):  # noqa: F811
    masked = [
        entry._replace(
            result=dataclasses.replace(
                entry.result,
                records=[
                    dataclasses.replace(r, settings={**r.settings, "white_box": 1.0} if r["eps"] else r.settings)
                    for r in entry.result.records
                ],
            )
        )
        for entry in entries
    ]
    (said,) = [sentence for sentence in findings(masked, over_seeds(masked)) if "Random search" in sentence]
    assert re.findall(r"from (\w+(?: \(\d seeds\))?) ([\d.]+) points", said) == [("adv", "83.3"), ("int (2 seeds)", "58.3")]
    assert "from int (2 seeds) 58.3 points at linf eps 0.1 (" in said


def held(classes, right):
    return proportion_record("bound_holds", np.array(right, bool), attack="isa", against="one_class", classes=classes)


def test_where_the_bound_holds_is_counted():
    (said,) = bounds([of_measure("int", "bound", [held("two_class", [1, 1, 1, 1]), held("one_class", [0, 0, 1, 0])])])
    assert said == (
        "int (standard): the two-class discrepancy is at or above Proposition 1's bound on all 4 attacked images; an attack pushed the one-class"
        " discrepancy below it on 3 of 4."
    )
    (said,) = bounds([of_measure("int", "bound", [held("two_class", np.arange(400) > 0)])])
    assert said.endswith("on 399 of 400 attacked images.")


def under_top_k(label, values, n=FEWEST, **more):
    how = {"map": "cam", "over": "unchanged", "norm": "linf"} | more
    return of_measure(label, "aai", [mean_record("kendall_tau", np.full(n, value), eps=eps, **how) for eps, value in values.items()])


def test_how_far_maps_move_is_said_of_networks_measured_alike():
    normal, robust = under_top_k("normal", {0.1: 0.5, 0.2: 0.25}), under_top_k("int", {0.1: 0.9, 0.2: 0.8})
    where = "Kendall's tau of clean and attacked cam at linf eps 0.2 (standard), where the prediction stays:"
    assert list(map_stability([normal, robust])) == [f"{where} int 0.80 (n 10), normal 0.25 (n 10)."]
    assert list(map_stability([robust])) == [f"{where} int 0.80 (n 10)."]
    assert len(list(map_stability([normal, under_top_k("int", {0.2: 0.8}, norm="l2")]))) == 2
    (said,) = map_stability([normal, under_top_k("int", {0.1: 0.9})])
    assert "eps 0.1" in said
    assert list(map_stability([under_top_k("few", {0.1: 0.9}, n=FEWEST - 1)])) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.5 [0.1, 0.9] (n 3)", "0.5 <small>[0.1, 0.9] (n 3)</small>"),
        ("a <b>", "a &lt;b&gt;"),
        ("[0.1, 0.9]", "[0.1, 0.9]"),
        ("int, eps_ramp [1, 2]", "int, eps_ramp [1, 2]"),
    ],
)
def test_an_interval_stands_below_its_value(text, shown):
    assert interval(text) == shown


def test_markers_of_a_curve_tell_their_values(tmp_path):
    curves = [figures.Curve("int", [0.0, 0.1, 0.2], [1.0, 0.25, np.nan], [None] * 3)]
    figures.save(figures.curves_against_eps({"a": curves}, "accuracy", (0.0, 1.05), "network"), tmp_path / "curve.svg")
    page = inlined(tmp_path / "curve.svg")
    assert re.findall(r"<title>int\neps [^:]*: (\S+)\naccuracy: (\S+)</title>", page) == [("0", "1.000"), ("0.1", "0.250")]
    names = re.findall(r'\bid="([^"]+)"', page)
    assert names and all(name.startswith("curve-") for name in names) and "xmlns" not in page and "http" not in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(names) and 'aria-labelledby="curve-caption"' in page


def test_panels_share_the_name_of_their_vertical_axis(tmp_path):
    curves = [figures.Curve("int", [0.0, 0.1], [1.0, 0.25], [None] * 2)]
    figures.save(figures.curves_against_eps({"a": curves, "b": curves}, "accuracy", (0.0, 1.05), "network"), tmp_path / "curve.svg")
    assert inlined(tmp_path / "curve.svg").count("\naccuracy: 0.250</title>") == 2


def test_a_line_that_leaves_the_picture_tells_nothing(tmp_path):
    figure, ((axes,),) = figures.subplots(1, 1, 2, 2)
    axes.plot([0, 1, 2], [0.5, 90.0, 0.5], marker="o")
    axes.set(ylim=(0, 1))
    figures.save(figure, tmp_path / "curve.svg")
    assert "<title>" not in inlined(tmp_path / "curve.svg")


def test_a_map_lies_over_its_image():
    _, ((axes,),) = figures.subplots(1, 1, 2, 2)
    figures.show_map_over(axes, np.full((4, 6, 3), 0.5), np.ones((2, 3)), 2.0)
    below, above = axes.images
    assert below.get_array().shape == (4, 6) and above.get_array().shape == (2, 3) and above.get_clim() == (-2.0, 2.0)
    assert tuple(below.get_extent()) == tuple(above.get_extent()) == (-0.5, 5.5, 3.5, -0.5)


def test_single_points_are_not_drawn_as_curves():
    point, line = (figures.Curve("int", x, x, [None] * len(x)) for x in ([0.1], [0.0, 0.1]))
    assert figures.against_eps("a", "b", {"c": [point]}, "y", (0, 1)) == []
    assert [picture.name for picture in figures.against_eps("a", "b", {"c": [point, line]}, "y", (0, 1))] == ["a"]
