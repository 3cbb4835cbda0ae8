"""What happens to a batch before the attack: augmentation, mixing with another example, and labels that are then distributions over classes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments.data.augmentations import AUGMENTATIONS, MIXTURES
from experiments.runtime import calls, devices
from experiments.runtime.errors import UserError, one_line, refuse
from irob.types import Array, Label, Scalar


def expected(loss: Callable[[Label], Scalar], label: Array) -> Scalar:
    """The loss of a label, or its expectation `sum_c p_c loss(c)` under probabilities `[C]`.

    For the cross-entropy this is the cross-entropy with a soft label, so label smoothing and mixtures are those of their papers; what a loss has
    beside it is averaged alike.
    """
    if jnp.ndim(label) == 0:
        return loss(label)
    return jnp.dot(label, jax.vmap(loss)(jnp.arange(len(label))))


def check_augmentation(config: ml_collections.ConfigDict, input_shape: tuple[int, int, int]) -> None:
    """Tries every augmentation in the abstract.

    Raises:
      UserError: if one cannot be computed, or returns other images.
    """
    key, x = jax.random.key(0), jax.ShapeDtypeStruct(input_shape, jnp.float32)
    rows = [(AUGMENTATIONS, call, "augmentation", (key, x)) for call in config.augment] + [(MIXTURES, config.mix, "mixture", (key, x, x))]
    for table, call, what, arguments in rows:
        try:
            found = jax.eval_shape(calls.bound(table, call, what), *arguments)
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"the {what} {calls.call_text(call)} of images {input_shape}: {one_line(error)}") from error
        image = found[0] if what == "mixture" else found
        same = getattr(image, "shape", None) == input_shape and image.dtype == jnp.float32
        refuse(not same, f"the {what} {calls.call_text(call)} must return float32 images of shape {input_shape}, not {image}")


def make_augmentation(config: ml_collections.ConfigDict, num_classes: int) -> Callable[..., tuple[Array, Array, Array]]:
    """`(x [n, H, W, c], labels [n], keys_for) -> (x, labels, targets)`.

    labels: for the attack: of a mixture that of the larger part. targets: for the loss: labels, or probabilities `[n, C]` where they are mixed or
    smoothed. keys_for: `purpose -> keys [n]`.
    """
    augmentations = [
        (f"{i} {calls.call_text(call)}", calls.bound(AUGMENTATIONS, call, "augmentation")) for i, call in enumerate(config.augment)
    ]
    mixes, smoothing = calls.as_call(config.mix)[0] != "none", config.label_smoothing

    def augmented(x: Array, labels: Array, keys_for: Callable[[str], Array]) -> tuple[Array, Array, Any]:
        for purpose, augment in augmentations:
            x = jax.vmap(augment)(keys_for(purpose), x)
        if not mixes and not smoothing:
            return x, labels, labels
        targets = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
        if mixes:
            mix = calls.bound(MIXTURES, config.mix, "mixture")
            x, weights = jax.vmap(mix)(keys_for("mix"), x, devices.mirrored_batch(x))
            targets = weights[:, None] * targets + (1.0 - weights[:, None]) * devices.mirrored_batch(targets)
            labels = jnp.argmax(targets, axis=1).astype(labels.dtype)
        return x, labels, (1.0 - smoothing) * targets + smoothing / num_classes

    return augmented
