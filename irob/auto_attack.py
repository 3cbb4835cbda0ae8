"""AutoAttack on whole batches: `autoattack`.

References: Croce & Hein 2020, https://arxiv.org/abs/2003.01690.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from irob.attacks import Ball
from irob.attacks.balls import BALLS
from irob.attacks.ensembles import EOT_SAMPLES, Stage, attempt, attempts, stages_of, substitutions
from irob.batches import BatchRun, Classifier, Progress, forms_of, over_devices, predicted_class, warn_of_hidden
from irob.metrics import Proportion, robust_accuracy
from irob.models import BoundModel
from irob.types import Array, Image, Label, Params, PRNGKey


class AutoAttacked(NamedTuple):
    """Of n images.

    clean, robust: accuracy without attack, and under the whole ensemble, with their 95% Wilson intervals.
    white_box: accuracy under the attacks that take gradients alone. That `robust` is lower by more than 0.002 is a sign of masked gradients, or of
      too few restarts.
    after: stage -> accuracy after it.
    predictions: classes under attack, `[n]`.
    x_adv: attacked images, `[n, H, W, c]`; of one that is robust, or misclassified from the beginning, itself. They give `predictions` exactly (of a
      classifier that draws, up to its draws).
    without_gradient: which images count as robust although no gradient on them was of use, `[n]`.
    substitutions: what was changed for want of classes.
    """

    clean: Proportion
    robust: Proportion
    white_box: Proportion
    after: dict[str, float]
    predictions: np.ndarray
    x_adv: np.ndarray
    without_gradient: np.ndarray
    substitutions: list[str]


class Remaining(NamedTuple):
    """What an ensemble leaves of n images.

    predictions: classes under attack, `[n]`. white_box: which images no attack with gradients broke, `[n]`.
    useless: which images are left although no gradient on them was of use, `[n]`. after: stage -> which images are left after it, `[n]`.
    x_adv: attacked images, `[n, H, W, c]`; clean where an image withstands, so that they give the accuracy exactly. None: they are not kept.
    """

    predictions: np.ndarray
    white_box: np.ndarray
    useless: np.ndarray
    after: dict[str, np.ndarray]
    x_adv: np.ndarray | None = None


def unattacked(predictions: np.ndarray, labels: np.ndarray, x: np.ndarray | None = None) -> Remaining:
    """What is left before an ensemble: the images that are classified correctly."""
    right = predictions == labels
    return Remaining(predictions, right, np.zeros_like(right), {}, x)


Attempted = Callable[[Stage, int, int, np.ndarray], dict[str, np.ndarray]]


def run_ensemble(stages: Sequence[Stage], labels: np.ndarray, before: Remaining, attempted: Attempted) -> Remaining:
    """The stages in their order, each on what is left: random search on the images that are still classified correctly, gradients also on those that
    random search alone broke.

    Args:
      before: what is left already, as of a smaller ball.
      attempted: (stage, restart, rank of the target, rows) -> `prediction`, `useless` and, if kept, `x_adv` of the images in these rows.
    """
    predictions, white = before.predictions.copy(), before.white_box.copy()
    x_adv = None if before.x_adv is None else before.x_adv.copy()
    useless, after = white & any(stage.white_box() for stage in stages), {}
    for stage in stages:
        for restart, rank in attempts(stage):
            held = predictions == labels
            left = np.flatnonzero(white if stage.white_box() else held)
            if not len(left):
                break
            found = attempted(stage, restart, rank, left)
            broken, first = found["prediction"] != labels[left], held[left]
            predictions[left[first]] = found["prediction"][first]
            if x_adv is not None:
                x_adv[left[first & broken]] = found["x_adv"][first & broken]
            if stage.white_box():
                useless[left] &= found["useless"]
                white[left] = ~broken
        after[stage.name] = predictions == labels
    return Remaining(predictions, white, useless & (predictions == labels), after, x_adv)


def autoattack(
    model: Classifier | Callable[[PRNGKey, Image], Any],
    images: Array,
    labels: Array,
    ball: Ball,
    *,
    version: str = "standard",
    stages: tuple[Stage, ...] | None = None,
    key: PRNGKey | int = 0,
    batch_size: int | None = None,
    progress: Progress = iter,
) -> AutoAttacked:
    """Robust accuracy under AutoAttack: each attack takes the images that are still classified correctly, and one that any attack breaks is broken.
    (Attacks by gradients go on with those that random search alone broke, so that `white_box` is what gradients leave.)

    An image is broken if what an attack returns is misclassified when it is classified again, and lies in the ball and in [0, 1].

    Args:
      model, images, labels, ball, key, batch_size, progress: as in `irob.attack`. With version "rand" the model is `(key, x) -> logits`.
      version: "standard", "plus", "rand" or "quick" (see `irob.attacks.ensembles`).
      stages: of one's own, instead of the version's.

    Returns:
      An `AutoAttacked`. Robust accuracy counts all images; the misclassified ones are not robust.

    Raises:
      ValueError: for images, labels or a version that are none, for a ball that is none of `BALLS`, and for a bound network with "rand".
      RuntimeError: if an attack leaves its ball.

    References:
      Croce & Hein 2020, https://arxiv.org/abs/2003.01690.

    >>> from irob.attacks import LInf
    >>> classifier = lambda x: jnp.stack([jnp.mean(x), 1.0 - jnp.mean(x)])
    >>> x = np.array([0.3, 0.52, 0.7], np.float32).reshape(3, 1, 1, 1)
    >>> found = autoattack(classifier, x, np.array([1, 0, 0]), LInf(0.03), version="quick")
    >>> round(found.robust.value, 3), found.predictions.tolist(), found.substitutions[0]
    (0.667, [1, 1, 0], 'apgd_t: difference instead of dlr_to')
    """
    random = version == "rand"
    if random and isinstance(model, BoundModel):
        raise ValueError(
            "version 'rand' takes a classifier that draws at random, (key, x) -> logits; a bound network does not: give another version"
        )
    function: Any = _Randomized(model) if random else model
    run = BatchRun(function, images, labels, None, ball, key, "pgd", "margin", 1, batch_size, progress)
    norm = next((name for name, row in BALLS.items() if isinstance(ball, row)), None)
    if norm is None:
        raise ValueError(f"AutoAttack is defined in {', '.join(BALLS)}, not in {type(ball).__name__}: use irob.evaluate")
    chosen = stages_of(version, norm, run.num_classes) if stages is None else stages
    clean = run.predict(run.images)
    sized: dict[str, int] = {}  # stage -> the number of images that its batches fit

    def attempted(stage: Stage, restart: int, rank: int, left: np.ndarray) -> dict[str, np.ndarray]:
        if len(left) <= sized.get(stage.name, 2 * len(left)) // 2:  # another size is compiled anew
            sized[stage.name] = len(left)
        return _attempted(run, stage, random, restart, rank, left, sized[stage.name])

    found = run_ensemble(chosen, run.labels, unattacked(clean, run.labels, np.array(run.images)), attempted)
    correct = found.predictions == run.labels
    warn_of_hidden(found.useless, correct)
    changed = substitutions(version, norm, run.num_classes) if stages is None else []
    robust = robust_accuracy(clean == run.labels), robust_accuracy(correct), robust_accuracy(found.white_box)
    after = {name: float(np.mean(left)) for name, left in found.after.items()}
    assert found.x_adv is not None
    return AutoAttacked(*robust, after, found.predictions, found.x_adv, found.useless, changed)


def _attempted(run: BatchRun, stage: Stage, random: bool, restart: int, rank: int, left: np.ndarray, fits: int) -> dict[str, np.ndarray]:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(run.key, zlib.crc32(stage.name.encode())), restart), rank)
    given = run.images[left], run.labels[left], left.astype(np.int32)
    found = run.mapped(_attempts, *given, shared=(run.ball, key, np.int32(rank)), spec=(stage, type(stage.attack), random), fits=fits)
    if not found["inside"].all():
        raise RuntimeError(f"{stage.name} left its ball or [0, 1]")
    return found


@functools.lru_cache(maxsize=64)
def _attempts(function: Any, spec: Any) -> Callable[..., Any]:
    stage, _, random = spec

    def of_batch(params: Params, shared: Any, x: Array, labels: Array, positions: Array) -> dict[str, Array]:
        ball, key, rank = shared
        explain, frozen = forms_of(function, params)

        def one(x: Image, label: Label, position: Array) -> dict[str, Any]:
            of_image = jax.random.fold_in(key, position)
            if random:
                found = attempt(stage, function.model, ball, x, label, of_image, rank, samples=EOT_SAMPLES)
                prediction = predicted_class(function.drawn(jax.random.fold_in(of_image, 1), found.x_adv))
            else:
                found = attempt(stage, frozen, ball, x, label, of_image, rank)
                prediction = predicted_class(explain(found.x_adv))
            distance: Any = ball.length(found.x_adv - x)
            inside = (distance <= ball.eps * (1 + 1e-5) + 1e-6) & jnp.all((found.x_adv >= 0.0) & (found.x_adv <= 1.0))
            return {"x_adv": found.x_adv, "prediction": prediction, "useless": found.gradients.useless(), "inside": inside}

        return jax.vmap(one)(x, labels, positions)

    return over_devices(of_batch)


class _Randomized(NamedTuple):
    """A classifier `(key, x) -> logits` as one of x, with one fixed draw."""

    model: Any

    def __call__(self, x: Image) -> Any:
        return self.drawn(jax.random.key(0), x)

    def drawn(self, key: PRNGKey, x: Image) -> Any:
        """The logits of one draw, that of the key."""
        return self.model(key, x)
