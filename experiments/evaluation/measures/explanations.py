"""Explanation metrics: what maps of the predicted class say about the network, and how much they move with the image.

Each is measured for maps by name, and for two that know nothing of the network: noise, and the edges of the image. Maps on the pixels are of the
network's own gradients, those that are means of 50 of them; where an attack ascends one, it follows softplus networks, with 10.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.maps import MAPS, check_betas, check_maps
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.evaluation.probes import over_images
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record, proportion_record
from experiments.reports.tables import Table, cells, value_text
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find
from experiments.runtime.values import distinct, integer, nonempty_text, number, optional, row_of, several
from irob.maps import BETAS, EXPLAINERS, OwnGradients, Smoother, differentiable, frozen, map_of_class, of_many_gradients
from irob.metrics.explanations import (
    HIGHER,
    METRICS,
    OF_ARRAYS,
    OF_FUNCTIONS,
    UNINFORMED,
    Explained,
    Settings,
    Subject,
    layer_names,
    on_pixels_of,
    pointing_game,
    relevance_mass,
    relevance_rank,
)
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params, PRNGKey

BASELINES: dict[str, Callable[[Image], Image]] = {
    "black": jnp.zeros_like,
    "mean": lambda x: jnp.broadcast_to(jnp.mean(x, axis=(0, 1)), x.shape),
    "blur": lambda x: jax.image.resize(
        jax.image.resize(x, (max(x.shape[0] // 7, 1), max(x.shape[1] // 7, 1), x.shape[2]), "linear"), x.shape, "linear"
    ),
}
LOCALIZATION = {"pointing_game": pointing_game, "relevance_mass": relevance_mass, "relevance_rank": relevance_rank}


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """Of which maps, and the settings that every number depends on."""

    map: tuple[str, ...] = option(("cam", "saliency", "integrated_gradients"), MAPS, "maps that are measured", in_name=True)
    baselines: tuple[str, ...] = option(
        ("black", "blur"), distinct(several(row_of(BASELINES, "baseline"), 1)), "what pixels are replaced with: black, mean, blur"
    )
    radius: float = option(0.02, number(positive=True), "of moved images, in l-inf, on pixels in [0, 1]")
    draws: int = option(50, integer(1, limit=10**6), "of moved images")
    map_attack_steps: int = option(40, integer(1, limit=10**6), "of the attack on the map within that radius")
    subset: int = option(224, integer(1, limit=10**6), "positions in a random subset (at most half of them)")
    subsets: int = option(100, integer(2, limit=10**6), "how many random subsets")
    curve_steps: int = option(28, integer(2, limit=10**6), "of deletion and insertion")
    road_fractions: tuple[float, ...] = option(
        Settings().fractions, distinct(several(number(below=1.0), 1)), "of the positions that ROAD takes out"
    )
    noisy_draws: int = option(Settings().noisy, integer(1, limit=10**6), "of noise that the smoothed MPRT averages over")
    masks: str | None = option(None, optional(nonempty_text()), "file .npy [images of the split, H, W], true on the object of each")

    def settings(self) -> Settings:
        """As the library takes them."""
        given = Settings(self.radius, self.draws, self.map_attack_steps, self.subset, self.subsets, self.curve_steps)
        return given._replace(fractions=self.road_fractions, noisy=self.noisy_draws)


def describe(options: Options) -> str:
    """The settings, in one sentence."""
    s = options.settings()
    return (
        f"Maps of the predicted class, those of integrated and smoothed gradients of {PATH_POINTS} gradients. Sensitivity, stability: {s.draws} draws"
        f" within {s.radius:g} in l-inf; attack: {s.attack_steps} steps from the best of random corners; of gradients on softplus networks of beta"
        f" {', '.join(f'{beta:g}' for beta in BETAS)}, each from the best of {max(s.draws // len(BETAS), 1)} corners;"
        f" Lipschitz: {s.draws} draws of N(0, {s.sigma:g}^2). Baselines {', '.join(options.baselines)}; {s.runs} subsets of {s.subset} positions"
        f" (at most half); deletion and insertion of the probability in {s.curve_steps} steps; infidelity: {4 * s.draws} draws of N(0, 0.2^2);"
        f" monotonicity: patches of side {s.patch}; MPRT smoothed over {s.noisy} draws; ROAD at {', '.join(f'{part:g}' for part in s.fractions)}"
        " of the positions. Channels are summed."
    )


def masks_of(evaluation: Evaluation, options: Options) -> np.ndarray | None:
    """The masks of the split, `[n, H, W]` bool.

    Raises:
      UserError: if the file holds none for these images.
    """
    if options.masks is None:
        return None
    try:
        masks = np.load(options.masks, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--masks={options.masks} cannot be read as an .npy file: {error}") from error
    wanted = (len(evaluation.split.labels), *evaluation.network.input_shape[:2])
    refuse(masks.shape != wanted or masks.dtype.kind not in "bui", f"--masks={options.masks}: must be True or False of shape {wanted}")
    return masks.astype(bool)


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses maps without classes, and masks of other images."""
    check_maps(evaluation, options.map)
    check_betas(evaluation, options.map)
    positions = math.prod(evaluation.network.input_shape[:2])
    whole = [part for part in options.road_fractions if round(part * positions) == positions]
    refuse(bool(whole), f"--road_fractions={','.join(map(str, whole))} leaves none of {positions} positions: take less")
    masks_of(evaluation, options)


class MeasuredMap(NamedTuple):
    """What a compiled check is made of. map: a key of EXPLAINERS or UNINFORMED. layers: as `Explained` has them. rows: of OF_ARRAYS."""

    settings: Settings
    map: str = ""
    layers: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()


PATH_POINTS = 50  # of maps that are means of gradients; what an attack ascends has fewer
MEASURED = {**EXPLAINERS, **of_many_gradients(PATH_POINTS)}
BETTER = {name: way for row in METRICS.values() for name, way in row.better.items()} | dict.fromkeys(LOCALIZATION, HIGHER)
FRESH = 2654435769  # added to the seed, so that the draw is not the one that the training began with
OF_NETWORK = tuple(name for name, row in OF_ARRAYS.items() if not row.of_map)
OF_MAP = tuple(name for name, row in OF_ARRAYS.items() if row.of_map and not row.of_baseline)
OF_BASELINE = tuple(name for name, row in OF_ARRAYS.items() if row.of_baseline)


def run(evaluation: Evaluation, options: Options) -> Measured:
    """The mean of every metric, for every map, and every baseline where one is needed."""
    indices, key, settings = evaluation.indices(options.images), evaluation.random_key(0), options.settings()
    records: list[Record] = []
    arrays: dict[str, np.ndarray] = {"indices": indices}
    fresh, layers = evaluation.network.initial_params((evaluation.seed + FRESH) % 2**32), layers_of(evaluation)
    masks = masks_of(evaluation, options)

    def keep(found: dict[str, np.ndarray], **which: str) -> None:
        for metric, values in found.items():
            if metric in BETTER:
                finite = values[np.isfinite(values)]
                median = {"median": float(np.median(finite))} if len(finite) else {}
                if metric == "pointing_game":
                    records.append(proportion_record(metric, finite > 0.5, **which, better=BETTER[metric]))
                else:
                    records.append(mean_record(metric, values, **which, better=BETTER[metric], **median))
            if metric != "map":
                arrays["/".join([*filter(None, which.values()), metric])] = values

    def of_arrays(label: str, rows: tuple[str, ...], maps: np.ndarray, baseline: int = 0) -> dict[str, np.ndarray]:
        spec = MeasuredMap(settings, rows=rows, baselines=options.baselines)
        return evaluation.map_examples(label, arrays_check, spec, (key, np.int32(baseline)), indices, maps)

    for name in (*options.map, *UNINFORMED):
        found = evaluation.map_examples(f"{name}: stability", functions_check, MeasuredMap(settings, name, layers), (key, fresh), indices)
        maps = found["map"]
        if name == options.map[0]:
            keep(of_arrays("of the network", OF_NETWORK, maps), map="")
        keep(found, map=name)
        keep(of_arrays(f"{name}: faithfulness", OF_MAP, maps), map=name)
        for i, baseline in enumerate(options.baselines):
            keep(of_arrays(f"{name}: faithfulness, {baseline}", OF_BASELINE, maps, i), map=name, baseline=baseline)
        if masks is not None:
            keep(evaluation.map_examples(f"{name}: localization", masks_check, None, (key,), indices, maps, masks[indices]), map=name)
    return Measured(records, arrays)


def layers_of(evaluation: Evaluation) -> tuple[str, ...]:
    """The layers of the network from input to output; () where they cannot be told, and there is no randomization."""
    try:
        return tuple(layer_names(evaluation.model.params))
    except ValueError:
        return ()


@functools.lru_cache
def functions_check(network: Model, spec: MeasuredMap) -> Check:
    """Pmapped `((params, key data, fresh), images, labels, indices) -> values by name, and map [H, W, c]`."""
    own: Any = OwnGradients(network)

    def one(params: Params, x: Image, label: Label, key: PRNGKey, fresh: Params) -> dict[str, Any]:
        explain = network.frozen(params)
        chosen = jnp.argmax(explain(x).logits)

        def of(model: Any, forward: Any, label: Label, rows: Mapping[str, Any] = MEASURED) -> Callable[[Image], Array]:
            if spec.map in UNINFORMED:
                return lambda z: UNINFORMED[spec.map](key, z)
            return map_of_class(find(rows, spec.map, "map"), model, forward, label)

        ascended = () if spec.map in UNINFORMED else BETAS if find(EXPLAINERS, spec.map, "map").gradients else BETAS[:1]
        surrogates = [of(Smoother(network, beta), frozen(params), chosen, EXPLAINERS) for beta in ascended]

        of_class = lambda c: of(own, frozen(params), c)(x)  # noqa: E731
        subject = Explained(
            x=x,
            label=chosen,
            logits=lambda z: explain(z).logits,
            num_classes=network.num_classes,
            attribute=of(own, frozen(params), chosen),
            surrogates=surrogates,
            of_class=of_class,
            of_params=lambda params: of(own, differentiable(params), chosen),
            params=params,
            fresh=fresh,
            layers=spec.layers,
            key=key,
            settings=spec.settings,
        )
        values = {name: value for metric in OF_FUNCTIONS.values() for name, value in metric.compute(subject).items()}
        return {**values, "map": on_pixels_of(subject.attribute(x), network.input_shape)}

    return over_images(one)


@functools.lru_cache
def arrays_check(network: Model, spec: MeasuredMap) -> Check:
    """Pmapped `((params, key data, number of the baseline), images, labels, indices, maps [H, W, c]) -> values by name`."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, number: Array, given: Array) -> dict[str, Any]:
        explain = network.frozen(params)
        baseline = jax.lax.switch(number, [BASELINES[name] for name in spec.baselines], x)
        logits = lambda z: explain(z).logits  # noqa: E731
        subject = Subject(x, jnp.argmax(logits(x)), logits, given, baseline, key, spec.settings)
        return {name: value for row in spec.rows for name, value in OF_ARRAYS[row].compute(subject).items()}

    return over_images(one)


@functools.lru_cache
def masks_check(network: Model, spec: None) -> Check:
    """Pmapped `((params, key data), images, labels, indices, maps [H, W, c], masks [H, W]) -> values by name`."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, given: Array, mask: Array) -> dict[str, Any]:
        return {name: metric(jnp.sum(given, axis=-1), mask) for name, metric in LOCALIZATION.items()}

    return over_images(one)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Metrics x (network, map): for each network and protocol its maps side by side, those that know nothing of the network last."""
    rows, every = [], [record["map"] for entry in by_label(entries) for record in entry.records()]
    last = list(UNINFORMED)
    maps = sorted(filter(None, dict.fromkeys(every)), key=lambda name: last.index(name) if name in last else -1)
    for entry in by_label(entries):
        kinds = list(dict.fromkeys((record.metric, record.get("baseline", "")) for record in entry.records()))
        own = next((name for name in maps if name in {record["map"] for record in entry.records()}), "")
        for metric, baseline in kinds:
            of_map = {record["map"]: record for record in entry.records(metric) if record.get("baseline", "") == baseline}
            better = next(iter(of_map.values()))["better"]
            values = [value_text(of_map.get(name, of_map.get("") if name == own else None)) for name in maps]
            rows.append(cells([entry.label, entry.protocol, metric.replace("_", " "), baseline, better, *values]))
    header = ["network", "protocol", "metric", "baseline", "better", *maps]
    notes = [
        "`random` and `edges` know nothing of the network: a metric on which they do as well as a map says nothing for the map.",
        "`alignment` is of the network alone.",
    ]
    return [Table("explanations", title, header, rows, notes)]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Deletion curves and randomization curves, a panel for each network."""
    found = []
    for key, caption, x_label in (
        ("deletion_curve", "Probability of the class while the most important pixels are replaced.", "part of the pixels"),
        ("mprt_curve", "Rank correlation with the map of the trained network, while layers are drawn anew from the output down.", "layers"),
    ):
        with_curves = [entry for entry in by_label(entries) if any(f"/{key}" in name for name in entry.arrays)]
        if not with_curves:
            continue
        figure, (all_axes,) = figures.subplots(1, len(with_curves), 5.0 * len(with_curves), 3.8, sharey=True)
        for axes, entry in zip(all_axes, with_curves, strict=True):
            for name, curves in entry.arrays.items():
                if f"/{key}" in name:
                    across = np.linspace(0, 1, curves.shape[1]) if x_label.startswith("part") else np.arange(curves.shape[1])
                    axes.plot(across, np.nanmean(curves, axis=0), label=name.replace(f"/{key}", "").replace("/", ", "))
            axes.set(xlabel=x_label, title=figures.title_of(entry))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        found.append(figures.Picture(f"explanations_{key}", figure, caption))
    return found


MEASURE = Measure(
    title="Explanation metrics",
    presets={"standard": Options(images=First(200)), "paper": Options(images=PaperDraw(99, 0, 200))},
    run=run,
    columns=(
        ("map", "map"),
        ("metric", "metric"),
        ("baseline", "baseline"),
        ("better", "better"),
        ("n", "n"),
        ("value", "value"),
        ("median", "median"),
        ("95% interval", "ci95"),
    ),
    check=check,
    describe=describe,
    tables=tables,
    figures=pictures,
    reads=("seed",),
)
