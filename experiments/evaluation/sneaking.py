"""The sneaking attack, as the measures `bound`, `isa` and `tradeoff` share it.

All begin with the smallest perturbation that changes the prediction, of radius eps_min for each image. Under `paper` the class to reach is drawn;
under `standard` it is the first one reached, and images that are misclassified without attack do not count. From there the sneaking attack has
budgets eps = p eps_min and reduces one discrepancy D while it keeps the class reached.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.attacks import check_perturbations, clean_predictions
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.examples import First
from experiments.evaluation.maps import MAPS, check_maps
from experiments.evaluation.options import MeasureOptions, option
from experiments.evaluation.sneaking_checks import (
    DiscrepancyCheck,
    MinimalAttack,
    SneakingAttack,
    discrepancy_check,
    minimal_check,
    sneaking_check,
)
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find
from experiments.runtime.values import Kind, distinct, integer, number, row_of, several
from irob.discrepancies import NORMS
from irob.maps import EXPLAINERS
from irob.paper import PaperDraw

# Which classes' maps count, `[n, m]`, each with weight 1/m, of images with these labels and targets.
CLASS_SETS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "one_class": lambda labels, targets, count: labels[:, None],
    "two_class": lambda labels, targets, count: np.stack([labels, targets], axis=1),
    "all_class": lambda labels, targets, count: np.broadcast_to(np.arange(count), (len(labels), count)),
}


class DiscrepancySpec(NamedTuple):
    """One discrepancy: which map (of `EXPLAINERS`), which classes of it (of `CLASS_SETS`), which norm (of `NORMS`)."""

    map: str
    classes: str
    norm: str

    @property
    def name(self) -> str:
        """The name of its arrays."""
        return ".".join(self)


def _budgets() -> Kind:
    kind = several(number(positive=True), 1)

    def check(values: Any) -> tuple[float, ...]:
        if not all(value > 1 for value in kind.check(values)):
            raise ValueError("multiples of the smallest eps, each larger than 1")
        if list(values) != sorted(set(values)):
            raise ValueError("must ascend")
        return kind.check(values)

    return Kind(lambda text: check(kind.read(text)), check)


@dataclasses.dataclass(frozen=True)
class SneakingOptions(MeasureOptions):
    """How the smallest perturbation and the sneaking attack are made.

    step_sizes, best_iterate: of both attacks.
    warm_start: the attack starts from the smallest perturbation, a larger budget from what a smaller one found; otherwise from the image.
    clip_gain: steps along clip(gain / n * gradient) as the authors take them, otherwise along the sign.
    eps_start, eps_rounds: of the bisection of eps; the start is a share of the box's diameter.
    weight_start, weight_limit, weight_rounds: of the bisection of the weight.
    keep: which trial is kept.
    on_logit_scale: D is measured on the scale of the logits while attacking, otherwise on raw maps.
    ascended_norms: (norm of D, norm that is ascended for it), where they differ.
    """

    budgets: tuple[float, ...] = option((1.5, 2.0, 3.0, 4.0), _budgets(), "multiples of the smallest eps that changes the prediction")
    num_steps: int = option(60, integer(1, limit=10**6), "steps of each attack")
    step_sizes: str = "0.2, 0.06, 0.02 eps"
    best_iterate: bool = True
    warm_start: bool = True
    clip_gain: float | None = None
    eps_start: float = 0.01
    eps_rounds: int = 14
    weight_start: float = 1.0
    weight_limit: float = 2.0**10
    weight_rounds: int = 10
    keep: str = "smallest discrepancy"
    on_logit_scale: bool = True
    ascended_norms: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class DiscrepancyOptions(SneakingOptions):
    """Which discrepancies are attacked, each on its own: maps x sets of classes x norms."""

    map: tuple[str, ...] = option(("cam",), MAPS, "maps whose discrepancies are attacked", in_name=True)
    discrepancy_classes: tuple[str, ...] = option(
        tuple(CLASS_SETS), distinct(several(row_of(CLASS_SETS, "set of classes"), 1)), "which classes' maps count", in_name=True
    )
    discrepancy_norms: tuple[str, ...] = option(
        ("l1", "l2"), distinct(several(row_of(NORMS, "norm of maps"), 1)), "norms of maps", in_name=True
    )


def paper_options(options: Any, images: PaperDraw) -> Any:
    """Options as the authors have them: 10 steps of 0.2 eps clip(1000 g, -1, 1) from the image, g of the mean over the images, last iterate."""
    return dataclasses.replace(
        options,
        images=images,
        num_steps=10,
        step_sizes="0.2 eps",
        best_iterate=False,
        warm_start=False,
        clip_gain=1000.0,
        eps_start=0.05,
        eps_rounds=10,
        weight_start=5e-5,
        weight_limit=1.0,
        keep="largest weight",
        on_logit_scale=False,
        ascended_norms=(("l2", "squared_l2"),),
    )


def describe(options: SneakingOptions) -> str:
    """What the attacks do, in one sentence."""
    start = "the smallest attack" if options.warm_start else "the image"
    iterate = "best iterate" if options.best_iterate else "last iterate"
    gain = f" of clip({options.clip_gain:g} g)" if options.clip_gain else ""
    return (
        f"Sneaking attack: {options.num_steps} steps of {options.step_sizes}{gain} from {start}, {iterate}; {options.keep} of all weights."
    )


def check(evaluation: Evaluation, options: SneakingOptions) -> None:
    """Refuses maps that the network does not have, and steps that its norm does not have."""
    check_maps(evaluation, getattr(options, "map", ("cam",)), of_classes=False)
    refuse(options.clip_gain is not None and evaluation.norm != "linf", "steps along the clipped gradient are for the linf norm")


def specs(options: DiscrepancyOptions) -> list[DiscrepancySpec]:
    """Every discrepancy. A representation has units for classes, all of which count."""

    def classes(name: str) -> tuple[str, ...]:
        return options.discrepancy_classes if find(EXPLAINERS, name, "map").by_class else ("all_class",)

    return [DiscrepancySpec(name, of, norm) for name in options.map for of in classes(name) for norm in options.discrepancy_norms]


# --- the attacks ----------------------------------------------------------------------------------------------------------------------------


class Attacked(NamedTuple):
    """Images under the smallest perturbation, `[n, ...]`: how they were chosen, and what was found."""

    indices: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    eps: np.ndarray
    found: np.ndarray
    x_adv: np.ndarray


def minimal_attack(evaluation: Evaluation, options: SneakingOptions) -> Attacked:
    """The smallest successful perturbation of each image. Measures with the same options share it."""
    indices, offsets = evaluation.indices(options.images), evaluation.target_offsets(options.images)
    labels, count = evaluation.split.labels[indices], evaluation.network.num_classes
    targets = (labels + (0 if offsets is None else offsets.astype(np.int32))) % count
    if offsets is None:
        correct = clean_predictions(evaluation, indices) == labels
        indices, labels, targets = indices[correct], labels[correct], targets[correct]
    if not len(indices):
        raise UserError("the network classifies none of the chosen images correctly: there is nothing to attack")
    spec = MinimalAttack(evaluation.norm, sneaking_settings(options), gain_per_image(options, len(indices)), offsets is not None)
    shared = (evaluation.random_key(),)
    found = evaluation.map_examples("minimal attack", minimal_check, spec, shared, indices, targets.astype(np.int32))
    check_perturbations(found, found["eps"], evaluation.norm, "margin")
    return Attacked(indices, labels, found["target"], found["eps"], found["found"], found["x_adv"])


def sneaking_settings(options: SneakingOptions) -> SneakingOptions:
    """The options without the choice of images, budgets and discrepancies, which do not change one attack on one image."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(SneakingOptions)}
    return SneakingOptions(**fields | {"images": First(), "budgets": ()})


def gain_per_image(options: SneakingOptions, n: int) -> float | None:
    """The gain of clipped steps: the authors take the gradient of the mean over n images."""
    return None if options.clip_gain is None else options.clip_gain / n


class SneakingPoint(NamedTuple):
    """One attack on all images: of each image the result, whether it reached the target, and the weight of D that found it."""

    x_adv: np.ndarray
    found: np.ndarray
    weight: np.ndarray


def run_sneaking(
    evaluation: Evaluation, options: SneakingOptions, attacked: Attacked, spec: DiscrepancySpec, budgets: tuple[float, ...]
) -> list[SneakingPoint]:
    """The smallest perturbation, then the sneaking attack on one discrepancy at each budget."""
    n, indices, targets = len(attacked.indices), attacked.indices, attacked.targets
    classes = counted_classes(evaluation, attacked, spec)
    attack = SneakingAttack(evaluation.norm, sneaking_settings(options), gain_per_image(options, n), spec)
    points = [SneakingPoint(attacked.x_adv, attacked.found, np.zeros(n, np.float32))]
    for budget in budgets:
        start = points[-1 if options.warm_start else 0].x_adv
        eps = (budget * attacked.eps).astype(np.float32)
        label = f"isa {' '.join(spec)}, budget {budget:g}"
        found = evaluation.map_examples(label, sneaking_check, attack, (), indices, targets, classes, eps, start)
        check_perturbations(found, eps, evaluation.norm, "sneaking objective")
        reached = found["found"] & (targets != attacked.labels)  # where nothing was reached before, there is no target to keep
        points.append(SneakingPoint(found["x_adv"], reached, found["weight"]))
    return points


def counted_classes(evaluation: Evaluation, attacked: Attacked, spec: DiscrepancySpec) -> np.ndarray:
    """The classes of each image whose maps count, `[n, m]`."""
    found = find(CLASS_SETS, spec.classes, "set of classes")(attacked.labels, attacked.targets, evaluation.network.num_classes)
    return np.asarray(found, np.int32)


def discrepancy_curve(evaluation: Evaluation, options: SneakingOptions, attacked: Attacked, spec: DiscrepancySpec) -> dict[str, np.ndarray]:
    """The discrepancy, and other similarities, of the attacked images at all budgets, arrays `[points, n]`."""
    points = run_sneaking(evaluation, options, attacked, spec, options.budgets)
    classes = counted_classes(evaluation, attacked, spec)
    of_images = (attacked.indices, attacked.targets, classes)
    curves = [
        evaluation.map_examples(
            f"{' '.join(spec)} at budget {budget:g}",
            discrepancy_check,
            DiscrepancyCheck(evaluation.norm, spec),
            (),
            *of_images,
            point.x_adv,
        )
        for budget, point in zip((1.0, *options.budgets), points, strict=True)
    ]
    stacked = {key: np.stack([curve[key] for curve in curves]) for key in curves[0]}
    return stacked | {"weight": np.stack([point.weight for point in points])}
