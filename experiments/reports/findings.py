"""What a report says first, in sentences: which network withstands most, what must not be trusted, what holds of the interpretation."""

from collections.abc import Iterator, Sequence

from experiments.reports.entries import Entry, by_label
from experiments.reports.strongest import Family, compared, disagreements, families, masked_gradients

SURE = 0.05  # largest p-value of a difference that is stated


def findings(entries: Sequence[Entry], over_seeds: Sequence[Entry]) -> list[str]:
    """Sentences on the results of one data set, the most important first.

    Args:
      entries: each seed for itself.
      over_seeds: the seeds of a training as one.
    """
    return [*best_networks(entries), *masked_gradients(entries), *disagreements(entries), *bounds(over_seeds), *map_stability(over_seeds)]


def best_networks(entries: Sequence[Entry]) -> Iterator[str]:
    """At each eps the network with the highest of the lowest robust accuracies known, of those that were attacked alike on the same images."""
    alike: dict[tuple[object, ...], list[Family]] = {}
    for family in families(entries):
        first = family.members[0]
        alike.setdefault((first.norm, first.indices, first.by), []).append(family)
    for (norm, *_), group in alike.items():
        for eps in sorted({eps for family in group for eps in family.common}):
            ranked = sorted((family for family in group if eps in family.common), key=lambda family: -family.robust(eps).mean())
            yield _leading(ranked, f"{norm} eps {eps:.4g}", eps)


def _leading(ranked: Sequence[Family], where: str, eps: float) -> str:
    n = len(ranked[0].robust(eps))
    first = "{} withstands on {:.3f} [{:.3f}, {:.3f}]".format(ranked[0].label, *ranked[0].accuracy(eps)) + f" of {n} images"
    if len(ranked) == 1:
        return f"At {where} {first}."
    if ranked[0].accuracy(eps)[0] == 0.0:
        return f"At {where} every network is broken on each of {n} images."
    p_value = compared(ranked[0].robust(eps), ranked[1].robust(eps))[-1]
    other = "{}, {:.3f} [{:.3f}, {:.3f}]".format(ranked[1].label, *ranked[1].accuracy(eps))
    sure = p_value != "-" and float(p_value) <= SURE
    return f"At {where} {first}, {'more than' if sure else 'not distinguishable from'} the next, {other} (p {p_value}, same images)."


def bounds(entries: Sequence[Entry]) -> Iterator[str]:
    """Whether the discrepancies stayed above Proposition 1's bound, over all attacks of the measure `bound`."""
    for entry in by_label(entries):
        records = [record for record in entry.of("bound").records("bound_holds") if record.value is not None]
        of = {classes: [record for record in records if record["classes"] == classes] for classes in ("two_class", "one_class")}
        if of["two_class"]:
            lowest = min(record.value for record in of["two_class"] if record.value is not None)
            hidden = min((record.value for record in of["one_class"] if record.value is not None), default=1.0)
            one = f"; the one-class discrepancy was pushed below it on {1 - hidden:.0%}" if hidden < 1 else ""
            yield (
                f"{entry.label}, {entry.protocol}: the two-class discrepancy is at or above Proposition 1's bound on {lowest:.0%} of the"
                f" images under each attack{one}."
            )


def map_stability(entries: Sequence[Entry]) -> Iterator[str]:
    """How far the order of maps can be changed while the prediction stays, at the largest eps that was measured of all networks."""
    by_map: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for entry in by_label(entries):
        for record in entry.of("aai").records("kendall_tau", over="unchanged"):
            if record.value is not None and record["eps"] > 0:
                of = by_map.setdefault((entry.protocol, record["map"]), {})
                of.setdefault(entry.label, {})[record["eps"]] = record.value
    for (protocol, name), of in by_map.items():
        common = set.intersection(*(set(taus) for taus in of.values()))
        if common and len(of) > 1:
            eps = max(common)
            ranked = sorted(of, key=lambda label: -of[label][eps])
            values = ", ".join(f"{label} {of[label][eps]:.2f}" for label in ranked)
            yield f"Kendall's tau of {name} under attack on it, eps {eps:.4g}, {protocol}: {values}."
