"""Validation during training: accuracy on the validation images, clean and under a short attack."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.data import Split, to_unit
from experiments.runtime import devices
from experiments.runtime.checkpoints import SCORE
from experiments.runtime.errors import refuse, warn
from experiments.runtime.names import find
from experiments.runtime.plan import current_plan
from irob.attacks import BALLS, PGD
from irob.losses import log_cross_entropy
from irob.types import Array, Image, Label, Model, Params, Scalar

ATTACK = PGD("eps/4", random_start=True, best_iterate=False)


def validation_scores(config: ml_collections.ConfigDict, network: Model, params: Params, split: Split) -> dict[str, float]:
    """Accuracy on a split, clean and under `config.validation.attack_steps` steps at full eps, from one random start.

    The logarithm of the cross-entropy is ascended, whose gradient has the same direction but does not underflow on confident networks. Warns where
    the attack had no gradient: then the accuracy under attack is not to be trusted.

    Raises:
      UserError: if the attack has no finite gradient.
    """
    check = accuracy_check(network, config.attack.norm, config.validation.attack_steps)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(b"cross_entropy")), 0)
    shared = devices.replicate((params, np.float32(config.eps), np.asarray(jax.random.key_data(key))))
    indices = np.arange(len(split.labels), dtype=np.int32)
    batch_size = current_plan().evaluation_batch(network.input_shape, len(indices), devices.num_devices())
    fetch = lambda rows: (*split.fetch(rows), rows)  # noqa: E731
    clean, robust, finite, useless = devices.map_batches(check, shared, fetch, indices, batch_size)
    lost = np.sum(clean & ~finite)  # a misclassified image needs no attack
    refuse(lost > 0, f"the validation attack has no finite gradient for {lost} images: the logits overflow")
    hidden = np.sum(clean & robust & useless)
    if hidden and devices.is_first_process():
        counted = f"{hidden} of the {np.sum(clean & robust)} images that count as robust"
        warn(
            f"the validation attack had only gradients of zero for {counted}: the network hides its gradients, or does not depend on the image"
        )
    return {"clean_accuracy": float(clean.mean()), SCORE: float((clean & robust).mean())}


@functools.lru_cache
def accuracy_check(network: Model, norm: str, num_steps: int) -> Callable[..., Any]:
    """Pmapped `((params, eps, key data), images, labels, indices) -> (correct, correct under attack, finite, useless)`.

    finite, useless: whether the attack had a finite gradient, and whether all were zero or not finite.
    """

    def check(shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array) -> tuple[Array, ...]:
        params, eps, key_data = shared
        key, ball = jax.random.wrap_key_data(jnp.asarray(key_data)), find(BALLS, norm, "norm")(eps)
        explain = network.frozen(params)

        def one(x: Image, label: Label, index: Array) -> tuple[Array, ...]:
            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                value = log_cross_entropy(explain(x_adv).logits, label)
                return value, value

            found = ATTACK(objective, ball, x, key=jax.random.fold_in(key, index), num_steps=num_steps)
            clean, robust = (is_correct(network, params, image, label) for image in (x, found.x_adv))
            return clean, robust, found.finite(), found.gradients.useless()

        return jax.vmap(one)(to_unit(images), labels, indices)

    return devices.pmap_full_precision(check)


def is_correct(network: Model, params: Params, x: Image, label: Label) -> Array:
    """Whether an image is classified as its label; never where a logit is not finite."""
    logits = network.explain(params, x).logits
    return jnp.all(jnp.isfinite(logits)) & (jnp.argmax(logits) == label)
