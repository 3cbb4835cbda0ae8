"""AutoAttack: accuracy against eps under the ensemble of Croce & Hein 2020 (https://arxiv.org/abs/2003.01690), attack after attack on what is left.

Everything random comes from (seed, stage, restart, rank of the target, index of the image in its split), so the result of an image depends neither on
its batch nor on the devices.
"""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.attacks import check_perturbations, clean_predictions, perturbation
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, proportion_record, without_gradient
from experiments.reports.tables import Table, eps_table
from experiments.runtime import devices
from experiments.runtime.errors import refuse
from experiments.runtime.names import find
from experiments.runtime.values import boolean, choice
from irob.attacks import BALLS
from irob.attacks.ensembles import Stage, attempt, stages_of, substitutions
from irob.auto_attack import Remaining, run_ensemble, unattacked
from irob.batches import predicted_class
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params

DETERMINISTIC = ("standard", "plus", "quick")


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """nested: an image broken at a smaller eps counts as broken at every larger one, whose ball contains the smaller (and is not attacked again)."""

    version: str = option("standard", choice(*DETERMINISTIC, "rand"), "which attacks (see irob.attacks.ensembles)", in_name=True)
    nested: bool = option(True, boolean(), "broken at a smaller eps counts as broken at every larger one")
    save_examples: bool = option(False, boolean(), "store the attacked images in the .npz file, and the first ones as PNG files")


def describe(options: Options) -> str:
    """What the ensemble does, in one sentence."""
    stages = ", ".join(stage.name for stage in stages_of(options.version, "linf", 10))
    over = "attacks, restarts, targets" + (", smaller eps" if options.nested else "")
    return f"AutoAttack {options.version}: {stages}, each on the images that are left; worst case over {over}."


class Attempt(NamedTuple):
    """What a compiled attack is made of. eps, the key and the rank of the target are its arguments."""

    norm: str
    stage: Stage
    keeps_images: bool = False


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses a version for classifiers that draw, and a norm that the attacks are not defined in."""
    refuse(
        options.version == "rand",
        "--version=rand is for classifiers that draw at random, (key, x) -> logits, which no model here is: use irob.autoattack, or"
        f" --version={DETERMINISTIC[0]}",
    )
    refuse(evaluation.norm not in BALLS, f"AutoAttack is defined in {', '.join(BALLS)}, not in {evaluation.norm}: give another --norm")


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Accuracy at every eps, after every stage."""
    indices = evaluation.indices(options.images)
    labels = evaluation.split.labels[indices]
    changed = substitutions(options.version, evaluation.norm, evaluation.network.num_classes)
    settings = {"version": options.version, "norm": evaluation.norm, **({"substituted": changed} if changed else {})}
    records, outcomes = [], outcomes_of(evaluation, options, indices)
    for eps, outcome in zip(evaluation.eps, outcomes, strict=True):
        records += records_after(outcome, labels, {**settings, "eps": eps}, indices)
    arrays = {"indices": indices, "labels": labels, "eps": np.array(evaluation.eps)}
    arrays[f"predictions_{options.version}"] = np.stack([outcome.predictions for outcome in outcomes])
    if options.save_examples:
        arrays[f"examples_{options.version}"] = np.stack([outcome.x_adv for outcome in outcomes if outcome.x_adv is not None])
    return Measured(sorted(records, key=lambda record: record.metric == "accuracy_after"), arrays)


def outcomes_of(evaluation: Evaluation, options: Options, indices: np.ndarray) -> list[Remaining]:
    """What is left at each eps, ascending."""
    labels, clean = evaluation.split.labels[indices], clean_predictions(evaluation, indices)
    images = np.array(to_unit(evaluation.split.fetch(indices)[0])) if options.save_examples else None
    stages = stages_of(options.version, evaluation.norm, evaluation.network.num_classes)
    start = unattacked(clean, labels, images)
    found: list[Remaining] = []
    sized: dict[str, tuple[int, Evaluation]] = {}  # stage -> for how many images, with the size of batch that fits them
    for eps in evaluation.eps:

        def attempted(stage: Stage, restart: int, rank: int, left: np.ndarray, eps: float = eps) -> dict[str, np.ndarray]:
            if len(left) <= sized.get(stage.name, (2 * len(left), None))[0] // 2:  # another size is compiled anew
                sized[stage.name] = len(left), evaluation.sized_for(len(left))
            attempt_of = Attempt(evaluation.norm, stage, options.save_examples)
            return after_attempt(sized[stage.name][1], attempt_of, restart, rank, eps, indices[left])

        before = found[-1] if found and options.nested else start
        found.append(run_ensemble(stages, labels, before, attempted) if eps > 0 else start)
    return found


def after_attempt(
    evaluation: Evaluation, attempt_of: Attempt, restart: int, rank: int, eps: float, indices: np.ndarray
) -> dict[str, np.ndarray]:
    """What one restart of a stage, towards the target of one rank, does to images: `prediction [n]`, and `x_adv` if they are kept."""
    stage = attempt_of.stage
    shared = (np.float32(eps), evaluation.random_key(zlib.crc32(stage.name.encode()), restart, rank), np.int32(rank))
    label = f"{stage.name} restart {restart} target {rank} eps {eps:.9g}"
    found = evaluation.map_examples(label, stage_check, attempt_of, shared, indices)
    check_perturbations(found, eps, attempt_of.norm, stage.objective, finite=False)  # the record says which gradients were of no use
    return found


@functools.lru_cache(maxsize=64)
def stage_check(network: Model, attempt_of: Attempt) -> Check:
    """Pmapped `((params, eps, key data, rank), images, labels, indices) -> prediction, distance, inside, useless`.

    The attack runs on the frozen form; the differentiable form classifies its result.
    """
    ball_of = find(BALLS, attempt_of.norm, "norm")

    def check(shared: tuple[Params, Array, Array, Array], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        params, eps, key_data, rank = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        ball, explain = ball_of(eps), network.frozen(params)

        def one(x: Image, label: Label, index: Array) -> dict[str, Any]:
            logits = lambda z: explain(z).logits  # noqa: E731
            found = attempt(attempt_of.stage, logits, ball, x, label, jax.random.fold_in(key, index), rank)
            examples = {"x_adv": found.x_adv} if attempt_of.keeps_images else {}
            return {"prediction": predicted_class(network.explain(params, found.x_adv).logits), **perturbation(ball, x, found), **examples}

        return jax.vmap(one)(to_unit(images), labels, indices)

    return devices.pmap_full_precision(check)


def records_after(outcome: Remaining, labels: np.ndarray, settings: dict[str, Any], indices: np.ndarray) -> list[Record]:
    """Accuracy at one eps: under the whole ensemble, under its gradient attacks alone, and after each stage."""
    correct = outcome.predictions == labels
    if not outcome.after:
        return [proportion_record("clean_accuracy", correct, eps=settings["eps"])]
    settings = {**settings, "indices_sha256": hashlib.sha256(indices.astype(np.int64).tobytes()).hexdigest()[:16]}
    hidden = without_gradient(int(outcome.useless.sum()))
    found = [proportion_record("robust_accuracy", correct, **settings, white_box=float(np.mean(outcome.white_box)), **hidden)]
    return found + [proportion_record("accuracy_after", left, **settings, stage=name) for name, left in outcome.after.items()]


# --- report ---------------------------------------------------------------------------------------------------------------------------------


PRINTED_COLUMNS = (("eps", "eps"), ("n", "n"), ("accuracy", "value"), ("95% interval", "ci95"), ("gradient attacks alone", "white_box"))
REPORT_COLUMNS = (("version", "version"), ("norm", "norm"), ("n", "n"))


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x eps: accuracy under the ensemble, and after each of its attacks."""
    notes = ["Proportion of all images classified correctly under every attack of the ensemble, with its 95% Wilson interval."]
    stages = "What is left after each attack; each takes what the ones before it left."
    found = [eps_table("autoattack", f"{title} against eps", REPORT_COLUMNS, entries, "robust_accuracy", "clean_accuracy", notes=notes)]
    columns = (("attack", "stage"), *REPORT_COLUMNS)
    return [*found, eps_table("autoattack_by_attack", "AutoAttack, attack by attack", columns, entries, "accuracy_after", notes=[stages])]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Accuracy against eps under the ensemble."""

    def curves(entry: Entry) -> list[figures.Curve]:
        return [figures.curve_of(entry.label, entry.records("clean_accuracy", "robust_accuracy"))]

    caption = "Accuracy under AutoAttack, 95% bands."
    return figures.against_eps("autoattack_against_eps", caption, figures.panels_by_protocol(entries, curves), "accuracy", (0, 1))


MEASURE = Measure(
    title="AutoAttack",
    presets={"standard": Options(images=First()), "paper": Options(images=PaperDraw(99, 0, 200))},
    run=run,
    columns=PRINTED_COLUMNS,
    printed=("clean_accuracy", "robust_accuracy"),
    check=check,
    describe=describe,
    tables=tables,
    figures=pictures,
)
