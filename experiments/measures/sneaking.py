"""The interpretability sneaking attack: the bound of Proposition 1, the tables of the attack, the trade-off between budget and discrepancy.

All begin with the smallest perturbation that changes the prediction, radius eps_min by image. Under `paper` the class to reach is drawn; under
`standard` it is the first one reached, and images that are misclassified as they are do not count. From there the sneaking attack has budgets
eps = p eps_min and reduces one discrepancy D while it keeps the class reached.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import parallel
from experiments.cli import UserError
from experiments.data import to_unit
from experiments.measures.pgd import clean_check, refuse_escape, refuse_overflow
from experiments.measures.sneaking_checks import bound_check, look_check, minimal_check, sneaking_check
from experiments.measures.task import SHOWN, Measured, Task, mean, share
from irob.arrays import Array, Image, Label, Params
from irob.losses import pick

# The families of discrepancies: the classes `[n, m]` whose maps count, all alike, of images with these labels and targets.
FAMILIES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "one_class": lambda labels, targets, count: labels[:, None],
    "two_class": lambda labels, targets, count: np.stack([labels, targets], axis=1),
    "all_class": lambda labels, targets, count: np.broadcast_to(np.arange(count), (len(labels), count)),
}
MAPS = ("cam", "grad_cam_plus_plus", "representation")  # of the paper's tables
ROUNDING = 1e-5  # relative to the largest logit: what float32 may take from either side of the bound


class Kind(NamedTuple):
    """One discrepancy: which maps (a key of `explainers.EXPLAINERS`), which classes of them (a key of `FAMILIES`), which norm."""

    map: str
    family: str
    norm: str


def kinds(maps: Sequence[str]) -> list[Kind]:
    """Every discrepancy of some maps. A representation has units for classes, all of which count."""
    families = {"representation": ("all_class",)}
    return [Kind(name, family, norm) for name in maps for family in families.get(name, FAMILIES) for norm in ("l1", "l2")]


class Attacked(NamedTuple):
    """Images under the smallest perturbation, `[n, ...]`: how they were chosen, and what was found."""

    indices: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    eps: np.ndarray
    found: np.ndarray
    x_adv: np.ndarray


# --- measures -------------------------------------------------------------------------------------------------------------------------------


def bound(task: Task) -> Measured:
    """Both sides of Proposition 1, under the smallest perturbation and under sneaking attacks on the two-class and one-class discrepancy.

    The one-class discrepancy has no such bound; its rows show whether it is evaded.
    """
    attacked = minimal(task, "bound")
    budget = max(task.budgets)
    images: dict[tuple[str, str | None], tuple[np.ndarray, np.ndarray]] = {("minimal", None): (attacked.x_adv, attacked.found)}
    for family in ("two_class", "one_class"):
        (*_, last) = sneaked(task, "bound", attacked, Kind("cam", family, "l1"), (budget,))
        images["isa", family] = (last.x_adv, last.found)
    records, arrays = [], attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    for (attack, against), (x_adv, found) in images.items():
        check = bound_check(task.evaluator.network)
        name = f"bound, {attack} {against}, budget {budget:g}, {tag(task, 'bound')}"
        sides = task.evaluator.map(name, check, (), attacked.indices, attacked.targets, x_adv)
        limit = sides["margin"]
        for family in ("two_class", "one_class"):
            measured = sides[family]
            below = measured < limit - ROUNDING * sides["largest_logit"]
            about: dict[str, Any] = {"attack": attack, "against": against, "discrepancy": family, "map": "cam", "norm": "l1"}
            about |= {"budget": 1.0 if attack == "minimal" else budget}
            failed = int(np.sum(~found))
            records.append({"metric": "bound_holds", **about, **share(~below[found]), "failed": failed})
            counted = found & (limit > 0)
            ratio = measured[counted] / limit[counted]
            median = float(np.median(ratio)) if len(ratio) else None
            records.append({"metric": "tightness", **about, **mean(ratio), "median": median, "failed": failed})
        arrays |= {f"{attack}{'_' + against if against else ''}/{key}": value for key, value in sides.items()}
        arrays[f"{attack}{'_' + against if against else ''}/found"] = found
    return Measured(records, arrays | pictures(task, attacked))


def isa_table(task: Task) -> Measured:
    """Normalised discrepancy, its slope over the budget, tau and Pearson's r for every kind of discrepancy."""
    attacked = minimal(task, "isa")
    records, arrays = [], attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    for kind in kinds(task.maps or MAPS):
        curve = seen(task, "isa", attacked, kind)
        about = {"attack": "isa", "map": kind.map, "discrepancy": kind.family, "norm": kind.norm, "budgets": [1.0, *task.budgets]}
        records += summary(curve, about, np.array([1.0, *task.budgets]), per_point=task.protocol.own_images)
        arrays |= {f"{'.'.join(kind)}/{key}": curve[key] for key in ("eps", "valid", "normalised", "raw", "tau", "pearson", "weight")}
    return Measured(records, arrays)


def tradeoff(task: Task) -> Measured:
    """Discrepancy against eps for the three families, each attacked by its own sneaking attack; the smallest up to each budget."""
    attacked = minimal(task, "tradeoff")
    records, arrays = [], attacked._asdict() | {"x_adv": attacked.x_adv[:SHOWN]}
    for kind in kinds(task.maps or ("cam",)):
        curve = seen(task, "tradeoff", attacked, kind)
        budgets = [1.0, *task.budgets]
        nominal = np.outer(budgets, attacked.eps)
        smallest = np.fmin.accumulate(np.where(curve["valid"], curve["raw"], np.nan), axis=0)
        for budget, values, eps in zip(budgets, smallest, nominal, strict=True):
            about = {"metric": "discrepancy", "attack": "isa", "map": kind.map, "discrepancy": kind.family, "norm": kind.norm}
            counted = np.isfinite(values)
            records.append(
                {**about, "budget": budget, "eps": float(eps[counted].mean()) if counted.any() else None, **mean(values)}
                | {"failed": int(np.sum(~counted))}
            )
        arrays |= {f"{'.'.join(kind)}/{key}": value for key, value in (("eps", nominal), ("smallest", smallest))}
    return Measured(records, arrays)


# --- what they are made of --------------------------------------------------------------------------------------------------------------------


def tag(task: Task, measure: str) -> str:
    """Names the examples: attacks on the same ones are shared between measures."""
    return measure if task.protocol.own_images else "first"


def minimal(task: Task, measure: str) -> Attacked:
    """The smallest successful perturbation of each image."""
    evaluator, network = task.evaluator, task.evaluator.network
    drawn = task.drawn(measure)
    indices, labels = drawn.indices, evaluator.split.labels[drawn.indices]
    shifts = np.zeros(len(labels), np.int32) if drawn.shifts is None else drawn.shifts.astype(np.int32)
    targets = (labels + shifts) % network.num_classes
    if drawn.shifts is None:
        right = evaluator.map("clean", clean_check(network), (), indices)["predictions"] == labels
        indices, labels, targets = indices[right], labels[right], targets[right]
    if not len(indices):
        raise UserError("the network classifies none of the chosen images: there is nothing to attack")
    check = minimal_check(network, task.protocol.sneaking, task.norm, len(indices), drawn.shifts is not None)
    key = np.asarray(jax.random.key_data(jax.random.key(evaluator.seed)))
    found = evaluator.map(f"minimal, {tag(task, measure)}", check, (key,), indices, targets.astype(np.int32))
    refuse_overflow(found["distance"], "its limit", "margin")
    refuse_escape(found["distance"], found["inside"], found["eps"], task.norm)
    return Attacked(indices, labels, found["target"], found["eps"], found["found"], found["x_adv"])


class Point(NamedTuple):
    """One attack on all images: its name, and of each image the result, whether it reached the target, and the weight of D that found it."""

    name: str
    x_adv: np.ndarray
    found: np.ndarray
    weight: np.ndarray


def sneaked(task: Task, measure: str, attacked: Attacked, kind: Kind, budgets: tuple[float, ...]) -> list[Point]:
    """The smallest perturbation, then the sneaking attack on a kind of discrepancy at each budget."""
    evaluator, settings = task.evaluator, task.protocol.sneaking
    n, indices, targets = len(attacked.indices), attacked.indices, attacked.targets
    check = sneaking_check(evaluator.network, settings, kind.map, kind.norm, task.norm, n)
    classes = counted_classes(task, attacked, kind)
    points = [Point(f"minimal, {tag(task, measure)}", attacked.x_adv, attacked.found, np.zeros(n, np.float32))]
    for i, budget in enumerate(budgets):
        start = points[-1 if settings.nested else 0].x_adv
        path = " ".join(f"{b:g}" for b in (budgets[: i + 1] if settings.nested else (budget,)))
        name = f"isa {' '.join(kind)}, {tag(task, measure)}, budget {path}"
        eps = (budget * attacked.eps).astype(np.float32)
        found = evaluator.map(name, check, (), indices, targets, classes, eps, start)
        refuse_overflow(found["distance"], f"{budget} eps_min", "sneaking objective")
        refuse_escape(found["distance"], found["inside"], eps, task.norm)
        reached = found["found"] & (targets != attacked.labels)  # where nothing was reached before, there is no target to keep
        points.append(Point(name, found["x_adv"], reached, found["weight"]))
    return points


def counted_classes(task: Task, attacked: Attacked, kind: Kind) -> np.ndarray:
    """The classes of each image whose maps count, `[n, m]`."""
    found = FAMILIES[kind.family](attacked.labels, attacked.targets, task.evaluator.network.num_classes)
    return np.asarray(found, np.int32)


def seen(task: Task, measure: str, attacked: Attacked, kind: Kind) -> dict[str, np.ndarray]:
    """What a kind of discrepancy sees of them at all budgets, arrays `[points, n]`."""
    evaluator, points = task.evaluator, sneaked(task, measure, attacked, kind, task.budgets)
    check = look_check(evaluator.network, kind.map, kind.norm, task.norm)
    classes = counted_classes(task, attacked, kind)
    looks = [
        evaluator.map(f"{' '.join(kind)} of {point.name}", check, (), attacked.indices, attacked.targets, classes, point.x_adv)
        for point in points
    ]
    return {key: np.stack([look[key] for look in looks]) for key in looks[0]} | {"weight": np.stack([point.weight for point in points])}


def summary(curve: dict[str, np.ndarray], about: dict[str, Any], budgets: np.ndarray, per_point: bool) -> list[dict[str, Any]]:
    """Records of one kind of discrepancy.

    Along the budgets an image keeps the best attack so far (the smallest normalised discrepancy of valid points). Its value is the mean over its
    points, its slope `(1 - D_last / D_first) / (p_last / p_first - 1)`, how fast D falls with the budget p, 0 where only one point is valid.

    per_point: as the authors average, too: sums over images whose discrepancy falls, divided by the number of all their points, the slope over
    measured eps (which hardly differ where the smallest eps is all the box allows, and then the slope is anything).
    """
    valid, n = curve["valid"], curve["valid"].shape[1]
    values: dict[str, list[float]] = {name: [] for name in ("normalised_discrepancy", "normalised_slope", "kendall_tau", "pearson")}
    total = slopes = points = 0.0
    for i in range(n):
        order = np.flatnonzero(valid[:, i])
        if not len(order):
            continue
        best = [order[0]]
        for j in order[1:]:
            best.append(j if curve["normalised"][j, i] <= curve["normalised"][best[-1], i] else best[-1])
        falling, eps = curve["normalised"][best, i], curve["eps"][best, i]
        drop = 1.0 - falling[-1] / falling[0] if falling[0] > 0 else 0.0
        slope = drop / (budgets[order[-1]] / budgets[order[0]] - 1.0) if len(order) > 1 else 0.0
        values["normalised_discrepancy"].append(float(falling.mean()))
        values["normalised_slope"].append(float(slope))
        for name, key in (("kendall_tau", "tau"), ("pearson", "pearson")):
            values[name].append(float(curve[key][best, i].mean()))
        if falling[-1] != falling[0]:
            total, points = total + falling.sum(), points + len(falling)
            slopes += drop * eps[0] / (eps[-1] - eps[0]) if eps[-1] != eps[0] else 0.0
    records = [
        {"metric": name, **about, "over": "images", **(counted := mean(np.array(found))), "failed": n - counted["n"]}
        for name, found in values.items()
    ]
    if per_point:
        for name, whole in (("normalised_discrepancy", total), ("normalised_slope", slopes)):
            value = float(whole / points) if points else None
            records.append(
                {"metric": name, **about, "over": "points", "n": int(points), "value": value, "ci95": None, "failed": n - len(values[name])}
            )
    return records


def pictures(task: Task, attacked: Attacked) -> dict[str, np.ndarray]:
    """The first images with their maps of the true and the target class, clean and attacked, for the report."""
    shown = slice(0, SHOWN)
    network = task.evaluator.network
    params = parallel.first(task.evaluator.params)
    images, _ = task.evaluator.split.fetch(attacked.indices[shown])
    x = np.asarray(to_unit(images))

    @jax.jit
    def maps(params: Params, images: Array, labels: Array, targets: Array) -> Array:
        def one(x: Image, label: Label, target: Label) -> Array:
            of = network.explain(params, x).maps
            return jnp.stack([pick(of, label), pick(of, target)])

        return jax.vmap(one)(images, labels, targets)

    classes = attacked.labels[shown], attacked.targets[shown]
    with jax.default_matmul_precision("highest"):
        clean, moved = (np.asarray(maps(params, z, *classes)) for z in (x, attacked.x_adv[shown]))
    return {
        "shown/images": x,
        "shown/attacked": attacked.x_adv[shown],
        "shown/clean_maps": clean,
        "shown/attacked_maps": moved,
    }
