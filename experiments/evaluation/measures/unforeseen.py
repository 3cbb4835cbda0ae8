"""Accuracy under attacks that were not part of the training, each at every size, and UAR, which sums them up.

Random parts come from (seed, attack, index of the image in its split), and are the same at every size and for every objective.
"""

import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.attacks import OBJECTIVES, clean_predictions
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record, proportion_record, without_gradient
from experiments.reports.tables import Cell, Table, cells, coverage, protocols_side_by_side, value_text
from experiments.runtime import devices
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find
from experiments.runtime.values import distinct, integer, row_of, several
from irob.attacks import UNFORESEEN, AttackResult, best_of_pgd, last_of_pgd, step_rule
from irob.batches import predicted_class
from irob.losses import margin_loss
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params, PRNGKey, Scalar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 2  # images


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """targeted: descends the loss of a drawn class instead of ascending that of the label. best_iterate: the iterate with the largest margin counts.
    step_sizes: (attack, rule) where they are not the attack's own. sizes: "calibrated", or those of the paper.
    """

    unforeseen_attacks: tuple[str, ...] = option(
        (), distinct(several(row_of(UNFORESEEN, "attack"), 1)), "which; all if not given", in_name=True
    )
    objectives: tuple[str, ...] = option(
        ("cross_entropy", "margin"), distinct(several(row_of(OBJECTIVES, "objective"), 1)), "losses that are attacked one after another"
    )
    num_steps: int = option(200, integer(1, limit=10**6), "steps of each attack")
    targeted: bool = False
    best_iterate: bool = True
    step_sizes: tuple[tuple[str, str], ...] = ()
    sizes: str = "calibrated"


class Sizes(NamedTuple):
    """How large an attack is made. source: of the sizes. eps `[k]`. ata `[k]`: the accuracies that UAR compares with; empty without UAR."""

    source: str
    eps: tuple[float, ...]
    ata: tuple[float, ...] = ()


def calibrated_sizes(attack: str, dataset: str) -> Sizes | None:
    """The six sizes of Kang et al.: those for CIFAR-10 where there are any and the data set is CIFAR-10, else those for ImageNet-100. An attack that
    they did not calibrate has its own sizes, if any.
    """
    table = json.loads((pathlib.Path(__file__).parent.parent / "uar_calibration.json").read_text())
    source = "cifar-10" if dataset == "cifar10" and attack in table["cifar-10"] else "imagenet-100"
    if attack in table[source]:
        return Sizes(source, **{key: tuple(values) for key, values in table[source][attack].items()})
    own = find(UNFORESEEN, attack, "attack").eps
    return Sizes("its own", own) if own else None


def paper_sizes(attack: str, dataset: str) -> Sizes | None:
    """The one size at which the paper's authors ran an attack; None where they did not."""
    sizes = {"jpeg_linf": 0.25, "jpeg_l2": 8.0, "jpeg_l1": 256.0, "fog": 2048.0, "gabor": 400.0, "snow": 2.0}
    if dataset == "restricted_imagenet":
        sizes["jpeg_linf"] = 0.062
    return Sizes("paper", (sizes[attack],)) if attack in sizes else None


SIZES: dict[str, Callable[[str, str], Sizes | None]] = {"calibrated": calibrated_sizes, "paper": paper_sizes}


def describe(options: Options) -> str:
    """What the attacks do, in one sentence."""
    aim = "targeted" if options.targeted else "untargeted"
    iterate = "best iterate" if options.best_iterate else "last iterate"
    return f"{options.num_steps} steps, {aim}, on {' and on '.join(options.objectives)}, {iterate}; {options.sizes} sizes."


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses attacks without a size."""
    for name in options.unforeseen_attacks:
        found = find(SIZES, options.sizes, "sizes")(name, evaluation.dataset)
        refuse(found is None, f"--unforeseen_attacks={name}: there are no {options.sizes} sizes of this attack")


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Accuracy at every size of every attack, and UAR where the sizes are calibrated: the sum of the accuracies over the sum of the ATAs."""
    indices = evaluation.indices(options.images)
    labels, clean = evaluation.split.labels[indices], clean_predictions(evaluation, indices)
    offsets = evaluation.target_offsets(options.images)
    targets = (labels + (0 if offsets is None else offsets)) % evaluation.network.num_classes
    records: list[Record] = [proportion_record("clean_accuracy", clean == labels, attack="none", eps=0.0)]
    arrays = {"indices": indices, "labels": labels, "clean_predictions": clean}
    arrays["shown/images"] = np.asarray(to_unit(evaluation.split.fetch(indices[:SHOWN])[0]))
    for attack in options.unforeseen_attacks or UNFORESEEN:
        sizes = find(SIZES, options.sizes, "sizes")(attack, evaluation.dataset)
        if sizes is None:
            continue
        by_size = [attacked_predictions(evaluation, options, attack, eps, indices, labels, targets, clean) for eps in sizes.eps]
        found, useless = (np.stack(part) for part in zip(*by_size, strict=True))
        records += attack_records(found == labels, useless, attack, sizes, options)
        shown = shown_images(evaluation, options, attack, sizes.eps, indices[:SHOWN], labels[:SHOWN], targets[:SHOWN])
        arrays |= {f"{attack}/eps": np.array(sizes.eps), f"{attack}/predictions": found}
        arrays |= {f"{attack}/{key}": value for key, value in shown.items()}
    return Measured(records, arrays)


def attacked_predictions(
    evaluation: Evaluation,
    options: Options,
    attack: str,
    eps: float,
    indices: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
    clean: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The class of images under one attack, and whether no gradient was of use, `[n]`. Later objectives see only the images that are still classified
    correctly; images without a class are not attacked.
    """
    predictions, useless = np.where(clean < 0, -1, labels), clean >= 0
    for which, objective in enumerate(options.objectives):
        left = np.flatnonzero(predictions == labels)
        if len(left):
            shared = (np.float32(eps), np.asarray(jax.random.key_data(attack_key(evaluation.seed, attack))), np.int32(which))
            label = f"{attack} {objective} {options.num_steps} steps, eps {eps:.9g}"
            attempt = UnforeseenAttempt(attack, unforeseen_settings(options))
            found = evaluation.map_examples(label, unforeseen_attack_check, attempt, shared, indices[left], targets[left].astype(np.int32))
            if not found["finite"].all():
                count = np.sum(~found["finite"])
                raise UserError(f"the {objective} has no finite gradient for {count} images under {attack} at eps {eps:g}")
            if not found["inside"].all():
                raise RuntimeError(f"{attack} left the range of a pixel at eps {eps}")
            predictions[left] = found["predictions"]
            useless[left] &= found["useless"]
    return predictions, useless


def attack_key(seed: int, attack: str) -> PRNGKey:
    """The key that those of all images are derived from."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(attack.encode()))


def unforeseen_settings(options: Options) -> Options:
    """The options without the choice of images and attacks, which do not change one attack on one image."""
    return dataclasses.replace(options, images=First(), unforeseen_attacks=())


class UnforeseenAttempt(NamedTuple):
    """What a compiled attack is made of."""

    attack: str
    options: Options


def attacked_image(
    network: Model,
    params: Params,
    attempt: UnforeseenAttempt,
    x: Image,
    label: Label,
    target: Label,
    key: PRNGKey,
    eps: Scalar,
    which: Any,
) -> tuple[Image, AttackResult]:
    """One attack on one image; `which` of the objectives is ascended."""
    explain, options = network.frozen(params), attempt.options
    row = find(UNFORESEEN, attempt.attack, "attack")
    variation = row.vary(key, x, eps)
    rule = step_rule(dict(options.step_sizes).get(attempt.attack, row.step_sizes))
    losses = [find(OBJECTIVES, name, "objective") for name in options.objectives]
    ascend = best_of_pgd if options.best_iterate else last_of_pgd

    def scored(variable: Array) -> tuple[Scalar, Scalar]:
        logits = explain(variation.render(variable)).logits
        values = jnp.stack([-loss(logits, target) if options.targeted else loss(logits, label) for loss in losses])
        return values[which], margin_loss(logits, label)

    found = ascend(scored, variation.ball, variation.start, step_sizes=rule(eps, options.num_steps))
    return variation.render(found.x_adv), found


@functools.lru_cache
def unforeseen_attack_check(network: Model, attempt: UnforeseenAttempt) -> Check:
    """Pmapped `((params, eps, key data, which objective), images, labels, indices, targets) -> predictions, finite, inside, useless`."""

    def check(shared: tuple[Params, Array, Array, Array], images: Array, labels: Array, indices: Array, targets: Array) -> dict[str, Any]:
        params, eps, key_data, which = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))

        def one(x: Image, label: Label, index: Array, target: Label) -> dict[str, Any]:
            own = jax.random.fold_in(key, index)
            x_adv, found = attacked_image(network, params, attempt, x, label, target, own, eps, which)
            inside, finite = jnp.all((x_adv >= 0.0) & (x_adv <= 1.0)), found.finite() & jnp.all(jnp.isfinite(x_adv))
            predictions = predicted_class(network.explain(params, x_adv).logits)
            return {"predictions": predictions, "finite": finite, "inside": inside, "useless": found.gradients.useless()}

        return jax.vmap(one)(to_unit(images), labels, indices, targets)

    return devices.pmap_full_precision(check)


def attack_records(correct: np.ndarray, useless: np.ndarray, attack: str, sizes: Sizes, options: Options) -> list[Record]:
    """Records of one attack from `correct, useless [sizes, n]`."""
    how = {"attack": attack, "calibration": sizes.source}
    run_with = {"objectives": list(options.objectives), "steps": options.num_steps, "restarts": 1}
    records = []
    for i, eps in enumerate(sizes.eps):
        ata = {"ata": sizes.ata[i]} if sizes.ata else {}
        hidden = without_gradient(int(np.sum(correct[i] & useless[i])))
        records.append(proportion_record("robust_accuracy", correct[i], **how, eps=eps, **ata, **run_with, **hidden))
    if sizes.ata:
        records.append(mean_record("uar", correct.sum(axis=0) / sum(sizes.ata), **how, **run_with))
    return records


def shown_images(
    evaluation: Evaluation,
    options: Options,
    attack: str,
    sizes: Sequence[float],
    indices: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
) -> dict[str, np.ndarray]:
    """Some images under the first objective at every size: shown `[sizes, images, H, W, c]`, and the class of each."""
    images = to_unit(evaluation.split.fetch(indices)[0])
    draw = drawing(evaluation.network, UnforeseenAttempt(attack, unforeseen_settings(options)))
    with jax.default_matmul_precision("highest"):
        keys = jax.vmap(lambda index: jax.random.fold_in(attack_key(evaluation.seed, attack), index))(indices.astype(np.int32))
        shown, predictions = draw(evaluation.model.params, images, labels, targets, keys, np.array(sizes, np.float32))
    return {"shown": np.asarray(shown), "shown_predictions": np.asarray(predictions)}


@functools.lru_cache
def drawing(network: Model, attempt: UnforeseenAttempt) -> Callable[..., Any]:
    """`(params, images [n, ...], labels, targets, keys, eps [k]) -> attacked [k, n, ...], predictions [k, n]`, one size at a time."""

    def draw(params: Params, images: Array, labels: Array, targets: Array, keys: Array, sizes: Array) -> tuple[Array, Array]:
        def of_size(eps: Scalar) -> tuple[Array, Array]:
            def one(x: Image, label: Label, target: Label, key: PRNGKey) -> tuple[Image, Array]:
                x_adv, _ = attacked_image(network, params, attempt, x, label, target, key, eps, 0)
                return x_adv, predicted_class(network.explain(params, x_adv).logits)

            return jax.vmap(one)(images, labels, targets, keys)

        return jax.lax.map(of_size, sizes)

    return jax.jit(draw)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x unforeseen attacks: accuracy at each size, and UAR."""
    table: list[list[Cell]] = []
    attacks = list(dict.fromkeys(r["attack"] for entry in entries for r in entry.records("robust_accuracy")))
    most = max((len(entry.records("robust_accuracy", attack=name)) for entry in entries for name in attacks), default=0)
    for entry in by_label(entries):
        (clean,) = entry.records("clean_accuracy")
        row = cells([entry.label, entry.protocol, "none", "", str(clean.n), value_text(clean), *[""] * most])
        table += [] if row in table else [row]
        for name in attacks:
            sizes = entry.records("robust_accuracy", attack=name)
            if sizes:
                by_size = [f"{value_text(r)} at {r['eps']:g}" for r in sizes] + [""] * (most - len(sizes))
                uar = value_text(next(iter(entry.records("uar", attack=name)), None))
                table.append(cells([entry.label, entry.protocol, name, sizes[0]["calibration"], str(sizes[0].n), uar, *by_size]))
    header = ["network", "protocol", "attack", "sizes of", "n", "UAR (clean: accuracy)", *(f"size {i + 1}" for i in range(most))]
    return [Table("unforeseen", title, header, protocols_side_by_side(table, 3), NOTES + coverage(entries))]


NOTES = [
    "Accuracy with its 95% interval, at each size (each attack has its own unit). `standard`: 200 steps, untargeted, best iterate, the sizes that"
    " Kang et al. 2019 calibrated on the data set named (for other data sets they are borrowed). UAR: the sum of the accuracies over that of their"
    " best adversarially trained networks on that data set; a ratio, so it may exceed 1. It is stricter than theirs, who ascend the cross-entropy"
    " alone and take the last iterate. The largest JPEG sizes borrowed from ImageNet-100 exceed what small images have room for, and give equal"
    " accuracies.",
    "`paper`: as the paper's authors ran it, targeted, one size, last iterate, steps in fog, Gabor noise and snow so large that variables jump"
    " between their ends; starts, kernels and flakes are our own, since theirs had no seed. Fog is scaled per image, where they scale it per batch,"
    " snow is projected before it is rendered, and the first JPEG gradient is taken at the start, where they omit a division. Their networks of"
    " CIFAR-10 WResNet were wrong copies (two shortcuts), so their numbers of those cannot be compared.",
]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """For each network the shown images under every attack at every size."""
    drawn = []
    for entry in entries:
        arrays = entry.arrays
        attacks = [key.removesuffix("/shown") for key in arrays if key.endswith("/shown")]
        chosen = [] if len(attacks) == len(UNFORESEEN) else attacks
        for i in range(len(arrays.get("shown/images", ()))):
            caption = "An image under every unforeseen attack at every size, clean on the left, with its predicted class."
            figure = attacked_grid(figures.title_of(entry), arrays, attacks, i, classes)
            name = "_".join(["unforeseen", figures.slug_of(entry), *chosen, str(i)])
            drawn.append(figures.Picture(name, figure, f"{figures.title_of(entry)}. {caption}"))
    return drawn


def attacked_grid(title: str, arrays: Mapping[str, np.ndarray], attacks: Sequence[str], which: int, classes: Sequence[str]) -> "Figure":
    """One image: a row for each attack, the clean image, then the attacked ones by size.

    Args:
      arrays: of this measure.
      which: of the shown images.
    """
    columns = 1 + max(len(arrays[f"{name}/eps"]) for name in attacks)
    figure, axes = figures.subplots(len(attacks), columns, 1.4 * columns, 1.65 * len(attacks))
    image, label = arrays["shown/images"][which], classes[int(arrays["labels"][which])]
    for row, name in zip(axes, attacks, strict=True):
        figures.show_image(row[0], image)
        row[0].set_ylabel(name, fontsize=9)
        row[0].set_xlabel(label, fontsize=7)
        of_image = (arrays[f"{name}/eps"], arrays[f"{name}/shown"][:, which], arrays[f"{name}/shown_predictions"][:, which])
        for axis, eps, picture, prediction in zip(row[1:], *of_image, strict=False):
            figures.show_image(axis, picture)
            axis.set_xlabel(f"{eps:g}: {figures.class_name(classes, int(prediction))}", fontsize=7)
        for axis in row[1 + len(arrays[f"{name}/eps"]) :]:
            axis.axis("off")
    figures.bare(axes)
    figure.suptitle(title, fontsize=10)
    return figure


MEASURE = Measure(
    title="Accuracy under unforeseen attacks, and UAR",
    presets={
        "standard": Options(images=First(200)),
        "paper": Options(
            images=PaperDraw(99, 0, 200),
            objectives=("logsumexp_cross_entropy",),
            targeted=True,
            best_iterate=False,
            # Far larger than the range of the variable, which jumps between its ends.
            step_sizes=(("fog", "eps/sqrt(steps)"), ("gabor", "eps/sqrt(steps)"), ("snow", "eps/sqrt(steps)")),
            sizes="paper",
        ),
    },
    run=run,
    columns=(("metric", "metric"), ("attack", "attack"), ("sizes of", "calibration"), ("eps", "eps"), *VALUE),
    describe=describe,
    check=check,
    tables=tables,
    figures=pictures,
    reads=("seed",),
)
