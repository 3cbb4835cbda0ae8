"""Attacks on the explanation: every published way to change a map while the prediction stays, or to keep it while the prediction changes.

Each ascends the map of the predicted class, on the pixels that of a softplus network, and is judged by the network's own map: how alike clean and
attacked map are, or for `manipulation` how alike the attacked map is to the one that it copies, that of another image. `joint` leads to the class
with the second largest logit, whose map at x' is to look like the clean map of the class of x.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.attacks import check_perturbations, perturbation
from experiments.evaluation.engine import Check, Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.maps import MAPS, check_betas, check_k, check_maps
from experiments.evaluation.measure import Measure, Measured
from experiments.evaluation.options import MeasureOptions, option
from experiments.evaluation.probes import over_images
from experiments.reports import figures
from experiments.reports.entries import Entry, by_label
from experiments.reports.records import Record, mean_record, proportion_record, without_gradient
from experiments.reports.tables import Table, cells, coverage, value_text
from experiments.runtime.errors import refuse
from experiments.runtime.names import find
from experiments.runtime.values import distinct, integer, row_of, several
from irob.attacks import BALLS, MAP_ATTACKS, PGD, AttackResult, Given, keeps, map_attack
from irob.attacks.ensembles import runner_up
from irob.maps import BETAS, EXPLAINERS, OwnGradients, Smoother, frozen, heatmap, map_of_class
from irob.paper import PaperDraw
from irob.similarities import cosine, kendall_tau, spearman, ssim, top_k_overlap
from irob.types import Array, Explanation, Image, Label, Maps, Model, Params, PRNGKey, Scalar

SHOWN = 4  # images of the figure


@dataclasses.dataclass(frozen=True)
class Options(MeasureOptions):
    """Which maps are attacked, how."""

    map: tuple[str, ...] = option(("cam", "saliency", "integrated_gradients"), MAPS, "maps that are attacked", in_name=True)
    map_attacks: tuple[str, ...] = option(tuple(MAP_ATTACKS), distinct(several(row_of(MAP_ATTACKS, "attack"), 1)), "what is done to them")
    k: int = option(8, integer(1, limit=10**6), "number of most salient positions of a map")
    restarts: int = option(3, integer(1, limit=10**6), "of the attack; on the pixels each ascends another softplus network")
    num_steps: int = option(100, integer(1, limit=10**6), "steps of each restart")


def describe(options: Options) -> str:
    """What the attacks do, in one sentence."""
    plural, betas = "s" if options.restarts > 1 else "", ", ".join(f"{beta:g}" for beta in BETAS[: options.restarts])
    return (
        f"PGD, {options.restarts} restart{plural} of {options.num_steps} steps, on the map of the predicted class, among the points where the"
        f" prediction is kept (`joint`: is the class with the second largest logit); on the pixels softplus with beta {betas} in turn; top"
        f" {options.k} positions; `manipulation` copies the map of the next image."
    )


def check(evaluation: Evaluation, options: Options) -> None:
    """Refuses maps without classes, k beyond the positions of a map, and a ladder without a positive eps."""
    check_maps(evaluation, options.map)
    check_betas(evaluation, options.map, BETAS[: options.restarts])
    check_k(evaluation, options.map, options.k)
    alone = len(evaluation.indices(options.images)) < 2 and "manipulation" in options.map_attacks
    refuse(alone, "manipulation copies the map of the next image: it needs two images")
    refuse(not any(eps > 0 for eps in evaluation.eps), "the measure map_attacks needs an eps > 0: give --eps")


class AttackOnMap(NamedTuple):
    """What compiled attacks are made of: one program for all attacks on a map, told apart by their number."""

    norm: str
    map: str
    attacks: tuple[str, ...] = ()
    k: int = 1
    num_steps: int = 1
    beta: float = BETAS[0]


def run(evaluation: Evaluation, options: Options) -> Measured:
    """Similarities under every attack, at every positive eps; and the first images with their maps."""
    indices = evaluation.indices(options.images)
    records: list[Record] = []
    arrays: dict[str, np.ndarray] = {"indices": indices, "images": evaluation.split.fetch(indices[:SHOWN])[0]}
    for name in options.map:
        specs = [
            AttackOnMap(evaluation.norm, name, options.map_attacks, options.k, options.num_steps, beta)
            for beta in (BETAS if find(EXPLAINERS, name, "map").gradients else BETAS[:1])[: options.restarts]
        ]
        cleans = [
            evaluation.map_examples(f"clean {name}, {spec.beta:g}", clean_maps_check, spec, (evaluation.random_key(0),), indices)
            for spec in specs
        ]
        clean, other = cleans[0], [tuple(np.roll(found[key], -1, axis=0) for key in ("ascended", "map")) for found in cleans]
        for attack in options.map_attacks:
            for eps in (eps for eps in evaluation.eps if eps > 0):
                found = best_of_restarts(evaluation, options, attack, eps, indices, list(zip(specs, other, strict=True)))
                records += similarity_records(found, norm=evaluation.norm, map=name, attack=attack, eps=eps, k=options.k)
                arrays |= {f"{name}/{attack}/eps {eps:g}/{key}": found[key] for key in (*SIMILARITIES, "fulfilled", "shown")}
                arrays[f"{name}/{attack}/eps {eps:g}/maps"] = found["maps"][:SHOWN]
        arrays |= {f"{name}/clean": clean["map"][:SHOWN], f"{name}/copied": other[0][1][:SHOWN]}
    return Measured(records, arrays)


def similarity_records(found: dict[str, np.ndarray], **which: Any) -> list[Record]:
    """The proportion of images whose prediction is as demanded, and over these the mean of each similarity."""
    fulfilled = found["fulfilled"]
    hidden = without_gradient(int(np.sum(found["useless"] & fulfilled)))
    versus = "copied" if find(MAP_ATTACKS, which["attack"], "attack").to_other else "clean"
    similar = [mean_record(name, found[name][fulfilled], **which, versus=versus, **hidden) for name in SIMILARITIES]
    return [proportion_record("fulfilled", fulfilled, **which), *similar]


def best_of_restarts(
    evaluation: Evaluation,
    options: Options,
    attack: str,
    eps: float,
    indices: np.ndarray,
    ways: list[tuple[AttackOnMap, tuple[np.ndarray, ...]]],
) -> dict[str, np.ndarray]:
    """The best of the restarts, by the score of the attack, for each image. ways: what is ascended, with the maps to copy; taken in turn."""
    best: dict[str, np.ndarray] = {}
    number = np.int32(options.map_attacks.index(attack))
    for restart in range(options.restarts):
        spec, other = ways[restart % len(ways)]
        shared = (evaluation.random_key(zlib.crc32(b"map_attacks"), restart), np.float32(eps), number)
        label = f"{attack} on {spec.map}, restart {restart}, eps {eps:g}"
        found = evaluation.map_examples(label, attack_check, spec, shared, indices, *other)
        check_perturbations(found, eps, evaluation.norm, f"damage of {attack}", finite=False)
        better = found["score"] > best["score"] if best else np.ones(len(indices), bool)
        best = {
            key: np.where(better.reshape(-1, *(1,) * (value.ndim - 1)), value, best.get(key, value)) for key, value in found.items()
        } | {"useless": found["useless"] & best.get("useless", True)}
    return best


SIMILARITIES: dict[str, Callable[[Maps, Maps, int], Scalar]] = {
    "kendall_tau": lambda a, b, k: kendall_tau(a, b),
    "spearman": lambda a, b, k: spearman(a, b),
    "top_k_overlap": lambda a, b, k: top_k_overlap(a, b, k)[0],
    "cosine": lambda a, b, k: cosine(a, b),
    "ssim": lambda a, b, k: structure(*(jnp.abs(m[..., 0]) / jnp.max(jnp.abs(m)) for m in (a, b))),
}


def structure(a: Array, b: Array) -> Any:
    """SSIM of two maps `[h, w]` in [0, 1], in windows of side 7, or what is odd and fits; NaN where not even 3 does."""
    side = min(7, *a.shape)
    return ssim(a, b, window=side - 1 + side % 2, data_range=1.0) if side >= 3 else jnp.nan


def forms(network: Model, params: Params, spec: AttackOnMap, label: Label) -> tuple[Any, Any]:
    """`x -> Explanation` of one class, the map `[h, w, 1]` summed over channels: the one that is ascended, and the network's own."""
    row, explain = find(EXPLAINERS, spec.map, "map"), network.frozen(params)
    maps = [map_of_class(row, model, frozen(params), label) for model in (Smoother(network, spec.beta), OwnGradients(network))]

    def of(attribute: Any) -> Any:
        return lambda x: Explanation(jnp.sum(attribute(x), axis=-1, keepdims=True), explain(x).logits)

    return of(maps[0]), of(maps[1])


@functools.lru_cache
def clean_maps_check(network: Model, spec: AttackOnMap) -> Check:
    """Pmapped `((params, key data), images, labels, indices) -> map, ascended`: both maps of the predicted class, `[h, w, 1]`."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey) -> dict[str, Any]:
        ascended, own = forms(network, params, spec, jnp.argmax(network.frozen(params)(x).logits))
        return {"map": own(x).maps, "ascended": ascended(x).maps}

    return over_images(one)


@functools.lru_cache
def attack_check(network: Model, spec: AttackOnMap) -> Check:
    """Pmapped `((params, key data, eps, number), images, labels, indices, ascended map to copy, map to copy) -> similarities and the attack`."""
    rows, ball_of = [find(MAP_ATTACKS, name, "attack") for name in spec.attacks], find(BALLS, spec.norm, "norm")
    copies, of_target = (np.array([getattr(row, field) for row in rows]) for field in ("to_other", "of_target"))

    def one(
        params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar, number: Array, copied: Array, own_copied: Array
    ) -> dict[str, Any]:
        logits, ball = network.frozen(params)(x).logits, ball_of(eps)
        predicted = jnp.argmax(logits)
        shown = jnp.where(jnp.asarray(of_target)[number], runner_up(logits, predicted, jnp.int32(0)), predicted)
        ascended, own = forms(network, params, spec, shown)
        clean, own_clean = (form(x).maps for form in forms(network, params, spec, predicted))
        given, own_given = Given(clean, copied, spec.k, ranked=own_clean), Given(own_clean, own_copied, spec.k)

        def damage(given: Given, maps: Maps) -> Scalar:
            return jax.lax.switch(number, [row.damage(given) for row in rows], maps)

        must = keeps(shown)
        result: AttackResult = map_attack(
            ascended,
            functools.partial(damage, given),
            lambda objective: PGD()(objective, ball, x, key=key, num_steps=spec.num_steps),
            must,
            judged=lambda z: damage(own_given, own(z).maps),
        )
        x_adv = jnp.where(result.score > -jnp.inf, result.x_adv, x)
        moved = own(x_adv)
        fulfilled = (result.score > -jnp.inf) & (must(moved.logits) < 0.0)
        reference = jnp.where(jnp.asarray(copies)[number], own_copied, own_given.maps)
        similar = {name: similarity(reference, moved.maps, spec.k) for name, similarity in SIMILARITIES.items()}
        seen = perturbation(ball, x, AttackResult(x_adv, result.score, result.gradients))
        return {
            **similar,
            **seen,
            "shown": shown,
            "fulfilled": fulfilled,
            "score": jnp.where(fulfilled, result.score, -jnp.inf),
            "maps": moved.maps,
        }

    return over_images(one)


# --- report ---------------------------------------------------------------------------------------------------------------------------------


def tables(title: str, entries: Sequence[Entry]) -> list[Table]:
    """A row for each network, map, attack and eps; the similarities side by side."""
    rows = []
    for entry in by_label(entries):
        for record in entry.records("fulfilled"):
            which = {field: record[field] for field in ("map", "attack", "eps", "norm", "k")}
            similar = [entry.records(name, **which) for name in SIMILARITIES]
            shown = [value_text(found[0]) if found else "" for found in similar]
            versus = similar[0][0]["versus"] if similar[0] else ""
            texts = [
                entry.label,
                entry.protocol,
                record["map"],
                record["attack"],
                f"{record['eps']:.4g}",
                f"{record.value:.3f}",
                versus,
                *shown,
            ]
            rows.append(cells(texts))
    header = ["network", "protocol", "map", "attack", "eps", "fulfilled", "versus", *(name.replace("_", " ") for name in SIMILARITIES)]
    notes = [
        "Similarity of the clean and the attacked map (`manipulation`: of the attacked map and the one copied), 95% interval, over the images whose"
        " prediction is as the attack demands (`fulfilled`) and whose map is not"
        " constant (n in the records). Attacks lower it, `manipulation` and `joint` raise it.",
        *coverage(entries),
    ]
    return [Table("map_attacks", title, header, rows, notes)]


def pictures(entries: Sequence[Entry], classes: Sequence[str]) -> list[figures.Picture]:
    """Image, clean map, map that was copied, maps that attacks reached at the largest eps: the first images, for each network and map."""
    found = []
    for entry in by_label(entries):
        images = entry.arrays.get("images")
        maps = [name.removesuffix("/clean") for name in entry.arrays if name.endswith("/clean")]
        if images is None or not maps:
            continue
        for name in maps:
            eps = max(record["eps"] for record in entry.records("fulfilled", map=name))
            reached = [record["attack"] for record in entry.records("fulfilled", map=name, eps=eps)]
            columns = {"clean map": "clean", "copied": "copied", **{attack: f"{attack}/eps {eps:g}/maps" for attack in reached}}
            figure, all_axes = figures.subplots(len(images), 1 + len(columns), 1.5 * (1 + len(columns)), 1.6 * len(images))
            for i, (image, axes) in enumerate(zip(images, all_axes, strict=True)):
                figures.show_image(axes[0], image / 255.0)
                for axis, (heading, key) in zip(axes[1:], columns.items(), strict=True):
                    axis.imshow(heatmap(entry.arrays[f"{name}/{key}"][i]), cmap="seismic", vmin=-1, vmax=1)
                    axis.set_title(heading if i == 0 else "", fontsize=8)
            figures.bare(all_axes)
            caption = f"{figures.title_of(entry)}, {name}: maps of the predicted class, and what attacks made of them at eps {eps:.4g}."
            found.append(figures.Picture(f"map_attacks_{figures.slug_of(entry)}_{name}", figure, caption))
    return found


MEASURE = Measure(
    title="Attacks on the explanation",
    presets={"standard": Options(images=First(200)), "paper": Options(images=PaperDraw(99, 0, 200))},
    run=run,
    columns=(
        *(("map", "map"), ("attack", "attack"), ("eps", "eps"), ("metric", "metric"), ("versus", "versus"), ("n", "n")),
        *(("value", "value"), ("95% interval", "ci95")),
    ),
    check=check,
    describe=describe,
    tables=tables,
    figures=pictures,
)
