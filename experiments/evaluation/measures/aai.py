"""Kendall's tau of the true class's map, clean and under the top-k attack against interpretation (AAI)."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.attacks import ATTACKS, check_perturbations, clean_predictions, or_nan, perturbation
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.maps import MAPS, check_k, check_maps
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.reports import figures
from experiments.reports.entries import Entry
from experiments.reports.records import Record, mean_record, without_gradient
from experiments.reports.tables import Table, eps_table
from experiments.runtime import devices
from experiments.runtime.names import find
from experiments.runtime.values import boolean, integer, row_of
from irob.attacks import BALLS, AttackResult, top_k_map_attack
from irob.batches import predicted_class
from irob.maps import EXPLAINERS, differentiable, explainer, frozen
from irob.paper import PaperDraw
from irob.similarities import kendall_tau
from irob.types import Array, Image, Label, Model, Params, Scalar


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """keep_prediction: see `top_k_map_attack`. nested: the lowest tau of all smaller eps and restarts counts."""

    map: tuple[str, ...] = option(("cam",), MAPS, "maps that are attacked", in_name=True)
    k: int = option(8, integer(1, limit=10**6), "number of most salient positions of a map")
    attack: str = option("pgd", row_of(ATTACKS, "attack"), "how an objective is ascended", in_name=True)
    restarts: int = option(5, integer(1, limit=10**6), "of the attack")
    num_steps: int = option(150, integer(1, limit=10**6), "steps of each restart")
    keep_prediction: bool = option(True, boolean(), "the attack keeps the prediction, otherwise images that lose it are left out")
    nested: bool = option(True, boolean(), "what was found at a smaller eps counts at every larger one")


def describe(options: Options) -> str:
    """What the attack does, in one sentence."""
    kept = "prediction kept" if options.keep_prediction else "prediction free"
    over = [*(["restarts"] if options.restarts > 1 else []), *(["smaller eps"] if options.nested else [])]
    lowest = f", lowest tau over {' and '.join(over)}" if over else ""
    plural = "s" if options.restarts > 1 else ""
    return f"{options.attack}, top {options.k} positions, {options.restarts} restart{plural}, {options.num_steps} steps; {kept}{lowest}."


class TopKAttack(NamedTuple):
    """What a compiled attack is made of."""

    norm: str
    map: str
    attack: str
    k: int
    num_steps: int
    keep_prediction: bool


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses k beyond the positions of a map."""
    check_maps(evaluation, options.map)
    check_k(evaluation, options.map, options.k)


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Tau at every eps over three sets of images: prediction unchanged, all, still correct; for each map."""
    by_map = [of_map(evaluation, options, name) for name in options.map]
    arrays = {key: value for measured in by_map for key, value in measured.arrays.items()}
    return Measured([record for measured in by_map for record in measured.records], arrays)


def of_map(evaluation: Evaluation, options: Options, name: str) -> Measured:
    """The same for one map."""
    indices = evaluation.indices(options.images)
    labels, clean = evaluation.split.labels[indices], clean_predictions(evaluation, indices)
    tau = evaluation.map_examples(f"clean tau of {name}", clean_tau_check, name, (), indices)["tau"]
    predictions, taus, all_predictions = clean, [], []
    records: list[Record] = []
    for eps in evaluation.eps:
        useless = np.full(len(labels), eps > 0)
        if eps > 0:
            for restart in range(options.restarts):
                found = attacked(evaluation, options, name, restart, eps, indices)
                useless &= found["useless"]
                better = (found["tau"] < tau) | (restart == 0 and not options.nested)
                tau, predictions = np.where(better, found["tau"], tau), np.where(better, found["predictions"], predictions)
        taus.append(tau)
        all_predictions.append(predictions)
        sets = {"unchanged": (predictions == clean) & (clean >= 0), "all": np.full(len(labels), True), "correct": predictions == labels}
        how = {"norm": evaluation.norm, "eps": eps, "k": options.k, "steps": options.num_steps, "restarts": options.restarts}
        for over, members in sets.items():
            hidden = without_gradient(int(np.sum(useless & members & np.isfinite(tau))))
            records.append(mean_record("kendall_tau", tau[members], attack="aai", map=name, over=over, **how, **hidden))
    arrays = {"indices": indices, "labels": labels, "clean_predictions": clean, "eps": np.array(evaluation.eps)}
    return Measured(records, {**arrays, f"{name}/taus": np.stack(taus), f"{name}/predictions": np.stack(all_predictions)})


def attacked(evaluation: Evaluation, options: Options, name: str, restart: int, eps: float, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Tau and predictions of images under one restart, `[n]`."""
    noise = options.images.noise(len(evaluation.split.labels), evaluation.network.num_classes, evaluation.network.input_shape)
    attempt = TopKAttack(evaluation.norm, name, options.attack, options.k, options.num_steps, options.keep_prediction)
    shared = (np.float32(eps), evaluation.random_key(zlib.crc32(b"aai"), restart))
    label = f"aai {name}, k {options.k}, restart {restart}, eps {eps:.9g}"
    found = evaluation.map_examples(label, top_k_attack_check, attempt, shared, indices, *(() if noise is None else (noise,)))
    check_perturbations(found, eps, evaluation.norm, "sum of the top-k positions")
    return found


@functools.lru_cache
def clean_tau_check(network: Model, name: str) -> Check:
    """Pmapped `((params,), images, labels, indices) -> tau` of the true class's map with itself: 1, or NaN where it is constant or not finite."""
    row = find(EXPLAINERS, name, "map")

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        def one(x: Image, label: Label) -> Scalar:
            of_label = explainer(row, network, differentiable(shared[0]), jnp.asarray(label)[None])(x).maps
            return jnp.where(jnp.all(jnp.isfinite(of_label)), kendall_tau(of_label, of_label), jnp.nan)

        return {"tau": jax.vmap(one)(to_unit(images), labels)}

    return devices.pmap_full_precision(check)


@functools.lru_cache
def top_k_attack_check(network: Model, attempt: TopKAttack) -> Check:
    """Pmapped `((params, eps, key data), images, labels, indices[, noise]) -> tau, predictions, distance, inside, useless`."""
    row, attack = find(EXPLAINERS, attempt.map, "map"), find(ATTACKS, attempt.attack, "attack")
    ball_of = find(BALLS, attempt.norm, "norm")

    def check(
        shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array, noise: Array | None = None
    ) -> dict[str, Any]:
        params, eps, key_data = shared
        key, ball = jax.random.wrap_key_data(jnp.asarray(key_data)), ball_of(eps)

        def one(x: Image, label: Label, index: Array, noise: Image | None) -> dict[str, Any]:
            plain, in_loop = (explainer(row, network, form(params), jnp.asarray(label)[None]) for form in (differentiable, frozen))
            clean = plain(x)
            start = None if noise is None else jnp.clip(x + eps * noise, 0.0, 1.0)
            seen: list[AttackResult] = []

            def ascend(objective: Any) -> AttackResult:
                own = jax.random.fold_in(key, index)
                seen.append(or_nan(attack(objective, ball, x, key=own, num_steps=attempt.num_steps, start=start)))
                return seen[-1]

            kept = jnp.argmax(clean.logits) if attempt.keep_prediction else None
            x_adv = top_k_map_attack(in_loop, x, jnp.zeros_like(label), attempt.k, ascend, kept)  # the label's map is the only one
            moved = plain(x_adv)
            tau = kendall_tau(clean.maps, moved.maps)
            found = AttackResult(x_adv, 0.0)  # a map that is not finite has no tau: no attack is wanted of it
            how = {**perturbation(ball, x, found), "useless": seen[-1].gradients.useless()}
            return {"tau": tau, "predictions": predicted_class(moved.logits), **how}

        return jax.vmap(one, in_axes=(0, 0, 0, None if noise is None else 0))(to_unit(images), labels, indices, noise)

    return devices.pmap_full_precision(check)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


PRINTED_COLUMNS = (("map", "map"), ("eps", "eps"), ("over", "over"), ("n", "n"), ("tau", "value"), ("95% interval", "ci95"))
REPORT_COLUMNS = (("map", "map"), ("norm", "norm"), ("k", "k"), ("over", "over"))  # and one for each eps


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """Networks x eps: Kendall's tau."""
    notes = [
        "Mean rank correlation of clean and attacked map, 95% interval, n images counted. `unchanged`: images whose prediction the attack left"
        " unchanged (what the paper reports); `correct`: images still classified correctly; `all`: every image.",
        "`paper` leaves out images whose prediction changes, so few may remain: look at n. `standard` keeps the prediction by construction and counts"
        " the lowest tau over restarts and smaller eps: use it for conclusions.",
    ]
    return [eps_table("kendall_tau", title, REPORT_COLUMNS, entries, "kendall_tau", notes=notes, with_n=True)]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Tau against eps, over images with unchanged prediction."""

    def curves(entry: Entry) -> list[figures.Curve]:
        records = entry.records("kendall_tau", over="unchanged")
        by_map = {name: [record for record in records if record["map"] == name] for name in dict.fromkeys(r["map"] for r in records)}
        return [figures.curve_of(entry.label if name == "cam" else f"{entry.label}, {name}", found) for name, found in by_map.items()]

    panels = figures.panels_by_protocol(entries, curves)
    caption = "Kendall's tau of clean and attacked map under the top-k attack, over images with unchanged prediction, 95% bands."
    return figures.against_eps("tau_against_eps", caption, panels, "Kendall's tau", (-1.02, 1.02))


MEASURE = Measure(
    title="Kendall's tau of the true class's map under the top-k attack",
    presets={
        "standard": Options(),
        "paper": Options(images=PaperDraw(99, 0, 200), attack="paper_pgd", restarts=1, num_steps=200, keep_prediction=False, nested=False),
    },
    run=run,
    columns=PRINTED_COLUMNS,
    describe=describe,
    check=check,
    tables=tables,
    figures=pictures,
)
