"""Accuracy against eps under an attack on the prediction, by default projected gradient ascent.

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

from experiments.data import to_unit
from experiments.evaluation.attacks import ATTACKS, OBJECTIVES, check_perturbations, clean_predictions, perturbation
from experiments.evaluation.engine import Check, Evaluation, predicted_class
from experiments.evaluation.examples import First
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, proportion_record
from experiments.reports.tables import Table, eps_table
from experiments.runtime import devices
from experiments.runtime.names import find
from experiments.runtime.values import boolean, distinct, integer, row_of, several
from irob.attacks import BALLS
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
    restarts: int = option(5, integer(1), "of each objective")
    steps: tuple[int, ...] = option(
        (150,), distinct(several(integer(1), 1)), "steps of each restart, one number or several for a comparison"
    )
    nested: bool = option(True, boolean(), "broken at a smaller eps counts as broken at every larger one")


def describe(options: Options) -> str:
    """What the attack does, in one sentence."""
    attack = find(ATTACKS, options.attack, "attack")
    settings = attack._asdict() if hasattr(attack, "_asdict") else {}
    plural = "s" if options.restarts > 1 else ""
    starts = f"{options.restarts} random start{plural} each" if settings.get("random_start", True) else "no random start"
    over = [
        *(["iterates"] if settings.get("best_iterate") else []),
        *(["restarts"] if options.restarts > 1 else []),
        *(["objectives"] if len(options.objectives) > 1 else []),
        *(["smaller eps"] if options.nested else []),
    ]
    sizes = f" of {settings['step_sizes']}" if isinstance(settings.get("step_sizes"), str) else ""
    what = f"{options.attack} on {' and on '.join(options.objectives)}, {starts}, {'/'.join(map(str, options.steps))} steps{sizes}"
    return f"Attack: {what}; {'worst case over ' + ', '.join(over) if over else 'last iterate'}."


class PredictionAttack(NamedTuple):
    """What a compiled attack is made of. eps, restart and parameters are its arguments."""

    norm: str
    attack: str
    objective: str
    num_steps: int


class Outcome(NamedTuple):
    """Of one eps: the class of each image under the whole attack (-1: no class), and whether it is correct, `[n]`."""

    eps: float
    predictions: np.ndarray
    correct: np.ndarray


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Accuracy at every eps, for every number of steps."""
    indices = evaluation.indices(options.images)
    records: list[Record] = []
    arrays = {"indices": indices, "labels": evaluation.split.labels[indices], "eps": np.array(evaluation.eps)}
    for num_steps in options.steps:
        outcomes = list(eps_outcomes(evaluation, options, num_steps, indices))
        records += [record_of(options, num_steps, evaluation.norm, outcome) for outcome in outcomes if outcome.eps or not records]
        arrays[f"predictions_{num_steps}_steps"] = np.stack([outcome.predictions for outcome in outcomes])
    return Measured(records, arrays)


def eps_outcomes(evaluation: Evaluation, options: Options, num_steps: int, indices: np.ndarray) -> Iterator[Outcome]:
    """The outcome at each eps, ascending. Within one eps, later attacks see only the images that are still classified correctly."""
    labels = evaluation.split.labels[indices]
    clean = current = clean_predictions(evaluation, indices)
    for eps in evaluation.eps:
        if eps > 0:
            predictions = (current if options.nested else clean).copy()
            for objective in options.objectives:
                attempt = PredictionAttack(evaluation.norm, options.attack, objective, num_steps)
                for restart in range(options.restarts):
                    left = np.flatnonzero(predictions == labels)
                    if len(left):
                        predictions[left] = predictions_after_restart(evaluation, attempt, restart, eps, indices[left])
            current = predictions
        yield Outcome(eps, current, current == labels)


def predictions_after_restart(
    evaluation: Evaluation, attempt: PredictionAttack, restart: int, eps: float, indices: np.ndarray
) -> np.ndarray:
    """The class of images under one restart of one objective, `[n]`."""
    shared = (np.float32(eps), evaluation.random_key(zlib.crc32(attempt.objective.encode()), restart))
    label = f"pgd {attempt.objective} {attempt.num_steps} steps, restart {restart}, eps {eps:.9g}"
    found = evaluation.map_examples(label, prediction_attack_check, attempt, shared, indices)
    check_perturbations(found, eps, attempt.norm, attempt.objective)
    return found["predictions"]


@functools.lru_cache
def prediction_attack_check(network: Model, attempt: PredictionAttack) -> Check:
    """Pmapped `((params, eps, key data), images, labels, indices) -> predictions, distance, inside`.

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
                return loss(logits, label), margin_loss(logits, label)

            x_adv = attack(objective, ball, x, key=jax.random.fold_in(key, index), num_steps=attempt.num_steps).x_adv
            return {"predictions": predicted_class(network.explain(params, x_adv).logits), **perturbation(ball, x, x_adv)}

        return jax.vmap(one)(to_unit(images), labels, indices)

    return devices.pmap_full_precision(check)


def record_of(options: Options, num_steps: int, norm: str, outcome: Outcome) -> Record:
    """One line of the results."""
    if outcome.eps == 0:
        return proportion_record("clean_accuracy", outcome.correct, eps=0.0)
    return proportion_record(
        "robust_accuracy",
        outcome.correct,
        attack=options.attack,
        norm=norm,
        eps=outcome.eps,
        objectives=list(options.objectives),
        steps=num_steps,
        restarts=options.restarts,
    )


# --- report ---------------------------------------------------------------------------------------------------------------------------------


PRINTED_COLUMNS = (("eps", "eps"), ("steps", "steps"), ("n", "n"), ("accuracy", "value"), ("95% interval", "ci95"))
REPORT_COLUMNS = (("attack", "attack"), ("norm", "norm"), ("steps", "steps"), ("n", "n"))  # and one for each eps


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """A table of networks x eps: accuracy."""
    notes = [
        "Proportion of test images classified correctly, with its 95% Wilson interval. Bold: the best network of a column, for each protocol.",
        *disagreement(entries),
    ]
    metrics = ("robust_accuracy", "clean_accuracy")
    return [eps_table("accuracy", f"{title} against eps", REPORT_COLUMNS, entries, *metrics, notes=notes)]


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

    figure = figures.curves_against_eps(figures.panels_by_protocol(entries, curves), "accuracy", (0, 1), "network")
    return [figures.Picture("accuracy_against_eps", figure, "Accuracy under attack, 95% bands.")]


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
            nested=False,
        ),
    },
    run=run,
    columns=PRINTED_COLUMNS,
    describe=describe,
    tables=tables,
    figures=pictures,
)
