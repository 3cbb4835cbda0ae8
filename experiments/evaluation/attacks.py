"""What the attacks of several measures share: objectives and attacks by name, the check of a result, the clean predictions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.engine import Check, Evaluation
from experiments.runtime import devices
from experiments.runtime.errors import UserError
from irob.attacks import ATTACKS as GENERAL_ATTACKS
from irob.attacks import Attack, AttackResult
from irob.batches import predicted_class
from irob.losses import LOSSES
from irob.paper import PAPER_PGD, logsumexp_cross_entropy
from irob.types import Array, Image, Label, Logits, Model, Params, Scalar

OBJECTIVES: dict[str, Callable[[Logits, Label], Scalar]] = {**LOSSES, "logsumexp_cross_entropy": logsumexp_cross_entropy}
ATTACKS: dict[str, Attack] = {**GENERAL_ATTACKS, "paper_pgd": PAPER_PGD}


def clean_predictions(evaluation: Evaluation, indices: np.ndarray) -> np.ndarray:
    """The predicted class of each image, `[n]`; -1 where a logit is not finite."""
    return evaluation.map_examples("clean", clean_check, None, (), indices)["predictions"]


@functools.lru_cache
def clean_check(network: Model, spec: None) -> Check:
    """Pmapped `((params,), images, labels, indices) -> predictions`."""

    def check(shared: tuple[Params], images: Array, labels: Array, indices: Array) -> dict[str, Any]:
        return {"predictions": jax.vmap(lambda x: predicted_class(network.explain(shared[0], x).logits))(to_unit(images))}

    return devices.pmap_full_precision(check)


def or_nan(found: AttackResult) -> AttackResult:
    """What an attack found, NaN where it had no finite gradient, which `check_perturbations` refuses: for attacks inside of others."""
    return found._replace(x_adv=jnp.where(found.finite(), found.x_adv, jnp.nan))


def perturbation(ball: Any, x: Image, found: AttackResult) -> dict[str, Any]:
    """What is kept of an attack.

    distance: of x' from x, in the norm of the ball; NaN where x' or every gradient is not finite.
    inside: whether x' is in the box.
    useless: whether every gradient was zero or not finite.
    """
    distance = jnp.where(found.finite(), ball.length(found.x_adv - x), jnp.nan)
    inside = jnp.all((found.x_adv >= 0.0) & (found.x_adv <= 1.0))
    return {"distance": distance, "inside": inside, "useless": found.gradients.useless()}


def check_perturbations(found: dict[str, np.ndarray], eps: Any, norm: str, objective: str, finite: bool = True) -> None:
    """Checks what `perturbation` returned for `[n]` images. finite: whether an attack without any finite gradient is refused.

    Raises:
      UserError: if an attack went nowhere because its objective has no finite gradient.
      RuntimeError: if an attack is not in its ball and the box: a bug of the attack.
    """
    distance, inside = found["distance"], found["inside"]
    if not finite:
        distance = np.nan_to_num(distance, nan=0.0)
    if not np.isfinite(distance).all():
        count = np.sum(~np.isfinite(distance))
        raise UserError(f"the {objective} has no finite gradient for {count} images at eps {np.max(eps):g}: its logits overflow")
    if not (inside.all() and (distance <= eps * (1 + 1e-5) + 1e-6).all()):
        raise RuntimeError(
            f"the {norm} attack left its ball of eps {np.max(eps):g}: largest distance {distance.max()}, all in [0, 1]: {inside.all()}"
        )
