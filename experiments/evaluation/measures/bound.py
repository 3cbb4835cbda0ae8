"""Both sides of Proposition 1, under the smallest perturbation and under sneaking attacks on the two-class and the one-class discrepancy.

The one-class discrepancy has no such bound; its rows show whether it is evaded.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.sneaking import (
    Attacked,
    DiscrepancySpec,
    SneakingOptions,
    check,
    describe,
    minimal_attack,
    paper_options,
    run_sneaking,
)
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record, proportion_record
from experiments.reports.tables import Table, cells, coverage, protocols_side_by_side, value_text
from experiments.runtime import devices
from irob.batches import predicted_class
from irob.discrepancies import discrepancy, one_class, proposition_1_sides
from irob.losses import pick
from irob.maps import scale_to_logits
from irob.paper import PaperDraw
from irob.similarities import kendall_tau
from irob.types import Array, Image, Label, Model, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # images
CLASSES = ("two_class", "one_class")
ROUNDING = 1e-5  # relative to the largest logit: what float32 may take from either side of the bound


def run(evaluation: Evaluation, options: SneakingOptions) -> Measured:
    """Whether the bound holds, and how tight it is, for every attack."""
    attacked, budget = minimal_attack(evaluation, options), max(options.budgets)
    images: dict[tuple[str, str | None], tuple[np.ndarray, np.ndarray]] = {("minimal", None): (attacked.x_adv, attacked.found)}
    for classes in CLASSES:
        (*_, last) = run_sneaking(evaluation, options, attacked, DiscrepancySpec("cam", classes, "l1"), (budget,))
        images["isa", classes] = (last.x_adv, last.found)
    records: list[Record] = []
    arrays = attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    for (attack, against), (x_adv, found) in images.items():
        name = "_".join([attack, *([against] if against else [])])
        sides = evaluation.map_examples(f"bound, {name}", sides_check, None, (), attacked.indices, attacked.targets, x_adv)
        how = {"attack": attack, "against": against, "budget": 1.0 if attack == "minimal" else budget}
        records += [record for classes in CLASSES for record in sides_records(sides, found, classes, how)]
        arrays |= {f"{name}/{key}": value for key, value in sides.items()} | {f"{name}/found": found}
    return Measured(records, arrays | shown_maps(evaluation, attacked))


def sides_records(sides: dict[str, np.ndarray], found: np.ndarray, classes: str, how: dict[str, Any]) -> list[Record]:
    """bound_holds and tightness of one discrepancy."""
    measured, half_gap = sides[classes], sides["half_gap"]
    holds = measured >= half_gap - ROUNDING * sides["largest_logit"]
    counted = found & (half_gap > 0)
    ratio = measured[counted] / half_gap[counted]
    of = {**how, "classes": classes, "map": "cam", "norm": "l1", "failed": int(np.sum(~found))}
    median = float(np.median(ratio)) if len(ratio) else None
    return [proportion_record("bound_holds", holds[found], **of), mean_record("tightness", ratio, **of, median=median)]


@functools.lru_cache
def sides_check(network: Model, spec: None) -> Check:
    """Pmapped `((params,), images, labels, indices, targets, attacked) -> half_gap, two_class, one_class, taus, predictions, largest_logit`."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array, targets: Array, attacked: Array) -> dict[str, Any]:
        def one(x: Image, label: Label, target: Label, x_adv: Image) -> dict[str, Any]:
            clean, moved = network.explain(shared[0], x), network.explain(shared[0], x_adv)
            sides = proposition_1_sides(clean, moved, label, target)
            alone = discrepancy(scale_to_logits(clean.maps), scale_to_logits(moved.maps), one_class(label, network.num_classes))
            return {
                "half_gap": sides.half_gap,
                "two_class": sides.discrepancy,
                "one_class": alone,
                "tau_label": kendall_tau(pick(clean.maps, label), pick(moved.maps, label)),
                "tau_target": kendall_tau(pick(clean.maps, target), pick(moved.maps, target)),
                "predictions": predicted_class(moved.logits),
                "largest_logit": jnp.maximum(jnp.max(jnp.abs(clean.logits)), jnp.max(jnp.abs(moved.logits))),
            }

        return jax.vmap(one)(to_unit(images), labels, targets, attacked)

    return devices.pmap_full_precision(check)


def shown_maps(evaluation: Evaluation, attacked: Attacked) -> dict[str, np.ndarray]:
    """The first images with their maps of the true and the target class, clean and attacked, for the report."""
    network, shown = evaluation.network, slice(0, SHOWN)
    images, _ = evaluation.split.fetch(attacked.indices[shown])
    x, x_adv = np.asarray(to_unit(images)), attacked.x_adv[shown]

    @jax.jit
    def maps(params: Params, images: Array, labels: Array, targets: Array) -> Array:
        def one(x: Image, label: Label, target: Label) -> Array:
            of = network.explain(params, x).maps
            return jnp.stack([pick(of, label), pick(of, target)])

        return jax.vmap(one)(images, labels, targets)

    classes = attacked.labels[shown], attacked.targets[shown]
    with jax.default_matmul_precision("highest"):
        clean, moved = (np.asarray(maps(evaluation.model.params, z, *classes)) for z in (x, x_adv))
    return {"shown/images": x, "shown/attacked": x_adv, "shown/clean_maps": clean, "shown/attacked_maps": moved}


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x attacks: does Proposition 1 hold, and how tight is it."""
    table = []
    for entry in by_label(entries):
        tightness = {attack_of(record): record for record in entry.records("tightness")}
        for record in entry.records("bound_holds"):
            ratio = tightness[attack_of(record)]
            attack = record["attack"] + (f" on {record['against']}" if record["against"] else "")
            median = "-" if ratio["median"] is None else f"{ratio['median']:.3f}"
            texts = (entry.label, entry.protocol, attack, record["classes"], value_text(record), value_text(ratio), median)
            table.append(cells([*texts, str(record.n), str(record["failed"])]))
    header = [
        "network",
        "protocol",
        "attack",
        "discrepancy",
        "share where it holds",
        "mean ratio D / half gap",
        "median",
        "n",
        "failed attacks",
    ]
    notes = [
        "Class activation maps on the logit scale, l1; n successful attacks. For the two-class discrepancy the share is 1 for every attack that"
        " reaches its target; the one-class discrepancy has no bound, and where its share is below 1 it was evaded.",
        "`standard` searches harder for the smallest attack and for the smallest discrepancy: use its ratios for conclusions; it takes correctly"
        " classified images only.",
        *coverage(entries),
    ]
    return [Table("bound", title, header, protocols_side_by_side(table, 4), notes)]


def attack_of(record: Record) -> tuple[Any, ...]:
    """What a record is of."""
    return tuple(record[key] for key in ("attack", "against", "classes"))


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """For each network a scatter of both sides, and the maps of the shown images."""
    drawn = []
    for entry in entries:
        arrays, title, slug = entry.arrays, figures.title_of(entry), figures.slug_of(entry)
        if arrays:
            caption = "Both sides of Proposition 1 for each image; on and above the diagonal the bound holds."
            drawn.append(figures.Picture(f"bound_{slug}", scatter(title, arrays), f"{title}. {caption}"))
            caption = "Images and their class activation maps under the smallest attack; red speaks for the class, blue against it."
            drawn.append(figures.Picture(f"maps_{slug}", overlays(title, arrays, classes), f"{title}. {caption}"))
    return drawn


def scatter(title: str, arrays: Mapping[str, np.ndarray]) -> "Figure":
    """D against half of the logit gap for each image, the two-class and the one-class discrepancy.

    arrays: of this measure.
    """
    figure, all_axes = figures.subplots(1, 2, 9.5, 4.2, sharex=True, sharey=True)
    attacks = (
        ("minimal", "smallest attack", "o"),
        ("isa_two_class", "sneaking, two-class", "^"),
        ("isa_one_class", "sneaking, one-class", "v"),
    )
    for axes, classes, name in zip(all_axes[0], CLASSES, ("two-class: bounded", "one-class: not bounded"), strict=True):
        largest = 0.0
        for key, label, marker in attacks:
            found = arrays[f"{key}/found"]
            x, y = arrays[f"{key}/half_gap"][found], arrays[f"{key}/{classes}"][found]
            above = np.mean(y >= x - ROUNDING * arrays[f"{key}/largest_logit"][found]) if len(x) else np.nan
            axes.scatter(x, y, s=14, marker=marker, alpha=0.6, label=f"{label} ({above:.0%} above)" if len(x) else label)
            largest = max([largest, *x.tolist()])
        axes.plot([0, largest], [0, largest], color="black", linewidth=1)
        axes.set(xlabel="(f_t - f_t') / 2 on the clean image", title=name)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    all_axes[0][0].set_ylabel("discrepancy on the logit scale, l1")
    figure.suptitle(title, fontsize=10)
    return figure


def overlays(title: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> "Figure":
    """Image, then its maps of the true and of the target class over it, clean and attacked; tau below.

    Args:
      arrays: of this measure.
      classes: names of the classes.
    """
    images, attacked = arrays["shown/images"], arrays["shown/attacked"]
    clean_maps, attacked_maps = arrays["shown/clean_maps"], arrays["shown/attacked_maps"]
    scale = float(np.abs(clean_maps).max())
    figure, axes = figures.subplots(len(images), 6, 10.5, 2.0 * len(images))
    headings = ("image", "true class", "true, attacked", "attacked", "target class", "target, attacked")
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, fontsize=9)
    for i, row in enumerate(axes):
        names = [classes[int(arrays[key][i])] for key in ("labels", "targets")]
        figures.show_image(row[0], images[i])
        figures.show_image(row[3], attacked[i])
        row[0].set_xlabel(names[0], fontsize=8)
        predicted = figures.class_name(classes, int(arrays["minimal/predictions"][i]))
        row[3].set_xlabel(f"classified as {predicted}, eps {arrays['eps'][i]:.3f}", fontsize=8)
        for which, (clean_axis, attacked_axis) in enumerate(((row[1], row[2]), (row[4], row[5]))):
            figures.show_map_over(clean_axis, images[i], clean_maps[i, which], scale)
            figures.show_map_over(attacked_axis, attacked[i], attacked_maps[i, which], scale)
            tau = arrays[f"minimal/tau_{('label', 'target')[which]}"][i]
            attacked_axis.set_xlabel(f"{names[which]}, tau {tau:.2f}", fontsize=8)
    figures.bare(axes)
    figure.suptitle(title, fontsize=10)
    return figure


STANDARD = SneakingOptions(images=First(200))
MEASURE = Measure(
    title="Proposition 1: the discrepancy D is at least half of the logit gap",
    presets={"standard": STANDARD, "paper": paper_options(STANDARD, PaperDraw(99, 0, 100))},
    run=run,
    columns=(
        ("metric", "metric"),
        ("attack", "attack"),
        ("against", "against"),
        ("D", "classes"),
        *VALUE,
        ("median", "median"),
        ("failed", "failed"),
    ),
    describe=describe,
    check=check,
    tables=tables,
    figures=pictures,
    reads=("norm", "seed"),
)
