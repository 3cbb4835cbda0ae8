"""Certificates: what no perturbation of a ball can do to the prediction and to the interpretation.

By bounds, for networks of convolutions, dense layers, rectifiers, sums and pooling: certified accuracy, and how far the class activation maps can
move at most, the counterpart of Proposition 1. By randomized smoothing, for any network and in l2: certified accuracy of the smoothed classifier, and
how many of the most salient positions of a smoothed map stay.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.maps import MAPS, check_k, check_maps, positions_of
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.evaluation.probes import over_images
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, mean_record, proportion_record
from experiments.runtime.errors import UserError, one_line, refuse
from experiments.runtime.names import find
from experiments.runtime.values import boolean, integer, number, several
from irob.attacks import BALLS
from irob.batches import predicted_class
from irob.certify import (
    box_around,
    certified,
    certified_overlap,
    certified_prediction,
    discrepancy_bound,
    interval_bounds,
    map_bounds,
    margin_bounds,
    noisy_counts,
    smoothed_top,
)
from irob.maps import EXPLAINERS, OwnGradients, frozen, map_of_class
from irob.paper import PaperDraw
from irob.types import Array, Image, Label, Model, Params, PRNGKey, Scalar


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """bounds, smoothing_sigma: each can be left out, by false and 0. alpha: for each image, certificates of smoothing hold with probability
    1 - alpha.
    """

    bounds: bool = option(True, boolean(), "whether bounds are computed")
    bound_maps: bool = option(True, boolean(), "whether bounds of the maps are, too, two linear bounds for each of their entries")
    smoothing_sigma: float = option(0.25, number(), "of the noise of randomized smoothing; 0: none")
    smoothing_draws: int = option(10_000, integer(100, limit=10**7), "of noise that bound the proportion of a class")
    selection_draws: int = option(100, integer(1, limit=10**7), "of noise that choose the class; ten times as many for smoothed maps")
    alpha: float = option(0.001, number(positive=True, below=1.0), "certificates of smoothing fail with at most this probability, each")
    radii: tuple[float, ...] = option((0.0, 0.25, 0.5, 1.0), several(number(), 1), "in l2, of smoothing")
    map: tuple[str, ...] = option(("saliency",), MAPS, "maps that are smoothed", in_name=True)
    k: int = option(8, integer(1, limit=10**6), "number of most salient positions of a map")


def describe(options: Options) -> str:
    """What is certified, in one sentence."""
    bounds = "linear and interval bounds (CROWN-IBP)" if options.bounds else "no bounds"
    smoothing = (
        f"smoothing with sigma {options.smoothing_sigma:g}, {options.selection_draws} + {options.smoothing_draws} draws, alpha {options.alpha:g}"
        if options.smoothing_sigma
        else "no smoothing"
    )
    top = f"top {options.k} positions of smoothed maps of the predicted class, {10 * options.selection_draws} draws"
    return f"{bounds}; {smoothing}; {top}."


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses networks without bounds, norms without them, and nothing to do."""
    refuse(not options.bounds and not options.smoothing_sigma, "nothing is to be certified: give --bounds=true or a --smoothing_sigma")
    if options.smoothing_sigma:
        check_maps(evaluation, options.map)
        check_k(evaluation, options.map, options.k)
        positions = min(positions_of(evaluation, name) for name in options.map)
        refuse(2 * options.k > positions, f"--k={options.k} must be at most half of the {positions} positions of a map")
    if options.bounds:
        refuse(evaluation.norm not in BALLS, f"bounds are known for {', '.join(BALLS)}, not for {evaluation.norm}: give --bounds=false")
        refuse(not any(eps > 0 for eps in evaluation.eps), "bounds need an eps > 0: give --eps, or --bounds=false")
        network, params = evaluation.network, evaluation.model.params
        try:
            jax.eval_shape(lambda x: interval_bounds(network.frozen(params), box_around(x, 0.1)), jnp.zeros(network.input_shape))
        except (NotImplementedError, TypeError) as error:
            raise UserError(f"{one_line(error, 300)}; give --bounds=false for smoothing alone") from error


class Bounded(NamedTuple):
    """What compiled bounds are made of."""

    norm: str
    maps: bool


class SmoothedMap(NamedTuple):
    """What a compiled smoothing is made of. map: "" for the prediction alone."""

    selection: int
    draws: int
    map: str = ""
    top: int = 1


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Certified accuracy and bounds of the discrepancy at each eps; certificates of smoothing at each radius."""
    indices = evaluation.indices(options.images)
    arrays: dict[str, np.ndarray] = {"indices": indices, "labels": evaluation.split.labels[indices]}
    records = of_bounds(evaluation, options, indices, arrays) if options.bounds else []
    if options.smoothing_sigma:
        records += of_smoothing(evaluation, options, indices, arrays)
    return Measured(records, arrays)


def of_bounds(evaluation: Evaluation, options: Options, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> list[Record]:
    """Records of certified accuracy and of the discrepancy, and arrays of both."""
    network, records = evaluation.network, []
    has_maps = (
        options.bound_maps and jax.eval_shape(network.frozen(evaluation.model.params), jnp.zeros(network.input_shape)).maps is not None
    )
    spec = Bounded(evaluation.norm, has_maps)
    for eps in evaluation.eps:
        shared = (evaluation.random_key(0), np.float32(eps))
        found = evaluation.map_examples(f"bounds, eps {eps:g}", bounds_check, spec, shared, indices)
        at = {"norm": evaluation.norm, "eps": eps}
        records += [proportion_record("certified_accuracy", found[by], **at, by=by) for by in ("interval", "bounds")]
        if has_maps:
            records.append(proportion_record("certified_accuracy", found["interpretation"], **at, by="interpretation"))
            records.append(mean_record("discrepancy_bound", found["two_class"], **at, by="bounds", classes="two_class"))
        arrays |= {f"eps {eps:g}/{key}": value for key, value in found.items()}
    return records


def of_smoothing(evaluation: Evaluation, options: Options, indices: np.ndarray, arrays: dict[str, np.ndarray]) -> list[Record]:
    """Records of the smoothed classifier and of smoothed maps, and arrays of both."""
    labels, sigma = evaluation.split.labels[indices], options.smoothing_sigma
    shared = (evaluation.random_key(1), np.float32(sigma))
    spec = SmoothedMap(options.selection_draws, options.smoothing_draws)
    found = evaluation.map_examples(f"smoothing, sigma {sigma:g}", counts_check, spec, shared, indices)
    smoothed = [certified_prediction(a, b, sigma, options.alpha) for a, b in zip(found["first"], found["second"], strict=True)]
    predictions, radii = np.array([each.prediction for each in smoothed]), np.array([each.radius for each in smoothed])
    how = {"sigma": sigma, "draws": options.smoothing_draws, "by": "smoothing", "norm": "l2"}
    records = [proportion_record("smoothed_accuracy", np.argmax(found["second"], axis=1) == labels, **how)]
    records += [proportion_record("certified_accuracy", (predictions == labels) & (radii >= r), eps=r, **how) for r in options.radii]
    arrays |= {"smoothed_predictions": predictions, "smoothed_radii": radii}
    for name in options.map:
        of_map = SmoothedMap(options.selection_draws, options.selection_draws * 10, name, options.k)
        means = evaluation.map_examples(f"smoothed {name}, sigma {sigma:g}", top_check, of_map, shared, indices)["means"]
        bound = functools.partial(certified_overlap, k=options.k, sigma=sigma, draws=of_map.draws, alpha=options.alpha)
        for r in options.radii:
            kept = np.array([bound(each, radius=r) for each in means]) / options.k
            records.append(mean_record("certified_overlap", kept, eps=r, map=name, k=options.k, **{**how, "draws": of_map.draws}))
    return records


@functools.lru_cache
def bounds_check(network: Model, spec: Bounded) -> Check:
    """Pmapped `((params, key data, eps), images, labels, indices) -> whether the label is certified: by intervals, bounds, interpretation`."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar) -> dict[str, Any]:
        ball, explain = find(BALLS, spec.norm, "norm")(eps), network.frozen(params)
        clean, logits = explain(x), interval_bounds(explain, box_around(x, eps)).logits
        margins = margin_bounds(explain, ball, x, label)
        found = {
            "interval": certified(logits.lower[label] - logits.upper, label),
            "bounds": certified(margins, label),
            "margin": jnp.min(jnp.where(jnp.arange(len(margins)) == label, jnp.inf, margins)),
        }
        if not spec.maps:
            return found
        moved = discrepancy_bound(clean.maps, map_bounds(explain, ball, x), clean.logits, label)
        return {**found, "interpretation": moved.certified, "two_class": moved.two_class, "by_class": moved.by_class}

    return over_images(one)


@functools.lru_cache
def counts_check(network: Model, spec: SmoothedMap) -> Check:
    """Pmapped `((params, key data, sigma), images, labels, indices) -> first, second`: counts of classes, `[C]`."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, sigma: Scalar) -> dict[str, Any]:
        explain = network.frozen(params)
        keys = dict(zip(("first", "second"), jax.random.split(key), strict=True))
        draws = {"first": spec.selection, "second": spec.draws}
        return {name: noisy_counts(lambda z: explain(z).logits, x, k, sigma=sigma, draws=draws[name]) for name, k in keys.items()}

    return over_images(one)


@functools.lru_cache
def top_check(network: Model, spec: SmoothedMap) -> Check:
    """Pmapped `((params, key data, sigma), images, labels, indices) -> means`: how often each position is among the most salient, `[n]`."""
    row, own = find(EXPLAINERS, spec.map, "map"), OwnGradients(network)

    def one(params: Params, x: Image, label: Label, key: PRNGKey, sigma: Scalar) -> dict[str, Any]:
        explain = network.frozen(params)

        def summed(z: Image) -> Array:  # of the class that is predicted there, which is part of what is smoothed
            predicted = jnp.maximum(predicted_class(explain(z).logits), 0)
            return jnp.abs(jnp.sum(map_of_class(row, own, frozen(params), predicted)(z), axis=-1))

        return {"means": smoothed_top(summed, x, key, sigma=sigma, draws=spec.draws, top=spec.top)}

    return over_images(one)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Certified accuracy against eps, a curve for each way to certify."""

    def curves(entry: Entry) -> list[figures.Curve]:
        by = dict.fromkeys(record["by"] for record in entry.records("certified_accuracy"))
        return [figures.curve_of(f"{entry.label}, {name}", entry.records("certified_accuracy", by=name)) for name in by]

    figure = figures.curves_against_eps(figures.panels_by_protocol(entries, curves), "certified accuracy", (0.0, 1.0), "network, by")
    caption = (
        "Accuracy that no perturbation can take: by interval bounds, by linear and interval bounds, by the bound of the discrepancy and"
    )
    return [figures.Picture("certified_accuracy", figure, f"{caption} Proposition 1, by smoothing (in l2, of the smoothed classifier).")]


MEASURE = Measure(
    title="Certificates",
    presets={"standard": Options(images=First(200)), "paper": Options(images=PaperDraw(99, 0, 200))},
    run=run,
    columns=(
        *(("metric", "metric"), ("by", "by"), ("map", "map"), ("norm", "norm"), ("eps", "eps"), ("n", "n")),
        *(("value", "value"), ("95% interval", "ci95")),
    ),
    check=check,
    describe=describe,
    figures=pictures,
)
