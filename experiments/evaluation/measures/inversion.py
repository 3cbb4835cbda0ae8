"""Feature inversion: what images become when one unit of the representation is driven up, from real images and from noise."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.attacks import clean_predictions
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.maps import check_maps
from experiments.evaluation.measure import VALUE, Measure, Measured
from experiments.evaluation.options import MeasureOptions
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, mean_record
from experiments.reports.tables import Table
from experiments.runtime import devices
from irob.attacks import BALLS, constant_steps, invert, mean_activation
from irob.maps import READOUTS
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # images in a figure


class InversionSteps(NamedTuple):
    """Steps of a share of the box's diameter in a norm; only the box bounds the image. seed: of the noise."""

    norm: str
    step_size: float
    num_steps: int
    seed: int


# 200 steps that could cross the box several times in either norm, whatever the size of the image.
STEPS = (("l2", 0.02, 200), ("linf", 0.01, 200))


def run(evaluation: Evaluation, options: MeasureOptions) -> Measured:
    """The activity of a unit before and after, and the images. The unit is the one that adds most to the label's logit on the seed image."""
    indices = evaluation.indices(options.images)
    records: list[Record] = []
    arrays: dict[str, np.ndarray] = {"indices": indices, "labels": evaluation.split.labels[indices]}
    arrays["seeds"] = np.asarray(to_unit(evaluation.split.fetch(indices)[0]))
    arrays["predictions"] = clean_predictions(evaluation, indices)
    for settings in STEPS:
        steps = InversionSteps(*settings, evaluation.seed)
        found = evaluation.map_examples(f"inversion {steps.norm}", inversion_check, steps, (), indices)
        for seed in ("image", "noise"):
            how = {"attack": "inversion", "norm": steps.norm, "steps": steps.num_steps, "seed_image": seed}
            records += [mean_record("activation", found[f"{seed}_{when}"], **how, when=when) for when in ("before", "after")]
        arrays |= {f"{steps.norm}/{key}": value for key, value in found.items()}
    return Measured(records, arrays)


def check(evaluation: Evaluation, options: MeasureOptions) -> None:
    """Refuses a network without a last feature map."""
    check_maps(evaluation, ("representation",), of_classes=False)


@functools.lru_cache
def inversion_check(network: Model, steps: InversionSteps) -> Check:
    """Pmapped `((params,), images, labels, indices) -> unit, and from image and from noise: the result, the activity before and after`."""
    diameter = BALLS[steps.norm].diameter(network.input_shape)
    ball, sizes = BALLS[steps.norm](diameter), constant_steps

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        (params,) = shared
        explain = network.frozen(params, READOUTS["representation"])
        step_sizes = sizes(steps.step_size * diameter, steps.num_steps)

        def one(x: Image, label: Label, index: Array) -> dict[str, Any]:
            contribution = jnp.mean(explain(x).maps, axis=(0, 1)) * network.head_kernel(params)[:, label]
            unit = jnp.argmax(contribution)
            noise = jnp.clip(0.5 + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(steps.seed), index), x.shape), 0.0, 1.0)
            results: dict[str, Any] = {"unit": unit, "noise": noise}
            for name, start in (("image", x), ("noise", noise)):
                result = invert(lambda z: explain(z).maps, unit, start, ball, step_sizes=step_sizes)
                before, after = (mean_activation(explain(z).maps, unit) for z in (start, result))
                results |= {f"{name}_result": result, f"{name}_before": before, f"{name}_after": after}
            return results

        return jax.vmap(one)(to_unit(images), labels, indices)

    return devices.pmap_full_precision(check)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """None: the figures say it."""
    return []


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """A figure per protocol and norm, networks side by side."""
    drawn = []
    for protocol in sorted({entry.protocol for entry in entries}):
        networks = {entry.label: entry.arrays for entry in entries if entry.protocol == protocol and entry.arrays}
        for norm, _, _ in STEPS if networks else ():
            caption = f"Feature inversion, {norm} steps, {protocol} images: the image (left) and noise (right) changed until one unit is most active."
            drawn.append(figures.Picture(f"inversion_{norm}_{protocol}", side_by_side(networks, norm, classes), caption))
    return drawn


def side_by_side(networks: Mapping[str, Mapping[str, np.ndarray]], norm: str, classes: Sequence[str]) -> "Figure":
    """A row for each seed image; for each network what it and noise become.

    networks: name -> arrays of this measure.
    """
    names = list(networks)
    seeds = min((arrays["seeds"] for arrays in networks.values()), key=len)[:SHOWN]
    columns = 1 + 2 * len(names)
    figure, axes = figures.subplots(len(seeds), columns, 1.6 * columns, 1.8 * len(seeds))
    for i, row in enumerate(axes):
        figures.show_image(row[0], seeds[i])
        row[0].set_xlabel(classes[int(networks[names[0]]["labels"][i])], fontsize=8)
        for j, name in enumerate(names):
            arrays = networks[name]
            for axis, seed in zip(row[1 + 2 * j : 3 + 2 * j], ("image", "noise"), strict=True):
                figures.show_image(axis, arrays[f"{norm}/{seed}_result"][i])
                axis.set_xlabel(f"unit {int(arrays[f'{norm}/unit'][i])}", fontsize=7)
    axes[0][0].set_title("seed", fontsize=8)
    for j, name in enumerate(names):
        axes[0][1 + 2 * j].set_title(f"{name}\nfrom the image", fontsize=7)
        axes[0][2 + 2 * j].set_title("from noise", fontsize=7)
    figures.bare(axes)
    figure.suptitle(f"Images that drive the unit which adds most to the label's logit ({norm} steps)", fontsize=10)
    return figure


MEASURE = Measure(
    title="Feature inversion: activity of the unit",
    presets={"standard": MeasureOptions(First(SHOWN)), "paper": MeasureOptions(PaperDraw(99, 0, SHOWN))},
    run=run,
    check=check,
    columns=(("norm", "norm"), ("from", "seed_image"), ("when", "when"), *VALUE),
    tables=tables,
    figures=pictures,
    reads=("seed",),
)
