"""What a report says across measures: the lowest robust accuracy known of each network, where attacks disagree, pairs of networks.

An image counts as robust if no attack of any result given broke it at this eps, or at a smaller one.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.reports.entries import Entry
from experiments.reports.records import Record
from experiments.reports.seeds import SEVERAL, name_of_seeds
from experiments.reports.tables import Cell, Table, cells
from irob.metrics import mcnemar, paired_difference, robust_accuracy

ATTACKED = ("pgd", "autoattack")  # measures whose records and arrays are of untargeted attacks on predictions
KEPT = ("save_examples",)  # options that say what is kept, not what is done
MASKED = 0.002  # by how much random search may lower robust accuracy below gradient attacks, before that is a sign of masked gradients


class UnderAttack(NamedTuple):
    """One network under one measure and protocol. settings: of the attack. correct: eps -> which images withstood, `[n]`, at the images `indices`."""

    entry: Entry
    measure: str
    settings: str
    norm: str
    indices: tuple[int, ...]
    correct: dict[float, np.ndarray]


def under_attack(entries: Sequence[Entry]) -> Iterator[UnderAttack]:
    """Each entry under each such measure, where its arrays are there and the attack had no target."""
    for entry, measure in itertools.product(entries, ATTACKED):
        found = entry.of(measure)
        records = found.records("robust_accuracy")
        if not records or not {"indices", "labels"} <= set(found.arrays) or any(record.get("target") is not None for record in records):
            continue
        names = [name for name in found.arrays if name.startswith("predictions_")]
        labels = found.arrays["labels"]
        of_eps = {
            round(float(eps), 9): np.all([found.arrays[name][i] == labels for name in names], axis=0)
            for i, eps in enumerate(found.arrays["eps"])
            if eps > 0
        }
        made = entry.result.measures[measure].settings
        settings = json.dumps({name: value for name, value in made.items() if name not in KEPT}, sort_keys=True)
        yield UnderAttack(entry, measure, settings, records[0]["norm"], tuple(found.arrays["indices"].tolist()), of_eps)


class Known(NamedTuple):
    """Of one network, norm and set of images: eps -> which images withstood everything, and eps -> who left least, with its accuracy.

    training: its name without the seed. by: eps -> measure, protocol and settings of all attacks there.
    """

    label: str
    training: str | None
    norm: str
    indices: tuple[int, ...]
    by: dict[float, tuple[tuple[str, str, str], ...]]
    correct: dict[float, np.ndarray]
    lowest: dict[float, tuple[str, float]]


def known(entries: Sequence[Entry]) -> list[Known]:
    """What all attacks together say of each network."""
    found: dict[tuple[str, str, tuple[int, ...]], list[UnderAttack]] = {}
    for each in under_attack(entries):
        found.setdefault((each.entry.label, each.norm, each.indices), []).append(each)
    result = []
    for (label, norm, indices), group in found.items():
        ladder = sorted({eps for each in group for eps in each.correct})
        correct, lowest, by, so_far = {}, {}, {}, np.ones(len(indices), bool)
        for eps in ladder:
            here = [each for each in group if eps in each.correct]
            so_far = so_far & np.all([each.correct[eps] for each in here], axis=0)
            best = min(here, key=lambda each: each.correct[eps].mean())
            by[eps] = tuple(sorted((each.measure, each.entry.protocol, each.settings) for each in here))
            correct[eps], lowest[eps] = so_far, (f"{best.measure}, {best.entry.protocol}", float(best.correct[eps].mean()))
        result.append(Known(label, group[0].entry.training, norm, indices, by, correct, lowest))
    return result


class Family(NamedTuple):
    """The seeds of one training on the same images, or one network alone."""

    label: str
    members: list[Known]

    @property
    def common(self) -> list[float]:
        """Every eps at which all of them were attacked."""
        return sorted(self.members[0].correct)

    def robust(self, eps: float) -> np.ndarray:
        """The proportion of seeds that are right on each image, `[n]`."""
        return np.mean([member.correct[eps] for member in self.members], axis=0)

    def accuracy(self, eps: float) -> tuple[float, float, float]:
        """Robust accuracy, and its 95% interval; of several seeds their mean, the lowest and the highest."""
        values = [float(member.correct[eps].mean()) for member in self.members]
        found = robust_accuracy(self.members[0].correct[eps])
        low, high = (found.low, found.high) if len(values) == 1 else (min(values), max(values))
        return float(np.mean(values)), low, high


def strongest_tables(entries: Sequence[Entry]) -> list[Table]:
    """The lowest accuracy known of each network, and pairs of networks; none where no attack on predictions was measured."""
    found = families(entries)
    return [table for table in (lowest_table(found, entries), pairs_table(found)) if table.rows]


def families(entries: Sequence[Entry]) -> list[Family]:
    """The networks, the seeds of a training together where the same was measured of them."""
    grouped: dict[tuple[Any, ...], list[Known]] = {}
    for network in known(entries):
        grouped.setdefault((network.training or network.label, network.norm, network.indices, tuple(network.by.items())), []).append(
            network
        )
    return [
        Family(name_of_seeds(name, len(members)) if len(members) > 1 else members[0].label, members)
        for (name, *_), members in grouped.items()
    ]


def lowest_table(networks: Sequence[Family], entries: Sequence[Entry]) -> Table:
    """A row for each network and eps."""
    rows = []
    for network in networks:
        first = network.members[0]
        for eps in network.common:
            value, low, high = network.accuracy(eps)
            who = ", ".join(dict.fromkeys(member.lowest[eps][0] for member in network.members))
            alone = np.mean([member.lowest[eps][1] for member in network.members])
            texts = [f"{eps:.4f}", str(len(first.indices)), f"{value:.3f}", f"[{low:.3f}, {high:.3f}]", who, f"{alone:.3f}"]
            rows.append(cells([network.label, "all given", first.norm, *texts]))
    header = ["network", "protocol", "norm", "eps", "n", "lowest known", "95% interval", "strongest single result", "alone"]
    notes = [
        "Lowest known: images that no attack of any result given here broke, at this eps or a smaller one. It is an upper bound of robust accuracy"
        " all the same.",
        *([SEVERAL] if any(len(network.members) > 1 for network in networks) else []),
        *(sentence for _, _, sentence in disagreements(entries)),
    ]
    return Table("strongest", "Lowest robust accuracy known", header, rows, notes)


def disagreements(entries: Sequence[Entry]) -> list[tuple[str, float, str]]:
    """Where PGD left less than AutoAttack, or more, on the same images: network, difference, a sentence."""
    found = list(under_attack(entries))
    worst: dict[tuple[str, str, float, int], dict[str, float]] = {}
    for first, second in itertools.product(found, found):
        if (first.measure, second.measure) == ATTACKED and (first.entry.label, first.norm) == (second.entry.label, second.norm):
            common = sorted(set(first.indices) & set(second.indices))
            for eps in sorted(set(first.correct) & set(second.correct)) if common else ():
                of = worst.setdefault((first.entry.label, first.norm, eps, len(common)), {})
                for each in (first, second):
                    rows = np.isin(each.indices, common)
                    of[each.measure] = min(of.get(each.measure, 1.0), float(each.correct[eps][rows].mean()))
    notes = []
    for (label, norm, eps, n), of in worst.items():
        if of["pgd"] != of["autoattack"]:
            less, more = sorted(of, key=of.__getitem__)
            values = f"{less} leaves {of[less]:.3f}, less than {more} with {of[more]:.3f}"
            sentence = f"{label}, {norm} eps {eps:.4g}, {n} images in common: {values}: quote the lower one."
            notes.append((label, of[more] - of[less], sentence))
    return notes


def masked_gradients(entries: Sequence[Entry]) -> list[str]:
    """From which networks random search takes more than gradient attacks do, at most one sentence."""
    worst: dict[str, tuple[float, Record]] = {}
    for entry, measure in itertools.product(entries, ATTACKED):
        for record in entry.of(measure).records("robust_accuracy"):
            gap = (record.get("white_box") or 0.0) - (record.value or 0.0)
            if gap > max(MASKED, worst[entry.label][0] if entry.label in worst else 0.0):
                worst[entry.label] = (gap, record)
    taken = [
        f"from {label} {100 * gap:.1f} points at {record['norm']} eps {record['eps']:.4g} ({record.measure})"
        for label, (gap, record) in sorted(worst.items(), key=lambda item: -item[1][0])
    ]
    return taken and [
        f"Random search, which uses no gradient, takes what the gradient attacks missed, {', '.join(taken)}: a sign of masked gradients or of too few"
        " restarts. Accuracy under gradient attacks alone overstates robustness."
    ]


class PairOfNetworks(NamedTuple):
    """Two networks under attack at eps on the same images. a, b: `[n]`, the proportions of their seeds that are right."""

    first: Family
    second: Family
    eps: float
    a: np.ndarray
    b: np.ndarray


def pairs(networks: Sequence[Family]) -> Iterator[PairOfNetworks]:
    """Each two networks at each eps, where the images are the same."""
    for first, second in itertools.combinations(networks, 2):
        if (first.members[0].norm, first.members[0].indices) == (second.members[0].norm, second.members[0].indices):
            for eps in sorted(set(first.common) & set(second.common)):
                yield PairOfNetworks(first, second, eps, first.robust(eps), second.robust(eps))


def pair_records(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """How much more often each network is right than each other one on the same images: the mean paired difference with its 95% interval over images,
    which is None where all differences are equal. p is exact (McNemar) for two single seeds, else that of the mean difference.
    """
    attacked = [record for entry in entries for measure in ATTACKED for record in entry.of(measure).records("robust_accuracy")]
    recorded = {round(record["eps"], 9): record["eps"] for record in attacked}
    for images in dict.fromkeys(entry.images for entry in entries):
        for first, second, eps, a, b in pairs(families([entry for entry in entries if entry.images == images])):
            for one, other, x, y in ((first, second, a, b), (second, first, b, a)) if len(a) > 1 else ():
                found, mean = compared(x, y), paired_difference(x, y)
                names = {"network": one.label, "other": other.label, "dataset": images, "measure": "pairs", "metric": "paired_difference"}
                counts = {"n": len(x), "only_first": found.only_first, "only_other": found.only_second, "p_value": found.p_value}
                interval = [mean.low, mean.high] if mean.low < mean.high else None
                yield {**names, "norm": one.members[0].norm, "eps": recorded.get(eps, eps), **counts, "value": mean.value, "ci95": interval}


def pairs_table(networks: Sequence[Family]) -> Table:
    """Each two networks on the same images: who is right where the other is not."""
    rows: list[list[Cell]] = []
    for first, second, eps, a, b in pairs(networks):
        rows.append(cells([first.label, second.label, f"{eps:.4f}", f"{a.mean():.3f}", f"{b.mean():.3f}", *compared(a, b).texts()]))
    header = ["network", "other network", "eps", "lowest known", "of the other", "only the first", "only the other", "p"]
    notes = [
        "The same images under everything that was measured of both. p: exact McNemar test that both are robust equally often, two-sided; of several"
        " seeds the images are counted in proportion, and p is that of the mean paired difference. It does not know of other seeds of training."
    ]
    return Table("pairs", "Pairs of networks on the same images", header, rows, notes)


class Compared(NamedTuple):
    """only_first, only_second: how many images only one of two is right on. p_value: None for a single image and several seeds."""

    only_first: float
    only_second: float
    p_value: float | None

    def texts(self) -> list[str]:
        """As cells of a table."""
        whole = all(float(count).is_integer() for count in self[:2])
        return [f"{count:.0f}" if whole else f"{count:.1f}" for count in self[:2]] + [
            "-" if self.p_value is None else f"{self.p_value:.2g}"
        ]


def compared(first: np.ndarray, second: np.ndarray) -> Compared:
    """Two networks on the same images. first, second: `[n]`, proportions of seeds that are right."""
    single = [bool(np.all((part == 0) | (part == 1))) for part in (first, second)]
    if all(single):
        test = mcnemar(first.astype(bool), second.astype(bool))
        return Compared(test.only_first, test.only_second, test.p_value)
    only_first, only_second = (float(np.sum(a * (1 - b))) for a, b in ((first, second), (second, first)))
    return Compared(only_first, only_second, paired_difference(first, second).p_value if len(first) > 1 else None)


def robustbench(entry: Entry) -> list[dict[str, object]]:
    """What an entry says of AutoAttack, in the fields of RobustBench (percentages as text; empty what only the authors of a network know), and ours
    beside them.
    """
    found, cards = entry.of("autoattack"), []
    other = any(record["version"] not in ("standard", "plus") for record in found.records("robust_accuracy"))
    if other or entry.result.split != "test":
        return []
    clean = [record.value for record in found.records("clean_accuracy")]
    for record in found.records("robust_accuracy"):
        after = {each["stage"]: each.value for each in found.records("accuracy_after", eps=record["eps"])}
        own = {
            "norm": record["norm"],
            "n": record.n,
            "ci95": record.ci95,
            "version": record["version"],
            "after_each_attack": after,
            "white_box": record.get("white_box"),
            "indices_sha256": record.get("indices_sha256"),
            "seed": entry.result.seed,
            "versions": entry.result.provenance["versions"],
            "seconds": entry.result.provenance["seconds"],
            "data": entry.result.data,
        }
        cards.append(
            {
                "link": "",
                "name": entry.label,
                "authors": "",
                "additional_data": None,
                "number_forward_passes": None,
                "dataset": entry.dataset,
                "venue": "",
                "architecture": str(entry.result.provenance.get("network") or ""),
                "eps": f"{record['eps']:g}",
                "clean_acc": f"{100 * (clean[0] or 0.0):.2f}" if clean else "",
                "reported": "",
                "autoattack_acc": f"{100 * (record.value or 0.0):.2f}",
                "unreliable": (record.get("white_box") or 0.0) - (record.value or 0.0) > MASKED,
                "footnote": "",
                "irob": own,
            }
        )
    return cards
