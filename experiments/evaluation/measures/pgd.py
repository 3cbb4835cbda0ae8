"""Accuracy against eps under an attack on the prediction, by default projected gradient ascent, and random search without gradients on what is left.

Everything random comes from (seed, objective, restart, index of the image in its split), so the result of an image depends neither on its batch nor
on the devices.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.data import to_unit
from experiments.evaluation.attacks import ATTACKS, OBJECTIVES, check_perturbations, clean_predictions, perturbation
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First, OfClasses, class_index
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, proportion_record, without_gradient
from experiments.reports.tables import Table, eps_table
from experiments.runtime import devices
from experiments.runtime.errors import refuse, warn
from experiments.runtime.names import find
from experiments.runtime.values import boolean, distinct, integer, nonempty_text, optional, row_of, several
from irob.attacks import BALLS, CarliniWagner, DeepFool
from irob.batches import predicted_class
from irob.losses import margin_loss
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params, Scalar


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """nested: an image broken at a smaller eps counts as broken at every larger one, whose ball contains the smaller (and is not attacked again)."""

    attack: str = option("pgd", row_of(ATTACKS, "attack"), "how an objective is ascended", in_name=True)
    objectives: tuple[str, ...] = option(
        ("margin", "cross_entropy"), distinct(several(row_of(OBJECTIVES, "objective"), 1)), "losses that are attacked one after another"
    )
    restarts: int = option(5, integer(1, limit=10**6), "of each objective")
    steps: tuple[int, ...] = option(
        (150,), distinct(several(integer(1, limit=10**6), 1)), "steps of each restart, one number or several for a comparison"
    )
    queries: int = option(1000, integer(0, limit=10**6), "of Square, which uses no gradient, on the images that are left; 0: none")
    nested: bool = option(True, boolean(), "broken at a smaller eps counts as broken at every larger one")
    target: str | None = option(
        None,
        optional(nonempty_text()),
        "a class, by name or number: the attacks lead there (images of that class are left out)",
        in_name=True,
    )
    save_examples: bool = option(False, boolean(), "store the attacked images in the .npz file, and the first ones as PNG files")


def describe(options: Options) -> str:
    """What the attack does, in one sentence."""
    attack = find(ATTACKS, options.attack, "attack")
    settings = attack._asdict() if hasattr(attack, "_asdict") else {}
    plural, drawn = "s" if options.restarts > 1 else "", not isinstance(attack, DeepFool | CarliniWagner)
    starts = f"{options.restarts} random start{plural} each" if settings.get("random_start", drawn) else "no random start"
    over = [
        *(["iterates"] if settings.get("best_iterate") else []),
        *(["restarts"] if options.restarts > 1 else []),
        *(["objectives"] if len(options.objectives) > 1 else []),
        *(["smaller eps"] if options.nested else []),
    ]
    sizes = f" of {settings['step_sizes']}" if isinstance(settings.get("step_sizes"), str) else ""
    what = f"{options.attack} on {' and on '.join(options.objectives)}, {starts}, {'/'.join(map(str, options.steps))} steps{sizes}"
    what += f", towards class {options.target}" if options.target is not None else ""
    then = f"; then {GRADIENT_FREE}, {options.queries} queries, on what is left" if options.queries else ""
    return f"Attack: {what}; {'worst case over ' + ', '.join(over) if over else 'last iterate'}{then}."


GRADIENT_FREE = "square"  # the attack, a key of ATTACKS, that needs no gradient


class PredictionAttack(NamedTuple):
    """What a compiled attack is made of. eps, restart and parameters are its arguments."""

    norm: str
    attack: str
    objective: str
    num_steps: int
    target: int | None = None
    keeps_images: bool = False


class Outcome(NamedTuple):
    """Of one eps, for each image: the class under the whole attack (-1: no class), whether it is correct, the attacked image, if kept, whether it was
    attacked and no gradient was of use, and whether it withstood the attacks by gradients (None where there was no other attack).
    """

    eps: float
    predictions: np.ndarray
    correct: np.ndarray
    images: np.ndarray | None = None
    useless: np.ndarray | bool = False
    white_box: np.ndarray | None = None


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses a target that is no class, or the class of all images, and an objective that an attack cannot go by."""
    walks = getattr(find(ATTACKS, options.attack, "attack"), "seeks_zero", False)
    refuse(
        walks and options.objectives != ("margin",),
        f"--attack={options.attack} goes to where its objective is 0, the decision boundary: give --objectives=margin",
    )
    if options.queries and evaluation.norm not in BALLS:
        warn(f"--norm={evaluation.norm}: random search is defined in {', '.join(BALLS)} alone and left out here")
    target = target_of(evaluation, options)
    labels = evaluation.split.labels[evaluation.indices(options.images)]
    refuse(target is not None and bool(np.all(labels == target)), f"--target={options.target}: all images to be measured are of that class")


def target_of(evaluation: Evaluation, options: Options) -> int | None:
    """The class that the attacks lead to."""
    names = data.find_dataset(evaluation.dataset).classes
    return None if options.target is None else class_index(options.target, names, "target")


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Accuracy at every eps, for every number of steps."""
    indices, target = evaluation.indices(options.images), target_of(evaluation, options)
    if target is not None:
        indices = indices[evaluation.split.labels[indices] != target]
    names = data.find_dataset(evaluation.dataset).classes
    records: list[Record] = []
    arrays = {"indices": indices, "labels": evaluation.split.labels[indices], "eps": np.array(evaluation.eps)}
    for num_steps in options.steps:
        outcomes = list(eps_outcomes(evaluation, options, num_steps, indices))
        for outcome in outcomes:
            chosen = [names[c] for c in options.images.classes] if isinstance(options.images, OfClasses) else None
            found = records_of(options, num_steps, evaluation.norm, outcome, arrays["labels"], names, target, chosen)
            records += [record for record in found if record.metric != "clean_accuracy" or num_steps == options.steps[0]]
        arrays[f"predictions_{num_steps}_steps"] = np.stack([outcome.predictions for outcome in outcomes])
        if options.save_examples:
            arrays[f"examples_{num_steps}_steps"] = np.stack([outcome.images for outcome in outcomes if outcome.images is not None])
    return Measured(sorted(records, key=lambda record: record.metric == "class_accuracy"), arrays)


def eps_outcomes(evaluation: Evaluation, options: Options, num_steps: int, indices: np.ndarray) -> Iterator[Outcome]:
    """The outcome at each eps, ascending. Within one eps, later attacks see only the images that are still classified correctly.

    Attacks by gradients go on with the images that random search alone broke, also at a smaller eps, so that what they leave is known, too.
    """
    labels, target = evaluation.split.labels[indices], target_of(evaluation, options)

    def withstood(predictions: np.ndarray) -> np.ndarray:
        return predictions == labels if target is None else predictions != target

    clean = clean_predictions(evaluation, indices)
    images = np.array(to_unit(evaluation.split.fetch(indices)[0])) if options.save_examples else None
    start = Outcome(0.0, clean, clean == labels, images, np.zeros(len(labels), bool), withstood(clean))
    before = start
    for eps in evaluation.eps:
        if eps == 0:
            yield start._replace(white_box=None)
            continue
        predictions, images = before.predictions.copy(), None if before.images is None else before.images.copy()
        white, useless, searched = np.array(before.white_box), withstood(predictions), False
        for attempt, restart in rounds_of(evaluation.norm, options, num_steps, target):
            gradient_free = attempt.attack == GRADIENT_FREE != options.attack
            searched |= gradient_free
            held = withstood(predictions)
            left = np.flatnonzero(held if gradient_free else white)
            if len(left):
                found = after_restart(evaluation, attempt, restart, eps, indices[left])
                known = held[left]  # of the others it is known what they are predicted as
                if not gradient_free:
                    useless[left] &= found["useless"]
                predictions[left[known]] = found["predictions"][known]
                if images is not None:
                    images[left[known]] = found["examples"][known]
                if not gradient_free:
                    white[left] = found["predictions"] == labels[left] if target is None else found["predictions"] != target
        outcome = Outcome(eps, predictions, predictions == labels, images, useless & withstood(predictions), white)
        before = outcome if options.nested else start
        yield outcome if searched else outcome._replace(white_box=None)


def rounds_of(norm: str, options: Options, num_steps: int, target: int | None) -> Iterator[tuple[PredictionAttack, int]]:
    """(attack, restart) in their order: objective by objective, then without gradients, in the norms where that is defined."""
    for objective in options.objectives:
        for restart in range(options.restarts):
            yield PredictionAttack(norm, options.attack, objective, num_steps, target, options.save_examples), restart
    if options.queries and norm in BALLS and options.attack != GRADIENT_FREE:
        yield PredictionAttack(norm, GRADIENT_FREE, "margin", options.queries, target, options.save_examples), 0


def after_restart(
    evaluation: Evaluation, attempt: PredictionAttack, restart: int, eps: float, indices: np.ndarray, finite: bool = True
) -> dict[str, np.ndarray]:
    """What one restart of one objective does to images: `predictions [n]`, and `examples [n, H, W, c]` if they are kept.

    finite: whether a network without any finite gradient is refused.
    """
    shared = (np.float32(eps), evaluation.random_key(zlib.crc32(attempt.objective.encode()), restart))
    towards = "" if attempt.target is None else f" to {attempt.target}"
    label = f"{attempt.attack} {attempt.objective}{towards} {attempt.num_steps} steps, restart {restart}, eps {eps:.9g}"
    found = evaluation.map_examples(label, prediction_attack_check, attempt, shared, indices)
    check_perturbations(found, eps, attempt.norm, attempt.objective, finite)
    return found


@functools.lru_cache
def prediction_attack_check(network: Model, attempt: PredictionAttack) -> Check:
    """Pmapped `((params, eps, key data), images, labels, indices) -> predictions, distance, inside, useless`.

    The attack runs on the frozen form; the differentiable form classifies its result.
    """
    attack, loss = find(ATTACKS, attempt.attack, "attack"), find(OBJECTIVES, attempt.objective, "objective")
    ball_of = find(BALLS, attempt.norm, "norm")

    def check(shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        params, eps, key_data = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        ball, explain = ball_of(eps), network.frozen(params)

        def one(x: Image, label: Label, index: Array) -> dict[str, Any]:
            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                logits = explain(x_adv).logits
                if attempt.target is not None:
                    return -loss(logits, attempt.target), -margin_loss(logits, attempt.target)
                return loss(logits, label), margin_loss(logits, label)

            found = attack(objective, ball, x, key=jax.random.fold_in(key, index), num_steps=attempt.num_steps)
            examples = {"examples": found.x_adv} if attempt.keeps_images else {}
            return {"predictions": predicted_class(network.explain(params, found.x_adv).logits), **perturbation(ball, x, found), **examples}

        return jax.vmap(one)(to_unit(images), labels, indices)

    return devices.pmap_full_precision(check)


def records_of(
    options: Options,
    num_steps: int,
    norm: str,
    outcome: Outcome,
    labels: np.ndarray,
    names: Sequence[str],
    target: int | None = None,
    classes: list[str] | None = None,
) -> list[Record]:
    """Accuracy at one eps, the proportion that a targeted attack leads to its class, and the accuracy of each class with what is predicted there.

    labels: of the images. names: of the classes. classes: to which the images were restricted.
    """
    which = {**({} if target is None else {"target": names[target]}), **({} if classes is None else {"classes": classes})}
    settings: dict[str, Any] = {
        "attack": options.attack,
        "norm": norm,
        "eps": outcome.eps,
        "objectives": list(options.objectives),
        "steps": num_steps,
        "restarts": options.restarts,
        **({} if outcome.white_box is None else {"queries": options.queries}),
        **which,
    }
    attacked = outcome.eps > 0
    clean = lambda: proportion_record("clean_accuracy", outcome.correct, eps=0.0, **which)  # noqa: E731
    reached = {} if target is None else {"reached": float(np.mean(outcome.predictions == target))}
    hidden = without_gradient(int(np.sum(outcome.correct & outcome.useless)))
    gradients = {} if outcome.white_box is None else {"white_box": float(np.mean(outcome.white_box & (target is None or labels != target)))}
    records = [proportion_record("robust_accuracy", outcome.correct, **settings, **reached, **gradients, **hidden) if attacked else clean()]
    if target is not None and attacked:
        records.append(proportion_record("target_reached", outcome.predictions == target, **settings))
    for c in np.unique(labels):
        of_class = labels == c
        found, counts = np.unique(outcome.predictions[of_class], return_counts=True)
        predicted = {names[p] if p >= 0 else "none": int(count) for p, count in zip(found, counts, strict=True)}
        by_class = {**settings, "class": names[c], "predicted": predicted}
        records.append(proportion_record("class_accuracy", outcome.correct[of_class], **by_class))
    return records


# --- report ---------------------------------------------------------------------------------------------------------------------------------


PRINTED_COLUMNS = (
    ("eps", "eps"),
    ("steps", "steps"),
    ("n", "n"),
    ("accuracy", "value"),
    ("95% interval", "ci95"),
    ("gradient attacks alone", "white_box"),
    ("target reached", "reached"),
)
PRINTED = ("clean_accuracy", "robust_accuracy")
REPORT_COLUMNS = (("attack", "attack"), ("norm", "norm"), ("steps", "steps"), ("n", "n"))  # and one for each eps
MOST_CLASSES = 20  # in tables and figures of the report; result files have all


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """A table of networks x eps: accuracy."""
    notes = [
        "Proportion of images classified correctly, with its 95% Wilson interval. Bold: the best network of a column, for each protocol.",
        *disagreement([without_targets(entry) for entry in entries]),
    ]
    metrics = ("robust_accuracy", "clean_accuracy")
    untargeted = [without_targets(entry) for entry in entries]
    restricted = any(record.get("classes") for entry in untargeted for record in entry.records())
    shared = (*((("of classes", "classes"),) if restricted else ()), *REPORT_COLUMNS)
    found = [eps_table("accuracy", f"{title} against eps", shared, untargeted, *metrics, notes=notes)]
    columns = (("class", "class"), *shared)
    few = [entry for entry in untargeted if 0 < len({record["class"] for record in entry.records("class_accuracy")}) <= MOST_CLASSES]
    if few:
        by_class = "Proportion of the images of a class that are classified correctly; result files say what is predicted instead."
        found.append(eps_table("accuracy_by_class", "Accuracy of each class", columns, few, "class_accuracy", notes=[by_class]))
    targeted = [entry for entry in entries if entry.records("target_reached")]
    if targeted:
        reached = "Proportion of the images of other classes that the attack leads to the target."
        columns = (("target", "target"), *shared)
        found.append(eps_table("target_reached", "Targeted attacks", columns, targeted, "target_reached", notes=[reached]))
    return found


def without_targets(entry: Entry) -> Entry:
    """An entry without the records of targeted attacks."""
    kept = [record for record in entry.result.records if record.get("target") is None]
    return entry._replace(result=dataclasses.replace(entry.result, records=kept))


def disagreement(entries: Sequence[Entry]) -> list[str]:
    """Which protocol to use for conclusions, with the largest disagreement that these results show."""
    notes = [
        "Use `standard` for conclusions: every attack gives only an upper bound on robust accuracy, and `standard` is the stronger one. `paper` has"
        " one loss, whose gradient vanishes on confident networks, no random start, and counts the last iterate alone; it overstates robustness,"
        " most of all beyond the eps of training."
    ]
    lowest: dict[tuple[str, float], dict[str, float]] = {}
    for entry in entries:
        for record in entry.records("robust_accuracy"):
            by_protocol = lowest.setdefault((entry.label, record["eps"]), {})
            by_protocol[entry.protocol] = min(by_protocol.get(entry.protocol, 1.0), record.value or 0.0)
    both = {key: by for key, by in lowest.items() if {"paper", "standard"} <= set(by)}
    if both:
        (label, eps), by = max(both.items(), key=lambda item: abs(item[1]["paper"] - item[1]["standard"]))
        values = f"{by['paper']:.3f} under `paper`, {by['standard']:.3f} under `standard`"
        notes.append(f"Largest disagreement here: {label} at eps {eps:.4g}, {values}.")
    return notes


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Accuracy against eps, under the largest number of steps."""

    def curves(entry: Entry) -> list[figures.Curve]:
        attacked = entry.records("robust_accuracy")
        most = max((record["steps"] for record in attacked), default=0)
        records = entry.records("clean_accuracy") + [record for record in attacked if record["steps"] == most]
        return [figures.curve_of(entry.label, records)]

    untargeted = [without_targets(entry) for entry in entries]
    panels = figures.panels_by_protocol(untargeted, curves)
    found = figures.against_eps("accuracy_against_eps", "Accuracy under attack, 95% bands.", panels, "accuracy", (0, 1))
    matrices = {
        f"{entry.label}, {entry.protocol}, {text}": matrix for entry in untargeted for text, matrix in figures.confusion(entry, classes)
    }
    if matrices and len(classes) <= MOST_CLASSES:
        drawn = figures.matrices(dict(list(matrices.items())[:MOST_MATRICES]), classes, "predicted", "class")
        found.append(
            figures.Picture("confusion", drawn, "What is predicted (columns) of the images of each class (rows), in percent of the row.")
        )
    return found


MOST_MATRICES = 8


MEASURE = Measure(
    title="Accuracy",
    presets={
        "standard": Options(images=First()),
        "paper": Options(
            images=PaperDraw(99, 0, 200),
            attack="paper_pgd",
            objectives=("logsumexp_cross_entropy",),
            restarts=1,
            steps=(200,),
            queries=0,
            nested=False,
        ),
    },
    run=run,
    columns=PRINTED_COLUMNS,
    printed=PRINTED,
    check=check,
    describe=describe,
    tables=tables,
    figures=pictures,
)
