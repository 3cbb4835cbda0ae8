"""Whole batches in one call: `attack`, `evaluate`, `check`.

Each is compiled once for a network and a size of batch, spread over all local devices, and takes any number of images. A classifier is a
`BoundModel`, `irob.bind(network, params)`, or any function `x [H, W, c] -> logits [C]` (or an `Explanation`). A function is compiled anew for each
object, so make it once; what it closes over is fixed by its first call, so make another after training.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from irob.attacks import ATTACKS, Attack, Ball
from irob.convolutions import images_at_a_time
from irob.losses import LOSSES, cross_entropy, margin_loss
from irob.metrics import Proportion, robust_accuracy
from irob.models import BoundModel
from irob.types import Array, Explanation, Image, Label, Logits, Params, PRNGKey, Scalar, checked_count, checked_images, checked_labels

Classifier = BoundModel | Callable[[Image], Any]
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # e.g. tqdm.tqdm
Loss = Callable[[Logits, Label], Scalar]


class Evaluated(NamedTuple):
    """Of n images.

    clean, robust: accuracy without and under attack, with their 95% Wilson intervals.
    predictions: classes under attack, `[n]`.
    x_adv: attacked images, `[n, H, W, c]`; of one that is broken, what broke it, of one that is misclassified from the beginning, itself.
    without_gradient: which images count as robust although no attack on them had a gradient of use (all were zero everywhere or not finite), `[n]`.
    """

    clean: Proportion
    robust: Proportion
    predictions: np.ndarray
    x_adv: np.ndarray
    without_gradient: np.ndarray


class Checked(NamedTuple):
    """What `check` found.

    num_classes: C.
    clean: accuracy.
    vanishing_gradients: proportion of the images at which the gradient of the cross-entropy is zero everywhere. More than a few hide the network from
      gradient attacks (Carlini et al. 2019, https://arxiv.org/abs/1902.06705, sec. 4.2).
    """

    num_classes: int
    clean: Proportion
    vanishing_gradients: float


def attack(
    model: Classifier,
    images: Array,
    labels: Array,
    ball: Ball,
    *,
    key: PRNGKey | int = 0,
    targets: Array | None = None,
    start: Array | None = None,
    method: str | Attack = "pgd",
    loss: str | Loss = "margin",
    num_steps: int = 150,
    restarts: int = 1,
    batch_size: int | None = None,
    progress: Progress = iter,
) -> np.ndarray:
    """Attacked images, in the ball around each image and in [0, 1].

    Later restarts take only the images that are still classified as their label (with targets: not yet as the target), so the result of an image is
    the first that breaks it, or the last.

    Args:
      model: the classifier.
      images: `[n, H, W, c]`, floats in [0, 1].
      labels: `[n]`.
      ball: such as `LInf(8 / 255)`.
      key: of the random starts, or a seed. That of an image is of (key, restart, position), so neither batch size nor devices matter.
      targets: `[n]`, classes that the attack leads to; None: away from the label.
      start: `[n, H, W, c]`, where the first restart begins; None for where the method does.
      method: a key of `attacks.ATTACKS`, or one's own.
      loss: a key of `losses.LOSSES`, or `(logits, label) -> scalar`, that is ascended.
      num_steps, restarts: steps of each restart, and how many restarts.
      batch_size: images at a time; None: as many as are fast, 32 a core on CPU (they fit its caches), otherwise 256.
      progress: wraps the batches, such as `tqdm.tqdm`.

    Returns:
      `[n, H, W, c]`, on the host.

    Raises:
      ValueError: for images, labels or targets that are none.

    References:
      Projected gradient descent: Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    >>> from irob.attacks import LInf
    >>> classifier = lambda x: jnp.stack([jnp.mean(x), 1.0 - jnp.mean(x)])
    >>> x = np.full((3, 4, 4, 1), [[[[0.52]]]], np.float32)
    >>> x_adv = attack(classifier, x, np.array([0, 0, 1]), LInf(0.03))
    >>> [int(jnp.argmax(classifier(x))) for x in x_adv]
    [1, 1, 0]
    """
    run = BatchRun(model, images, labels, targets, ball, key, method, loss, num_steps, batch_size, progress)
    checked_count("restarts", restarts)
    if start is not None and np.shape(start) != run.images.shape:
        raise ValueError(f"start must have the shape of the images, {run.images.shape}, got {np.shape(start)}")
    x_adv = np.array(run.images)
    broken, useless = np.zeros(len(x_adv), bool), np.ones(len(x_adv), bool)
    for restart in range(restarts):
        left = np.flatnonzero(~broken)
        found = run.restart(restart, left, None if restart else start)
        x_adv[left], predictions = found["x_adv"], found["prediction"]
        useless[left] &= found["useless"]
        broken[left] = predictions != run.labels[left] if targets is None else predictions == run.labels[left]
    warn_of_hidden(useless & ~broken, ~broken)
    return x_adv


def warn_of_hidden(useless: np.ndarray, robust: np.ndarray) -> None:
    """Warns if there are images, of those that count as robust, whose attacks had no gradient of use."""
    if np.any(useless):
        what = (
            f"{np.sum(useless)} of the {np.sum(robust)} images that count as robust were attacked without a gradient (zero or not finite)"
        )
        warnings.warn(f"{what}: the network hides its gradients, or does not depend on the image", stacklevel=3)


def evaluate(
    model: Classifier,
    images: Array,
    labels: Array,
    ball: Ball,
    *,
    key: PRNGKey | int = 0,
    method: str | Attack = "pgd",
    losses: str | Loss | tuple[str | Loss, ...] = ("margin", "cross_entropy"),
    num_steps: int = 150,
    restarts: int = 5,
    batch_size: int | None = None,
    progress: Progress = iter,
) -> Evaluated:
    """Clean and robust accuracy: the worst case over losses and restarts. What is broken, or wrong without an attack, is not attacked again.

    Args:
      model, images, labels, ball, key, method, num_steps, batch_size, progress: as in `attack`.
      losses: one, or several that are attacked one after another.
      restarts: of each loss.

    Returns:
      An `Evaluated`. Robust accuracy is an upper bound: stronger attacks may break more. Images whose attacks had no gradient cause a warning.

    Raises:
      ValueError: for images or labels that are none.

    References:
      The default is the protocol `standard` of this project. Wilson 1927, https://doi.org/10.2307/2276774.

    >>> from irob.attacks import LInf
    >>> classifier = lambda x: jnp.stack([jnp.mean(x), 1.0 - jnp.mean(x)])
    >>> x = np.array([0.3, 0.52, 0.7], np.float32).reshape(3, 1, 1, 1)
    >>> result = evaluate(classifier, x, np.array([1, 0, 0]), LInf(0.03))
    >>> round(result.clean.value, 3), round(result.robust.value, 3), result.predictions.tolist()
    (1.0, 0.667, [1, 1, 0])
    """
    each = (losses,) if isinstance(losses, str) or callable(losses) else tuple(losses)
    checked_count("restarts", restarts)
    if not each:
        raise ValueError("losses is empty: give at least one that is attacked")
    runs = [BatchRun(model, images, labels, None, ball, key, method, loss, num_steps, batch_size, progress) for loss in each]
    first = runs[0]
    clean = first.predict(first.images)
    x_adv, predictions = np.array(first.images), clean.copy()
    useless = clean == first.labels
    for number, run in enumerate(runs):
        for restart in range(restarts):
            left = np.flatnonzero(predictions == run.labels)
            found = run.restart(number * restarts + restart, left, None)
            x_adv[left], predictions[left] = found["x_adv"], found["prediction"]
            useless[left] &= found["useless"]
    robust = predictions == first.labels
    useless &= robust
    warn_of_hidden(useless, robust)
    return Evaluated(robust_accuracy(clean == first.labels), robust_accuracy(robust), predictions, x_adv, useless)


def check(model: Classifier, images: Array, labels: Array, *, batch_size: int | None = None) -> Checked:
    """Whether a classifier is what attacks take: one image in, finite logits out, the same ones twice, with finite gradients.

    Args:
      model, images, labels, batch_size: as in `attack`.

    Returns:
      A `Checked`.

    Raises:
      ValueError: names what is wrong.

    References:
      Carlini et al. 2019, https://arxiv.org/abs/1902.06705.

    >>> found = check(lambda x: jnp.stack([jnp.mean(x), 0.5]), np.full((2, 4, 4, 1), 0.6, np.float32), np.array([0, 1]))
    >>> found.num_classes, found.clean.value, found.vanishing_gradients
    (2, 0.5, 0.0)
    """
    run = BatchRun(model, images, labels, None, None, 0, "pgd", "margin", 1, batch_size, iter)
    found = run.mapped(_checks, run.images, run.labels)
    for name, what in (("finite", "logits that are not finite"), ("finite_gradient", "a gradient that is not finite")):
        if not found[name].all():
            raise ValueError(f"the classifier has {what} at image {int(np.argmin(found[name]))} and {int(np.sum(~found[name])) - 1} others")
    logits = found["logits"]
    with jax.default_matmul_precision("highest"):  # traced anew: what is compiled always repeats itself
        again = jax.jit(lambda x: forms_of(run.function, run.params)[0](x))(run.images[0])
    if not np.allclose(logits[0], again, rtol=1e-3, atol=1e-3 * np.max(np.abs(logits[0]))):
        raise ValueError("the classifier gives other logits of the same image a second time: it draws at random, or keeps a state")
    if np.all(logits >= 0.0) and np.allclose(np.sum(logits, axis=1), 1.0, atol=1e-4):
        raise ValueError("the classifier returns probabilities: give its logits, before the softmax, whose gradients do not vanish")
    return Checked(run.num_classes, robust_accuracy(found["prediction"] == run.labels), float(np.mean(found["vanishing"])))


class BatchRun:
    """Checked images and labels of a classifier, and compiled functions mapped over them. With targets, `labels` are these."""

    def __init__(
        self,
        model: Classifier,
        images: Array,
        labels: Array,
        targets: Array | None,
        ball: Any,
        key: Any,
        method: str | Attack,
        loss: str | Loss,
        num_steps: int,
        batch_size: int | None,
        progress: Progress,
    ):
        if isinstance(model, nnx.Module):
            raise ValueError("an nnx module may change after it is compiled: give irob.bind(irob.models.from_nnx(module, ...), params)")
        bound: tuple[Any, Params] = (model.network, model.params) if isinstance(model, BoundModel) else (model, ())
        self.function, self.params = bound
        for name, count in (("num_steps", num_steps), ("batch_size", 1 if batch_size is None else batch_size)):
            checked_count(name, count)
        self.images, self.num_classes = checked_images(self.function, self.params, images)
        self.labels = own = checked_labels(labels, len(self.images), self.num_classes, "labels")
        if targets is not None:
            self.labels = checked_labels(targets, len(self.images), self.num_classes, "targets")
            if np.any(self.labels == own):
                raise ValueError(f"targets must differ from the labels, {int(np.sum(self.labels == own))} do not")
        self.ball = None if ball is None else _checked_ball(ball)
        self.key = jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
        attack_of = _row(ATTACKS, method, "method")
        loss_of = _row(LOSSES, loss, "loss")
        if getattr(attack_of, "seeks_zero", False) and loss_of is not margin_loss:
            raise ValueError(f"{type(attack_of).__name__} goes to where its loss is 0, the decision boundary: give the loss 'margin' alone")
        # With its type, because a record equals any other with the same fields.
        self.spec = (attack_of, type(attack_of), loss_of, num_steps, targets is not None)
        self.batch_size = images_at_a_time(*self.images.shape[1:3]) if batch_size is None else batch_size
        self.progress = progress

    def restart(self, number: int, rows: np.ndarray, start: Array | None) -> dict[str, np.ndarray]:
        """The attacked images and predictions of one restart, of the images in these rows."""
        if not len(rows):
            return {"x_adv": self.images[:0], "prediction": np.zeros(0, np.int32), "useless": np.zeros(0, bool)}
        key = jax.random.fold_in(self.key, number)
        starts = () if start is None else (np.asarray(start, np.float32)[rows],)
        given = (self.images[rows], self.labels[rows], rows.astype(np.int32), *starts)
        return self.mapped(_attacks, *given, shared=(self.ball, key))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The predicted classes; -1: none."""
        return self.mapped(_predictions, x)["prediction"]

    def mapped(
        self, make: Callable[..., Any], *arrays: np.ndarray, shared: Any = (), spec: Any = None, fits: int | None = None
    ) -> dict[str, np.ndarray]:
        """A compiled function over arrays `[n, ...]`, in batches of one size.

        spec: what it is compiled from; None for that of the run. fits: the number of images that the size fits; None for all of the run, also where
        fewer are left, because another size would be compiled anew.
        """
        devices, n = jax.local_device_count(), len(self.images) if fits is None else fits
        size = -(-n // (devices * -(-n // self.batch_size)))  # the fewest batches, as equal as can be
        whole, results = size * devices, []
        compiled = make(self.function, self.spec if spec is None else spec)
        for i in self.progress(range(0, len(arrays[0]), whole)):
            batch = [array[i : i + whole] for array in arrays]
            count = len(batch[0])
            padded = [np.concatenate([part, np.repeat(part[-1:], whole - count, axis=0)]) for part in batch]
            out = compiled(self.params, shared, *(part.reshape(devices, size, *part.shape[1:]) for part in padded))
            results.append({name: np.asarray(part).reshape(whole, *part.shape[2:])[:count] for name, part in out.items()})
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def _logits(out: Any) -> Any:
    return out.logits if isinstance(out, Explanation) else out


def forms_of(function: Any, params: Params) -> tuple[Callable[[Image], Any], Callable[[Image], Any]]:
    """The logits of one image: the differentiable form, and the one for repeated gradients."""
    if hasattr(function, "explain"):
        frozen = function.frozen(params)
        return lambda x: function.explain(params, x).logits, lambda x: frozen(x).logits
    return lambda x: _logits(function(x)), lambda x: _logits(function(x))


def over_devices(of_batch: Callable[..., Any]) -> Callable[..., Any]:
    """`(params, shared, *arrays [devices, n, ...])`, compiled for each number of arrays."""
    compiled: dict[int, Callable[..., Any]] = {}

    def run(params: Params, shared: Any, *arrays: Array) -> Any:
        if len(arrays) not in compiled:
            exact = jax.default_matmul_precision("highest")(of_batch)
            compiled[len(arrays)] = jax.pmap(exact, in_axes=(None, None, *[0] * len(arrays)))
        return compiled[len(arrays)](params, shared, *arrays)

    return run


@functools.lru_cache(maxsize=32)
def _attacks(function: Any, spec: Any) -> Callable[..., Any]:
    ascend, _, loss, num_steps, targeted = spec
    sign = -1.0 if targeted else 1.0

    def of_batch(params: Params, shared: Any, x: Array, labels: Array, positions: Array, *starts: Array) -> dict[str, Array]:
        (ball, key), (explain, frozen) = shared, forms_of(function, params)

        def one(x: Image, label: Label, position: Array, *start: Image) -> dict[str, Any]:
            def objective(x_adv: Image) -> tuple[Scalar, Scalar]:
                logits = frozen(x_adv)
                return sign * loss(logits, label), sign * margin_loss(logits, label)

            first = ball.project(start[0], x) if start else None
            found = ascend(objective, ball, x, key=jax.random.fold_in(key, position), num_steps=num_steps, start=first)
            return {"x_adv": found.x_adv, "prediction": predicted_class(explain(found.x_adv)), "useless": found.gradients.useless()}

        return jax.vmap(one)(x, labels, positions, *starts)

    return over_devices(of_batch)


@functools.lru_cache(maxsize=32)
def _predictions(function: Any, spec: Any) -> Callable[..., Any]:
    def of_batch(params: Params, shared: Any, x: Array) -> dict[str, Array]:
        explain, _ = forms_of(function, params)
        return {"prediction": jax.vmap(lambda x: predicted_class(explain(x)))(x)}

    return over_devices(of_batch)


@functools.lru_cache(maxsize=32)
def _checks(function: Any, spec: Any) -> Callable[..., Any]:
    def of_batch(params: Params, shared: Any, x: Array, labels: Array) -> dict[str, Array]:
        explain, _ = forms_of(function, params)

        def one(x: Image, label: Label) -> dict[str, Array]:
            logits = explain(x)
            gradient = jax.grad(lambda z: cross_entropy(explain(z), label))(x)
            return {
                "logits": logits,
                "finite": jnp.all(jnp.isfinite(logits)),
                "finite_gradient": jnp.all(jnp.isfinite(gradient)),
                "vanishing": jnp.all(gradient == 0.0),
                "prediction": predicted_class(logits),
            }

        return jax.vmap(one)(x, labels)

    return over_devices(of_batch)


def predicted_class(logits: Logits) -> Array:
    """The predicted class; -1 where a logit is not finite: such a classifier predicts no class."""
    return jnp.where(jnp.all(jnp.isfinite(logits)), jnp.argmax(logits), -1)


def _row(table: Any, name: Any, what: str) -> Any:
    if isinstance(name, str) and name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(table)}, or give a function")
    return table[name] if isinstance(name, str) else name


def _checked_ball(ball: Any) -> Ball:
    if not hasattr(ball, "random_point"):
        raise ValueError(f"ball must be such as irob.LInf(8 / 255), got {type(ball).__name__}")
    eps, most = float(ball.eps), float(type(ball).max_eps())
    if not 0.0 <= eps <= most or not np.isfinite(eps):
        raise ValueError(f"the radius of {type(ball).__name__} must be in [0, {most:g}] for pixels in [0, 1], got {eps:g}")
    return ball
