"""The tables of a report, each from all results of one data set; None where nothing of it was measured."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.reports.entries import Entry
from irob.attacks.unforeseen import UNFORESEEN


class Cell(NamedTuple):
    """text: what stands in a table. best: of its column."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """name: of its files. notes: below it. rows of cells under a header."""

    name: str
    title: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str]


def value(record: dict[str, Any] | None, with_n: bool = False) -> str:
    """A record as text: value and interval, and n if it differs between cells."""
    if record is None:
        return ""
    if record["value"] is None:
        return f"- (n {record['n']})" if with_n else "-"
    interval = record.get("ci95")
    text = f"{record['value']:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
    return f"{text} (n {record['n']})" if with_n else text


def ladder(
    entries: Iterable[Entry], rows: Callable[[Entry], dict[tuple[str, ...], dict[float, dict[str, Any]]]], with_n: bool
) -> tuple[Any, Any]:
    """Rows of (network, protocol, ...) under columns of eps; the best of each column is marked among rows that are alike but for the network."""
    lines: dict[tuple[str, ...], dict[float, dict[str, Any]]] = {}
    for entry in entries:
        for key, by_eps in rows(entry).items():
            lines[entry.label, entry.protocol, *key] = by_eps
    eps = sorted({e for by_eps in lines.values() for e in by_eps})
    best: dict[tuple[Any, ...], float] = {}
    worst: dict[tuple[Any, ...], float] = {}
    competitors: dict[tuple[Any, ...], int] = defaultdict(int)
    for (_, *alike), by_eps in lines.items():
        for e, record in by_eps.items():
            if record["value"] is not None:
                best[*alike, e] = max(best.get((*alike, e), -np.inf), record["value"])
                worst[*alike, e] = min(worst.get((*alike, e), np.inf), record["value"])
                competitors[*alike, e] += 1
    table = []
    for key, by_eps in sorted(lines.items(), key=lambda item: (item[0][0], *item[0][2:], item[0][1]) if with_n else item[0]):
        cells = [Cell(part) for part in key]
        for e in eps:
            record = by_eps.get(e)  # type: ignore[assignment]
            at = (*key[1:], e)
            if record is None:
                cells.append(Cell(""))
            else:
                cells.append(Cell(value(record, with_n), competitors[at] > 1 and worst[at] < record["value"] == best[at]))
        table.append(cells)
    return [f"{e:.4g}" for e in eps], table


def beside(rows: list[list[Cell]], names: int) -> list[list[Cell]]:
    """Rows whose first `names` cells say what they are of, in an order that puts the protocols of one thing side by side."""
    return sorted(rows, key=lambda row: [cell.text for cell in (row[0], *row[2:names], row[1])])


def accuracy_table(entries: list[Entry]) -> Table | None:
    """Networks x eps: accuracy under PGD."""

    def rows(entry: Entry) -> dict[tuple[str, ...], dict[float, dict[str, Any]]]:
        clean = {r["eps"]: r for r in entry.records("clean_accuracy") if "attack" not in r}
        attacked = entry.records("robust_accuracy", attack="pgd")
        by_steps: dict[tuple[str, ...], dict[float, dict[str, Any]]] = {}
        for steps in dict.fromkeys(r["steps"] for r in attacked):
            at_eps = {r["eps"]: r for r in attacked if r["steps"] == steps}
            n = next(iter(at_eps.values()))["n"]
            norm = next(iter(at_eps.values()))["norm"]
            by_steps[norm, str(steps), str(n)] = {**clean, **at_eps}
        return by_steps or ({("", "", str(r["n"])): clean for r in clean.values()})

    chosen = [entry for entry in entries if "pgd" in entry.result["measures"]]
    if not chosen:
        return None
    eps, table = ladder(chosen, rows, with_n=False)
    return Table(
        "accuracy",
        "Accuracy against eps",
        ["network", "protocol", "norm", "steps", "n", *(f"eps {e}" for e in eps)],
        table,
        [
            "Share of test images classified correctly, with its 95% Wilson interval. Bold: the best network of a column, for each protocol.",
            *verdict(chosen),
        ],
    )


def verdict(entries: list[Entry]) -> list[str]:
    """Which protocol to believe, with the largest disagreement that these results show."""
    accuracies: dict[tuple[str, float], dict[str, float]] = defaultdict(dict)
    for entry in entries:
        for record in entry.records("robust_accuracy", attack="pgd"):
            before = accuracies[entry.label, record["eps"]].get(entry.protocol, 1.0)
            accuracies[entry.label, record["eps"]][entry.protocol] = min(before, record["value"])
    both = {key: by for key, by in accuracies.items() if {"paper", "standard"} <= set(by)}
    notes = [
        "Believe `standard`: any attack only bounds robustness from above, and `standard` is the stronger one. `paper` has one loss, whose gradient"
        " vanishes on confident networks, no random start, and counts the last iterate alone; it reads robustness where there is none, most of all"
        " beyond the eps of training."
    ]
    if both:
        (label, eps), by = max(both.items(), key=lambda item: abs(item[1]["paper"] - item[1]["standard"]))
        notes.append(
            f"Largest disagreement here: {label} at eps {eps:.4g}, {by['paper']:.3f} under `paper`, {by['standard']:.3f} under `standard`."
        )
    return notes + coverage(entries)


def coverage(entries: list[Entry]) -> list[str]:
    """A note on networks that were not measured under both protocols."""
    by_network: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_network[entry.label].add(entry.protocol)
    missing = sorted(label for label, protocols in by_network.items() if not {"paper", "standard"} <= protocols)
    return [f"Measured under one protocol only: {', '.join(missing)}. `paper` alone says little."] if missing else []


def tau_table(entries: list[Entry]) -> Table | None:
    """Networks x eps: Kendall's tau under the top-k attack."""

    def rows(entry: Entry) -> dict[tuple[str, ...], dict[float, dict[str, Any]]]:
        records = entry.records("kendall_tau", attack="aai")
        by_kind: dict[tuple[str, ...], dict[float, dict[str, Any]]] = {}
        for r in records:
            by_kind.setdefault((r["map"], r["norm"], str(r["k"]), r["over"]), {})[r["eps"]] = r
        return by_kind

    chosen = [entry for entry in entries if "aai" in entry.result["measures"]]
    if not chosen:
        return None
    eps, table = ladder(chosen, rows, with_n=True)
    return Table(
        "kendall_tau",
        "Kendall's tau of the true class's map under the top-k attack",
        ["network", "protocol", "map", "norm", "k", "over", *(f"eps {e}" for e in eps)],
        table,
        [
            "Mean rank correlation of clean and attacked map, 95% interval, n images counted. `unchanged`: images whose"
            " prediction the attack left as it was (what the paper reports); `correct`: images still classified correctly; `all`: every image.",
            "`paper` leaves out images whose prediction changes, so few may remain: look at n. `standard` keeps the prediction by construction and"
            " counts the lowest tau over restarts and smaller eps: believe it.",
            *coverage(chosen),
        ],
    )


def bound_table(entries: list[Entry]) -> Table | None:
    """Networks x attacks: does Proposition 1 hold, and how tight is it."""
    table = []
    for entry in sorted(entries, key=lambda e: (e.label, e.protocol)):
        tight = {about(r): r for r in entry.records("tightness")}
        for record in entry.records("bound_holds"):
            ratio = tight[about(record)]
            attack = record["attack"] + (f" on {record['against']}" if record["against"] else "")
            median = "-" if ratio["median"] is None else f"{ratio['median']:.3f}"
            cells = (entry.label, entry.protocol, attack, record["discrepancy"], value(record), value(ratio), median)
            table.append([*map(Cell, cells), Cell(str(record["n"])), Cell(str(record["failed"]))])
    if not table:
        return None
    return Table(
        "bound",
        "Proposition 1: the discrepancy is at least half the margin",
        [
            "network",
            "protocol",
            "attack",
            "discrepancy",
            "share where it holds",
            "mean ratio D / (margin / 2)",
            "median",
            "n",
            "failed attacks",
        ],
        beside(table, 4),
        [
            "Complete class activation maps, l1; n successful attacks. For the two-class discrepancy the share is 1 for every attack that reaches its"
            " target, whatever it tries; the one-class discrepancy has no bound, and where its share is below 1 it was evaded.",
            "`standard` searches harder for the smallest attack and for the smallest discrepancy, so its ratios are the ones to believe; it takes"
            " correctly classified images only.",
            *coverage([entry for entry in entries if "bound" in entry.result["measures"]]),
        ],
    )


def about(record: dict[str, Any]) -> tuple[Any, ...]:
    """What a record of the bound is of."""
    return tuple(record[key] for key in ("attack", "against", "discrepancy"))


def isa_table(entries: list[Entry]) -> Table | None:
    """Networks x kinds of discrepancy: what the sneaking attack leaves of each."""
    metrics = ("normalised_discrepancy", "normalised_slope", "kendall_tau", "pearson")
    families = ("one_class", "two_class", "all_class")
    table = []
    for entry in sorted(entries, key=lambda e: (e.label, e.protocol)):
        records = {(r["map"], r["norm"], r["over"], r["metric"], r["discrepancy"]): r for r in entry.records(*metrics, attack="isa")}
        for map_name, norm, over in dict.fromkeys(key[:3] for key in records):
            for metric in metrics:
                cells = [records.get((map_name, norm, over, metric, family)) for family in families]
                if any(cells):
                    texts = (entry.label, entry.protocol, map_name, norm, over, metric, *(value(cell, with_n=True) for cell in cells))
                    table.append([*map(Cell, texts)])
    if not table:
        return None
    return Table(
        "isa",
        "The interpretability sneaking attack",
        ["network", "protocol", "map", "norm", "over", "metric", "one-class", "two-class", "all-class"],
        beside(table, 6),
        [
            "Discrepancy over the range of the clean map, its slope over the budget, correlations of clean and attacked maps. A good measure of"
            " interpretation stays large (slope near 0): no attack can hide from it. `images`: the mean over images, every image counts once;"
            " `points`: as the paper's authors average, over images whose discrepancy falls, divided by the number of all their points.",
            "A representation has units for classes, all of which count. `standard` minimises harder and is the one to believe.",
            "n images count: the attack reached its target there, and the correlation is defined. `standard` takes correctly classified images only.",
            *coverage([entry for entry in entries if "isa" in entry.result["measures"]]),
        ],
    )


def tradeoff_table(entries: list[Entry]) -> Table | None:
    """Networks x budgets: the smallest discrepancy."""
    budgets = sorted({r["budget"] for entry in entries for r in entry.records("discrepancy")})
    table = []
    for entry in sorted(entries, key=lambda e: (e.label, e.protocol)):
        records = {(r["map"], r["norm"], r["discrepancy"], r["budget"]): r for r in entry.records("discrepancy")}
        for kind in dict.fromkeys(key[:3] for key in records):
            texts = [value(records.get((*kind, budget)), with_n=True) for budget in budgets]
            table.append([*map(Cell, (entry.label, entry.protocol, *kind, *texts))])
    if not table:
        return None
    notes = [
        "Raw maps, l2 squared. Budgets are multiples of the smallest eps that changes the prediction. Believe `standard`: it"
        " minimises harder.",
        *coverage([entry for entry in entries if "tradeoff" in entry.result["measures"]]),
    ]
    header = ["network", "protocol", "map", "norm", "discrepancy", *(f"{b:g} x eps_min" for b in budgets)]
    return Table("tradeoff", "Discrepancy against budget", header, beside(table, 5), notes)


def overlap_table(entries: list[Entry]) -> Table | None:
    """Networks: top k positions in common."""
    table = [
        [*map(Cell, (entry.label, entry.protocol, record["with"], record["map"], str(record["k"]), value(record), str(record["n"])))]
        for entry in sorted(entries, key=lambda e: (e.label, e.protocol))
        for record in entry.records("topk_overlap")
    ]
    notes = ["Share of the k most salient positions of the true class's map that two networks have in common; no attack is involved, so the protocols"
             " differ in their images alone."]  # fmt: skip
    return (
        Table("topk_overlap", "Top-k positions in common", ["network", "protocol", "with", "map", "k", "overlap", "n"], table, notes)
        if table
        else None
    )


def sources_table(entries: list[Entry]) -> Table:
    """Where every number comes from."""
    table = []
    for entry in sorted(entries, key=lambda e: (e.label, e.protocol)):
        r = entry.result
        counts = ", ".join(f"{measure} {n}" for measure, n in r["n_by_measure"].items())
        network = r["weights"]["file"] if "weights" in r else f"{r['checkpoint']['workdir']} step {r['checkpoint']['step']}"
        texts = (entry.label, entry.protocol, network, counts, str(r["seed"]), f"{r['data']['name']}: {r['data']['from']}", r["device"])
        table.append(
            [
                *map(
                    Cell,
                    (*texts, f"{r['seconds']:g}", f"irob {r['versions']['irob']}, jax {r['versions']['jax']}", str(r["git_revision"])[:12]),
                )
            ]
        )
    header = ["network", "protocol", "from", "images by measure", "seed", "data", "device", "seconds", "versions", "revision"]
    described = {entry.protocol: entry.result["protocol"]["description"] for entry in entries}
    return Table(
        "sources", "Where the numbers come from", header, table, [f"`{name}`: {text}." for name, text in sorted(described.items())]
    )


def unforeseen_table(entries: list[Entry]) -> Table | None:
    """Networks x unforeseen attacks: accuracy at each size, and UAR."""
    table = []
    chosen = [entry for entry in entries if "unforeseen" in entry.result["measures"]]
    most = max((len(entry.measured("unforeseen").get(f"{name}/eps", ())) for entry in chosen for name in UNFORESEEN), default=0)
    for entry in sorted(chosen, key=lambda e: (e.label, e.protocol)):
        (clean,) = (r for r in entry.records("clean_accuracy", attack="none"))
        row = [*map(Cell, (entry.label, entry.protocol, "none", "", str(clean["n"]), value(clean), *[""] * most))]
        table += [] if row in table else [row]
        for name in UNFORESEEN:
            sizes = entry.records("robust_accuracy", attack=name)
            if sizes:
                cells = [f"{value(r)} at {r['eps']:g}" for r in sizes] + [""] * (most - len(sizes))
                uar = value(next(iter(entry.records("uar", attack=name)), None))
                texts = (entry.label, entry.protocol, name, sizes[0]["calibration"], str(sizes[0]["n"]), uar, *cells)
                table.append([*map(Cell, texts)])
    if not table:
        return None
    header = ["network", "protocol", "attack", "sizes of", "n", "UAR (clean: accuracy)", *(f"size {i + 1}" for i in range(most))]
    return Table(
        "unforeseen",
        "Unforeseen attacks",
        header,
        beside(table, 3),
        [
            "Accuracy with its 95% interval, at each size (each attack has its own unit). `standard`: 200 steps, untargeted, best iterate, the sizes"
            " that Kang et al. 2019 calibrated on the data set named (where it is another one, they are borrowed). UAR: the sum of the accuracies"
            " over that of their best adversarially trained networks on that data set; a ratio, so it may exceed 1. It is a stricter UAR than theirs,"
            " who climb the cross-entropy alone and take the last iterate. The largest JPEG sizes borrowed from ImageNet-100 are more than small"
            " images have room for, and so alike.",
            "`paper`: as the paper's authors ran it, targeted, one size, last iterate, steps in fog, Gabor noise and snow so large that variables"
            " jump between their ends; starts, kernels and flakes are our own, since theirs had no seed. Fog is scaled by image, where they scale it"
            " by batch, snow is projected before it is drawn, and the first JPEG gradient is taken at the start, where they forget a division. Their"
            " networks of CIFAR-10 WResNet were wrong copies (two shortcuts), so their numbers of those compare with nothing.",
            *coverage(chosen),
        ],
    )


TABLES = (accuracy_table, tau_table, bound_table, isa_table, tradeoff_table, overlap_table, unforeseen_table)
