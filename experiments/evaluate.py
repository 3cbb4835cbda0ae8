"""Measures a network: its robust accuracy, its interpretation under attack, the bound between the two.

    python -m experiments.evaluate --workdir runs/mnist_int [--measure pgd,aai,bound,isa,tradeoff,...] [--protocol standard|paper]
    python -m experiments.evaluate --weights mnist_smallgap_int_100.pkl --dataset mnist [...]

`standard` attacks the whole test split (the first 200 images for bound, isa, tradeoff and unforeseen; or its first --num_examples) as hard as this
project can; `paper` repeats the measurements of the paper's authors on their images. Prints tables, writes one JSON file with flat records and their
provenance, and an .npz with arrays by example. Interrupted, the same command goes on where it was.

    pgd           accuracy against eps (--steps 1,10,100,200 for a ladder of steps)
    aai           Kendall's tau of the true class's map under the top-k attack against it (--k, --map)
    bound         both sides of Proposition 1, under the smallest attack and the sneaking attack
    isa           normalised discrepancy, slope, tau and Pearson's r under the sneaking attack, for every kind of discrepancy (--budgets, --map)
    tradeoff      discrepancy against eps under the sneaking attack (--budgets, --map)
    topk_overlap  top k positions in common with the maps of another network (--versus, --k, --map)
    inversion     images that drive one unit of the representation
    unforeseen    accuracy under JPEG, elastic, fog, Gabor and snow attacks at their calibrated sizes, and UAR (--attack)
"""

import math
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.cli import UserError

if TYPE_CHECKING:
    import numpy as np

    from experiments.data import Split
    from experiments.kept import Kept
    from experiments.subjects import Subject


def evaluate(
    subject: "Subject",
    split: "Split",
    protocol_name: str = "standard",
    measures: Sequence[str] = ("pgd",),
    *,
    eps: tuple[float, ...] | None = None,
    batch_size: int | None = None,
    kept: "Kept | None" = None,
    **options: Any,
) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    """Measures a network; returns what `main` writes: provenance with `records`, and arrays by example.

    Args:
      subject: from `subjects.from_workdir` or `subjects.from_weights`.
      split: of its data set, the test images.
      protocol_name: a key of `protocols.PROTOCOLS`.
      measures: keys of `measures.MEASURES`.
      eps: the ladder; None for that of the subject.
      batch_size: per device, None for the device's default; it does not change results.
      kept: results of an interrupted run.
      options: other fields of `measures.Task`.
    """
    from experiments import parallel, protocols, provenance, results
    from experiments.evaluator import Evaluator
    from experiments.measures import MEASURES, Task

    started = time.monotonic()
    protocol = protocols.find(protocol_name)
    ladder = subject.ladder(eps)
    evaluator = Evaluator(subject.network, subject.params, split, batch_size, subject.seed, kept, quiet=False)
    task = Task(evaluator, protocol, subject.norm, ladder, dataset=subject.dataset, **options)
    records: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for name in measures:
        evaluator.expect(len(task.drawn(name).indices))
        measured = MEASURES[name](task)
        records += measured.records
        arrays |= {f"{name}/{key}": value for key, value in measured.arrays.items()}
        counts[name] = len(measured.arrays["indices"])
    result = {
        "schema": results.SCHEMA,
        "method": subject.name,
        "dataset": subject.dataset,
        "measures": list(measures),
        "protocol": {"name": protocol_name, "description": protocol.description, **protocols.settings(protocol)},
        "attacks": list(task.attacks),
        "records": records,
        "n": counts[measures[0]],
        "n_by_measure": counts,
        "seed": subject.seed,
        "data": split.source,
        **subject.about,
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "device": parallel.in_words(),
        "processes": parallel.num_processes(),
        "seconds": round(time.monotonic() - started, 1),
    }
    return result, arrays


def main() -> None:
    """Parses flags, measures, prints and writes."""
    from experiments import data, kept, parallel, protocols, provenance, results, subjects, tables
    from experiments.checkpoints import fingerprint
    from experiments.measures import overlap
    from irob import explainers

    flag = flags.FLAGS
    eps, measures = parse_numbers("eps", flag.eps), parse_measures(flag.measure)
    steps = parse_steps(flag.steps)
    budgets = parse_numbers("budgets", flag.budgets) or ()
    protocols.find(flag.protocol)
    refuse(flag.batch_size is not None and flag.batch_size < 1, f"--batch_size={flag.batch_size} must be positive")
    refuse(
        not budgets or not all(1 < number < float("inf") for number in budgets),
        "--budgets: multiples of the smallest eps, each larger than 1",
    )
    refuse(list(budgets) != sorted(budgets), "--budgets must ascend")
    refuse((flag.workdir is None) == (flag.weights is None), "give either --workdir of a training or --weights FILE.pkl")
    refuse(flag.dataset is not None and flag.weights is None, "--dataset goes with --weights: a workdir knows its own")
    refuse(
        "topk_overlap" in measures and not flag.versus, "--measure topk_overlap compares two networks: give --versus WORKDIR or FILE.pkl"
    )
    maps, attacks = parse_maps(flag.map, measures), parse_attacks(flag.attack, flag.protocol, measures)
    examples = [flag.num_examples] if flag.num_examples else []
    parallel.start(flag.coordinator, flag.num_processes, flag.process_id, *examples, even=False)
    if flag.weights:
        subject = subjects.from_weights(flag.weights, flag.dataset, flag.force)
        out = pathlib.Path(flag.out or pathlib.Path("runs") / default_name(f"{subject.name}_{flag.protocol}", measures, (*maps, *attacks)))
    else:
        refuse(
            not pathlib.Path(flag.workdir).is_dir(),
            f"there are no checkpoints in {flag.workdir}: train there first, or give the --workdir of a run",
        )
        subject = subjects.from_workdir(flag.workdir, flag.step)
        out = pathlib.Path(
            flag.out or pathlib.Path(flag.workdir) / default_name(f"{flag.protocol}_{flag.step}", measures, (*maps, *attacks))
        )
    results.check_free(out, flag.overwrite)
    positions = min(math.prod(explainers.shape_of_maps(name, subject.network, subject.params)[:2]) for name in maps or ("cam",))
    refuse(not 1 <= flag.k <= positions, f"--k={flag.k} must be in 1..{positions}, the positions of a map")
    other = subjects.from_path(flag.versus, subject.dataset) if flag.versus else None
    split = data.load(subject.dataset, "test", flag.data_dir)
    options = {"num_examples": flag.num_examples, "steps": steps, "k": flag.k, "budgets": budgets, "maps": maps, "attacks": attacks}
    protocol = protocols.find(flag.protocol)
    refuse(
        subject.norm not in protocol.norms,
        f"the {flag.protocol} protocol measures perturbations in {', '.join(protocol.norms)}, not in {subject.norm}: use --protocol standard",
    )
    for measure in measures:
        protocols.drawn(protocol, measure, len(split.labels), subject.network.num_classes, flag.num_examples)
    if other:
        overlap.refuse_strangers(subject.network, other.network, flag.versus)
    settings = {
        **options,
        "protocol": flag.protocol,
        "eps": subject.ladder(eps),
        "norm": subject.norm,
        "seed": subject.seed,
        "network": fingerprint(subject.params),
        "data": split.source,
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
    }
    with kept.beside(out, settings) as partial:
        if parallel.is_first_process():
            results.check_free(out, flag.overwrite)  # again, now that nobody else can write it
        versus = other and (other.name, other.network, other.params)
        options |= {"eps": eps, "batch_size": flag.batch_size, "kept": partial, "other": versus}
        result, arrays = evaluate(subject, split, flag.protocol, measures, **options)
        if parallel.is_first_process():
            print(tables.text(result))
            results.write(result, arrays, out)
            print(f"written to {out}")


def refuse(wrong: bool, message: str) -> None:
    """A `UserError` if something is wrong."""
    if wrong:
        raise UserError(message)


def default_name(stem: str, measures: Sequence[str], chosen: Sequence[str]) -> str:
    """STEM.json of robust accuracy, STEM_MEASURE_MEASURE[_MAP or ATTACK...].json of anything else."""
    return "_".join([stem, *(() if list(measures) == ["pgd"] else measures), *chosen]) + ".json"


def parse_measures(given: list[str]) -> tuple[str, ...]:
    """The measures asked for, each once."""
    from experiments.measures import MEASURES

    for name in given:
        refuse(name not in MEASURES, f"unknown measure {name!r}: choose from {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(given))


def parse_maps(given: list[str], measures: tuple[str, ...]) -> tuple[str, ...]:
    """The maps asked for, each once."""
    from irob.explainers import EXPLAINERS

    of_label = sorted({"aai", "topk_overlap"} & set(measures))
    readers = {*of_label, "isa", "tradeoff"}
    for name in given:
        refuse(name not in EXPLAINERS, f"unknown map {name!r}: choose from {', '.join(EXPLAINERS)}")
        refuse(
            not readers & set(measures),
            f"--map={name}: of {', '.join(measures)} none looks at other maps; aai, isa, tradeoff, topk_overlap do",
        )
        refuse(
            name == "representation" and bool(of_label),
            f"--map=representation: {', '.join(of_label)} needs maps of a class, and it has none",
        )
    return tuple(dict.fromkeys(given))


def parse_attacks(given: list[str], protocol: str, measures: tuple[str, ...]) -> tuple[str, ...]:
    """The unforeseen attacks asked for, each once."""
    from experiments import protocols
    from irob.attacks.unforeseen import UNFORESEEN

    refuse(bool(given) and "unforeseen" not in measures, f"--attack={','.join(given)} goes with --measure unforeseen")
    for name in given:
        refuse(name not in UNFORESEEN, f"unknown attack {name!r}: choose from {', '.join(UNFORESEEN)}")
        refuse(protocols.find(protocol).unforeseen.sizes(name, "") is None, f"--attack={name}: the {protocol} protocol has no such attack")
    return tuple(dict.fromkeys(given))


def parse_steps(given: list[str] | None) -> tuple[int, ...]:
    """Whole numbers from 1 on."""
    for text in given or ():
        refuse(not text.isdecimal() or int(text) < 1, f"--steps={','.join(given or [])}: whole numbers from 1 on, separated by commas")
    return tuple(int(text) for text in given or ())


def parse_numbers(flag: str, given: list[str] | None) -> tuple[float, ...] | None:
    """Numbers, or fractions like 8/255."""
    try:
        return None if given is None else tuple(float(a) / float(b or 1) for a, _, b in (text.partition("/") for text in given))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--{flag}={','.join(given or [])}: numbers or fractions, separated by commas, e.g. 0,0.1,8/255") from error


def define_flags() -> None:
    """Flags of the command line."""
    flags.DEFINE_string("workdir", None, "of a training")
    flags.DEFINE_string("weights", None, "instead of a workdir: a file of weights as the paper's authors released them")
    flags.DEFINE_string("dataset", None, "with --weights: the data set to measure on")
    flags.DEFINE_bool("force", False, "with --weights: measure even if weights are not finite")
    flags.DEFINE_list("measure", "pgd", "what to measure, one or several of those above")
    flags.DEFINE_string("protocol", "standard", "standard (as strong as we have) or paper (as its authors measured)")
    flags.DEFINE_string("step", "latest", "checkpoint: latest, best (robust validation accuracy) or a number")
    flags.DEFINE_list("eps", None, "ladder of eps, e.g. 0,0.1,8/255 (default: that of the config)")
    flags.DEFINE_list("steps", None, "of PGD, one or several (default: those of the protocol)")
    flags.DEFINE_integer("k", 8, "how many of the most salient positions of a map, for aai and topk_overlap")
    flags.DEFINE_list("map", [], "maps to measure, one or several (default: those of the paper's tables); see irob/explainers.py")
    flags.DEFINE_list("attack", [], "unforeseen attacks, one or several (default: all)")
    flags.DEFINE_list("budgets", "1.5,2,3,4", "of the sneaking attack, multiples of the smallest eps that changes the prediction")
    flags.DEFINE_string("versus", None, "a second network for topk_overlap: a workdir or a file of weights")
    flags.DEFINE_integer("num_examples", None, "only the first ones of the test split (standard protocol)")
    flags.DEFINE_integer(
        "batch_size", None, "images at a time on a device (default: chosen for it); results do not depend on it beyond rounding"
    )
    flags.DEFINE_string(
        "out", None, "result file (default: WORKDIR/PROTOCOL_STEP[_MEASURES][_MAPS][_ATTACKS].json or runs/WEIGHTS_PROTOCOL...json)"
    )
    flags.DEFINE_bool("overwrite", False, "replace an existing result file")
    flags.DEFINE_string("data_dir", None, "where tfds data sets lie (default: $TFDS_DATA_DIR or tfds's own)")
    flags.DEFINE_string("coordinator", None, "several processes: host:port of process 0, or auto on TPU pods")
    flags.DEFINE_integer("num_processes", 1, "how many processes there are")
    flags.DEFINE_integer("process_id", 0, "which one this is")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
