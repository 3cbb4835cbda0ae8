"""Diagnosis: whether robust accuracy under gradient attacks can be believed, item by item (`experiments.evaluation.diagnosis`).

The attack is that of the protocol `standard`, shorter: on the margin, then the cross-entropy. Most items are judged at one radius, the one of the
ladder at which accuracy is nearest to half of the clean one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evaluation import probes
from experiments.evaluation.attacks import clean_predictions
from experiments.evaluation.diagnosis import FAIL, ITEMS, Finding, Seen
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.measures import pgd
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, proportion_record
from experiments.reports.tables import Table, cells
from experiments.runtime.errors import refuse
from experiments.runtime.models import from_path
from experiments.runtime.values import integer, nonempty_text, optional
from irob.attacks import BALLS
from irob.paper import PaperDraw

WITHOUT_GRADIENTS = (pgd.GRADIENT_FREE, "hop_skip_jump")  # keys of ATTACKS
PASSES = 5  # repeated, as AutoAttack
DRAWS = 100  # of noise, and of the cube that stability is measured in


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """steps and restarts: of the attack on each of two losses; the item `converged` doubles both. Without a twin that item is not applicable."""

    diagnosis_steps: int = option(100, integer(20, limit=10**5), "of each restart of the attack")
    diagnosis_restarts: int = option(2, integer(1, limit=10**4), "of the attack on each loss")
    diagnosis_queries: int = option(1000, integer(1, limit=10**6), "of Square")
    diagnosis_decisions: int = option(2000, integer(1, limit=10**6), "of HopSkipJump, which sees decisions alone")
    twin: str | None = option(
        None, optional(nonempty_text()), "a network trained without a defense, a workdir or weights: do attacks on it break this one?"
    )


def describe(options: Options) -> str:
    """What is tried, in one sentence."""
    return (
        f"{len(ITEMS)} items under an attack of {options.diagnosis_restarts} restarts of {options.diagnosis_steps} steps on the margin and on the"
        f" cross-entropy, against twice as many, one step, noise ({DRAWS} draws), {options.diagnosis_queries} queries of Square,"
        f" {options.diagnosis_decisions} of HopSkipJump, and attacks on {options.twin or 'no twin'}."
    )


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses a ladder without a positive eps, a norm that random search is not defined in, and a twin for other images."""
    refuse(evaluation.norm not in BALLS, f"the diagnosis is defined in {', '.join(BALLS)}, not in {evaluation.norm}: give another --norm")
    refuse(not any(eps > 0 for eps in evaluation.eps), "the diagnosis needs an eps > 0: give --eps")
    if options.twin is not None:
        network = evaluation.network
        sizes = [(each.input_shape, each.num_classes) for each in (network, from_path(options.twin, evaluation.dataset).network)]
        refuse(sizes[0] != sizes[1], f"--twin={options.twin}: it takes (images, classes) {sizes[1]}, the network {sizes[0]}")


def run(evaluation: Evaluation, options: Options) -> Measured:
    """A record for each item, and the curves behind them."""
    indices = evaluation.indices(options.images)
    seen = seen_of(evaluation, options, indices)
    findings: list[tuple[str, Finding]] = [(item.name, item.judge(seen)) for item in ITEMS]
    records = [
        Record("", "diagnosis", len(indices), found.value, None, {"item": name, "verdict": found.verdict, "eps": seen.eps})
        for name, found in findings
    ]
    ladder = [float(eps) for eps in seen.ladder]
    records += [proportion_record("accuracy_at_eps", correct, eps=eps) for eps, correct in zip(ladder, seen.curve, strict=True)]
    records += [proportion_record("accuracy_unbounded", seen.unbounded, eps=unbounded_eps(evaluation))]
    arrays = {"indices": indices, "losses": seen.losses[seen.clean], "missed": indices[seen.missed()]}
    return Measured(records, arrays)


def unbounded_eps(evaluation: Evaluation) -> float:
    """The radius that reaches every image."""
    return float(BALLS[evaluation.norm].diameter(evaluation.network.input_shape))


def seen_of(evaluation: Evaluation, options: Options, indices: np.ndarray) -> Seen:
    """Everything that the items judge."""
    labels = evaluation.split.labels[indices]
    clean = clean_predictions(evaluation, indices) == labels
    steps, restarts = options.diagnosis_steps, options.diagnosis_restarts

    def withstands(eps: float, attack: str, num_steps: int, times: int, among: np.ndarray) -> np.ndarray:
        left = among.copy()
        for objective in ("margin",) if attack in WITHOUT_GRADIENTS else ("margin", "cross_entropy"):
            attempt = pgd.PredictionAttack(evaluation.norm, attack, objective, num_steps)
            for restart in range(times):
                rows = np.flatnonzero(left)
                if len(rows):
                    found = pgd.after_restart(evaluation, attempt, restart, eps, indices[rows], finite=False)
                    left[rows] = found["predictions"] == labels[rows]
        return left

    ladder = np.array([eps for eps in evaluation.eps if eps > 0])
    curve = np.stack([withstands(eps, "pgd", steps, restarts, clean) for eps in ladder])
    chosen = min(range(len(ladder)), key=lambda i: (abs(curve[i].mean() - 0.5 * clean.mean()), -ladder[i]))
    eps = float(ladder[chosen])

    def probed(name: str, make: Any, spec: Any, *shared: Any) -> dict[str, np.ndarray]:
        key = evaluation.random_key(0)
        return evaluation.map_examples(f"{name} eps {eps:.9g}", make, spec, (key, *shared), indices)

    at = np.float32(eps)
    twin = None if options.twin is None else from_path(options.twin, evaluation.dataset)
    transfer_from = lambda twin: probes.Transfer(evaluation.norm, steps, twin.network)  # noqa: E731
    gradients = probed("gradients", probes.gradients, None)
    passes = [probed(f"pass {i}", probes.logits_again, i)["logits"] for i in range(PASSES)]
    noise = probed("noise", probes.noise_around, probes.Noise(evaluation.norm, DRAWS), at)
    path = probed("path", probes.path, probes.Path(evaluation.norm, "margin", steps), at)
    binary = probed("binary", probes.binary, probes.Binary(evaluation.norm, 32, 8, steps), at)
    return Seen(
        num_classes=evaluation.network.num_classes,
        eps=eps,
        ladder=ladder,
        curve=curve,
        clean=clean,
        robust=curve[chosen],
        one_step=withstands(eps, "fgsm", 1, 1, clean),
        doubled=withstands(eps, "pgd", 2 * steps, 2 * restarts, clean),
        unbounded=withstands(unbounded_eps(evaluation), "pgd", steps, restarts, clean),
        square=withstands(eps, pgd.GRADIENT_FREE, options.diagnosis_queries, 1, clean),
        hard_label=withstands(eps, "hop_skip_jump", options.diagnosis_decisions, 1, clean),
        transferred=None if twin is None else probed("transfer", probes.transfer, transfer_from(twin), at, twin.params)["withstands"],
        every_noise=noise["all"],
        noise=noise["each"],
        logits=gradients["logits"],
        spread=probes.repeated(passes),
        accuracies=[float(np.mean(np.argmax(each, axis=1) == labels)) for each in passes],
        zero={loss: gradients[f"{loss}_zero"] for loss in ("margin", "cross_entropy")},
        nonfinite={loss: gradients[f"{loss}_nonfinite"] for loss in ("margin", "cross_entropy")},
        losses=path["losses"],
        reached=path["reached"] & clean,
        last=path["last"],
        change=probed("stability", probes.stability, DRAWS)["change"],
        exists=binary["exists"],
        found=binary["found"],
    )


# --- report ---------------------------------------------------------------------------------------------------------------------------------


BY_NAME = {item.name: item for item in ITEMS}


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x items: verdict, number, what to do."""
    rows, notes = [], []
    for entry in by_label(entries):
        failed = []
        for record in entry.records("diagnosis"):
            item = BY_NAME[record["item"]]
            fails = record["verdict"] == FAIL
            failed += [item.name] if fails else []
            number = "" if record.value is None else f"{record.value:.3g} ({item.measures})"
            rows.append(
                cells([entry.label, entry.protocol, item.question, record["verdict"], number, item.source, item.remedy if fails else ""])
            )
        at = entry.records("diagnosis")[0]["eps"]
        verdict = f"fails {', '.join(failed)}: its robust accuracy under gradient attacks is not to be believed as it stands"
        notes.append(f"{entry.label}, at eps {at:.4g}: {verdict if failed else 'no item fails'}.")
    header = ["network", "protocol", "question", "verdict", "number", "source", "what to do"]
    return [Table("diagnosis", title, header, rows, notes)]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Accuracy against eps, and the loss along the attack."""

    def curves(entry: Entry) -> list[figures.Curve]:
        return [figures.curve_of(entry.label, entry.records("accuracy_at_eps", "accuracy_unbounded"))]

    caption = "Accuracy under attack, up to the largest eps that makes sense."
    found = figures.against_eps("diagnosis_accuracy", caption, figures.panels_by_protocol(entries, curves), "accuracy", (0, 1))
    with_losses = [entry for entry in entries if len(entry.arrays.get("losses", ()))]
    if with_losses:
        figure, ((axes,),) = figures.subplots(1, 1, 5.5, 3.8)
        for entry in with_losses:
            losses = entry.arrays["losses"]
            axes.plot(np.arange(losses.shape[1]), losses.mean(axis=0), label=entry.label)
        axes.set(xlabel="step", ylabel="largest margin so far, rescaled", ylim=(0, 1.05))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        found.append(
            figures.Picture("diagnosis_loss", figure, "Loss along the attack, mean over images; flat at the end where it converged.")
        )
    return found


MEASURE = Measure(
    title="Diagnosis of the evaluation",
    presets={"standard": Options(images=First(100)), "paper": Options(images=PaperDraw(99, 0, 100))},
    run=run,
    columns=(("item", "item"), ("verdict", "verdict"), ("value", "value"), ("eps", "eps")),
    printed=("diagnosis",),
    check=check,
    describe=describe,
    tables=tables,
    figures=pictures,
)
