"""What a report says first, in sentences: what must not be trusted, which network withstands most, what holds of the interpretation."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record
from experiments.reports.strongest import Family, compared, disagreements, families, masked_gradients
from experiments.reports.tables import not_trusted

SURE = 0.05  # largest p-value of a difference that is stated
FEWEST = 10  # images that a mean of Kendall's tau is said of
NOTE = (
    "In brackets 95% intervals, of several seeds the lowest and the highest. p is of the two networks named, on the same images; it is not corrected"
    " for the number of pairs and of eps. Every robust accuracy is an upper bound."
)


def findings(entries: Sequence[Entry], over_seeds: Sequence[Entry]) -> list[str]:
    """Sentences on the results of one data set, doubts first.

    Args:
      entries: each seed for itself.
      over_seeds: the seeds of a training as one.
    """
    return [*doubts(entries, over_seeds), *best_networks(entries), *bounds(entries), *map_stability(over_seeds)]


def doubts(entries: Sequence[Entry], over_seeds: Sequence[Entry]) -> Iterator[str]:
    """Attacks without gradients, failed diagnoses, masked gradients, and of each network the largest disagreement of two measures."""
    for entry in by_label(entries):
        yield from not_trusted(entry)
        if failed := [record["item"] for record in entry.of("diagnose").records("diagnosis") if record["verdict"] == "fail"]:
            yield f"Not to be trusted: {entry.label} fails {', '.join(failed)} of the diagnosis."
    yield from masked_gradients(over_seeds)
    largest: dict[str, tuple[float, str]] = {}
    for label, gap, sentence in disagreements(entries):
        largest[label] = max(largest.get(label, (0.0, "")), (gap, sentence))
    yield from (sentence for _, sentence in largest.values())


def best_networks(entries: Sequence[Entry]) -> Iterator[str]:
    """At each eps the network with the highest of the lowest robust accuracies known, of those that were attacked alike, up to this eps, on the same
    images.
    """
    alike: dict[tuple[Any, ...], list[Family]] = {}
    for family in families(entries):
        first = family.members[0]
        for eps in first.correct:
            attacks = tuple((radius, by) for radius, by in sorted(first.by.items()) if radius <= eps)
            alike.setdefault((eps, first.norm, first.indices, attacks), []).append(family)
    for (eps, norm, indices, attacks), group in sorted(alike.items(), key=lambda item: item[0][0]):
        measures = " and ".join(dict.fromkeys(f"{measure} ({protocol})" for measure, protocol, _ in attacks[-1][1]))
        apart = [other for other in alike if other[:2] == (eps, norm) and other != (eps, norm, indices, attacks)]
        alone = "" if not apart else " (other networks were attacked otherwise, or on other images)"
        ranked = sorted(group, key=lambda family: -family.accuracy(eps)[0])
        yield f"At {norm} eps {eps:.4g}, under {measures}, {_leading(ranked, len(indices), eps)}{alone}."


def _leading(ranked: Sequence[Family], n: int, eps: float) -> str:
    names = [family.label for family in ranked]
    values = ["{:.3f} [{:.3f}, {:.3f}]".format(*family.accuracy(eps)) for family in ranked]
    if ranked[0].accuracy(eps)[0] == 0.0:
        return f"{', '.join(names)} classif{'ies' if len(names) == 1 else 'y'} none of {n} images correctly"
    said = f"{names[0]} classifies {values[0]} of {n} images correctly"
    p_value = compared(ranked[0].robust(eps), ranked[1].robust(eps)).p_value if len(ranked) > 1 else None
    if p_value is None:
        return said
    how = "more than" if p_value <= SURE else "not distinguishable from"
    return f"{said}, {how} the next, {names[1]} {values[1]} (p {p_value:.2g})"


def bounds(entries: Sequence[Entry]) -> Iterator[str]:
    """Whether the discrepancies stayed above Proposition 1's bound under the attacks of the measure `bound`. entries: each seed for itself."""
    for entry in by_label(entries):
        worst: dict[str, tuple[float, int]] = {}
        for record in entry.of("bound").records("bound_holds"):
            if record.value is not None:
                worst[record["classes"]] = min(worst.get(record["classes"], (2.0, 0)), (record.value, record.n))
        if "two_class" in worst:
            value, n = worst["two_class"]
            above = f"all {n}" if value == 1.0 else f"{round(value * n)} of {n}"
            one, of = worst.get("one_class", (1.0, 0))
            below = "" if one == 1.0 else f"; an attack pushed the one-class discrepancy below it on {round((1 - one) * of)} of {of}"
            held = f"the two-class discrepancy is at or above Proposition 1's bound on {above} attacked images"
            yield f"{entry.label} ({entry.protocol}): {held}{below}."


def map_stability(entries: Sequence[Entry]) -> Iterator[str]:
    """How far the top-k attack changes maps while the prediction stays, at the largest eps that was measured of all networks measured alike."""
    alike: dict[str, dict[str, dict[float, Record]]] = {}
    for entry in by_label(entries):
        settings = entry.result.measures["aai"].settings if "aai" in entry.result.measures else {}
        for record in entry.of("aai").records("kendall_tau", over="unchanged"):
            if record.value is not None and record.n >= FEWEST and record["eps"] > 0 and record.get("norm"):
                how = json.dumps([record["map"], record["norm"], entry.protocol, settings], sort_keys=True)
                alike.setdefault(how, {}).setdefault(entry.label, {})[record["eps"]] = record
    for key, networks in alike.items():
        name, norm, protocol, _ = json.loads(key)
        if common := set.intersection(*(set(records) for records in networks.values())):
            eps = max(common)
            ranked = sorted((records[eps].value or 0.0, label) for label, records in networks.items())[::-1]
            said = ", ".join(f"{label} {value:.2f} (n {networks[label][eps].n})" for value, label in ranked)
            yield f"Kendall's tau of clean and attacked {name} at {norm} eps {eps:.4g} ({protocol}), where the prediction stays: {said}."
