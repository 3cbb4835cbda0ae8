"""Feature inversion: what images become when one unit of the representation is driven up, from real images and from noise."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluator import exact
from experiments.measures.pgd import clean_check
from experiments.measures.task import SHOWN, Measured, Task, mean
from irob.arrays import Array, Image, Label, Params
from irob.attacks.balls import BALLS
from irob.attacks.pgd import constant_steps
from irob.inversion import activation, invert
from irob.maps import READOUTS
from irob.networks import CAMNetwork


class Ascent(NamedTuple):
    """Steps of a size in a norm; nothing but the box bounds the image."""

    norm: str
    step_size: float
    steps: int


# 200 steps that could cross the box several times in either norm, whatever the size of the image.
ASCENTS = (Ascent("l2", 0.02, 200), Ascent("linf", 0.01, 200))


def measure(task: Task) -> Measured:
    """The activity of a unit before and after, and the images. The unit is the one that adds most to the label's logit on the seed image."""
    evaluator = task.evaluator
    indices = task.drawn("inversion").indices[:SHOWN]
    records: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {"indices": indices, "labels": evaluator.split.labels[indices]}
    arrays["seeds"] = np.asarray(to_unit(evaluator.split.fetch(indices)[0]))
    arrays["predictions"] = evaluator.map("clean", clean_check(evaluator.network), (), indices)["predictions"]
    for ascent in ASCENTS:
        found = evaluator.map(f"inversion {ascent.norm}", inversion_check(evaluator.network, ascent, evaluator.seed), (), indices)
        for seed in ("image", "noise"):
            about = {"metric": "activation", "attack": "inversion", "norm": ascent.norm, "steps": ascent.steps, "seed_image": seed}
            records += [{**about, "when": when, **mean(found[f"{seed}_{when}"])} for when in ("before", "after")]
        arrays |= {f"{ascent.norm}/{key}": value for key, value in found.items()}
    return Measured(records, arrays)


@functools.lru_cache
def inversion_check(network: CAMNetwork, ascent: Ascent, seed: int) -> Callable[..., Any]:
    """Pmapped `((params,), images, labels, indices) -> unit, and from image and from noise: the result, the activity before and after`."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        (params,) = shared
        explain = network.attack_form(params, READOUTS["representation"])
        diameter = np.sqrt(np.prod(network.input_shape)) if ascent.norm == "l2" else 1.0
        sizes = constant_steps(ascent.step_size * diameter, ascent.steps)

        def one(x: Image, label: Label, index: Array) -> dict[str, Any]:
            contribution = jnp.mean(explain(x).maps, axis=(0, 1)) * params["head"]["kernel"][:, label]
            unit = jnp.argmax(contribution)
            noise = jnp.clip(0.5 + 0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(seed), index), x.shape), 0.0, 1.0)
            results: dict[str, Any] = {"unit": unit, "noise": noise}
            for name, start in (("image", x), ("noise", noise)):
                result = invert(lambda z: explain(z).maps, unit, start, BALLS[ascent.norm](diameter), step_sizes=sizes)
                before, after = (activation(explain(z).maps, unit) for z in (start, result))
                results |= {f"{name}_result": result, f"{name}_before": before, f"{name}_after": after}
            return results

        return jax.vmap(one)(to_unit(images), labels, indices)

    return exact(check)
