"""What the diagnosis of a network measures at each image: gradients, repeated passes, random noise, the loss along an attack, stability, an attack
that must succeed. All are compiled checks for `Evaluation.map_examples`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import to_unit
from experiments.evaluation.engine import Check
from experiments.runtime import devices
from experiments.runtime.names import find
from irob.attacks import BALLS, PGD, AttackResult, pgd_step, step_rule
from irob.attacks.auto_pgd import at_distance_eps
from irob.batches import predicted_class
from irob.losses import LOSSES, margin_loss
from irob.maps import READOUTS
from irob.types import Array, Image, Label, Model, Params, PRNGKey, Scalar

One = Callable[..., dict[str, Any]]  # `(params, x, label, key, *shared) -> results` of one image


def over_images(one: Callable[..., dict[str, Any]]) -> Check:
    """Pmapped `((params, key data, *shared), images, labels, indices, *rows) -> results` of a function of one image.

    one: `(params, x, label, key, *shared, *rows of the image)`.
    """

    def check(shared: tuple[Any, ...], images: Array, labels: Array, indices: Array, *rows: Array) -> dict[str, Any]:
        params, key_data, *more = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        of_image = lambda x, label, index, *row: one(params, x, label, jax.random.fold_in(key, index), *more, *row)  # noqa: E731
        return jax.vmap(of_image)(to_unit(images), labels, indices, *rows)

    return devices.pmap_full_precision(check)


@functools.lru_cache
def gradients(network: Model, spec: None) -> Check:
    """Logits, and for each loss whether its gradient at the image is zero everywhere, or not finite somewhere."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey) -> dict[str, Any]:
        logits = network.explain(params, x).logits
        found = {"logits": logits, "finite": jnp.all(jnp.isfinite(logits))}
        for name in ("margin", "cross_entropy"):
            gradient = jax.grad(lambda z, name=name: LOSSES[name](network.explain(params, z).logits, label))(x)
            found |= {f"{name}_zero": jnp.all(gradient == 0.0), f"{name}_nonfinite": ~jnp.all(jnp.isfinite(gradient))}
        return found

    return over_images(one)


@functools.lru_cache
def logits_again(network: Model, pass_number: int) -> Check:
    """The logits, compiled anew for each number: a network that draws at random, or keeps a state, has others."""
    return over_images(lambda params, x, label, key: {"logits": network.explain(params, x).logits})


class Noise(NamedTuple):
    """draws: random points of the sphere of radius eps, for each image."""

    norm: str
    draws: int


@functools.lru_cache
def noise_around(network: Model, spec: Noise) -> Check:
    """Whether the prediction is right at x plus noise of length eps: `each`, the proportion of the draws; `all`, at every one."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar) -> dict[str, Any]:
        ball = find(BALLS, spec.norm, "norm")(eps)
        points = jax.vmap(lambda k: at_distance_eps(ball, k, x))(jax.random.split(key, spec.draws))
        right = jax.lax.map(lambda z: predicted_class(network.explain(params, z).logits) == label, points)
        return {"each": jnp.mean(right.astype(jnp.float32)), "all": jnp.all(right)}

    return over_images(one)


class Path(NamedTuple):
    """PGD with the step sizes of the protocol `standard`, on one loss."""

    norm: str
    loss: str
    num_steps: int


@functools.lru_cache
def path(network: Model, spec: Path) -> Check:
    """Along one attack: `losses [steps + 1]`, the running maximum rescaled to [0, 1]; `reached`, whether some iterate is misclassified; `last`,
    whether the last one is.
    """

    def one(params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar) -> dict[str, Any]:
        ball, explain = find(BALLS, spec.norm, "norm")(eps), network.frozen(params)

        def objective(z: Image) -> tuple[Scalar, Scalar]:
            logits = explain(z).logits
            return LOSSES[spec.loss](logits, label), margin_loss(logits, label)

        def step(z: Image, size: Any) -> tuple[Image, tuple[Scalar, Scalar]]:
            (value, margin), gradient = jax.value_and_grad(objective, has_aux=True)(z)
            return pgd_step(ball, x, z, jnp.where(jnp.isfinite(gradient), gradient, 0.0), size), (value, margin)

        sizes = step_rule(PGD().step_sizes)(eps, spec.num_steps)
        last, (values, margins) = jax.lax.scan(step, ball.random_point(key, x), sizes)
        value, margin = objective(last)
        running = jax.lax.cummax(jnp.append(values, value))
        span = running[-1] - running[0]
        scaled = jnp.where(span > 0.0, (running - running[0]) / jnp.where(span > 0.0, span, 1.0), 1.0)
        return {"losses": scaled, "reached": (jnp.max(margins) > 0.0) | (margin > 0.0), "last": margin > 0.0}

    return over_images(one)


class Transfer(NamedTuple):
    """PGD with the step sizes of the protocol `standard`, on the margin of another network, the twin."""

    norm: str
    num_steps: int
    twin: Model


@functools.lru_cache
def transfer(network: Model, spec: Transfer) -> Check:
    """`withstands`: whether the network is right where the attack on the twin ends."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar, twin_params: Params) -> dict[str, Any]:
        ball, twin = find(BALLS, spec.norm, "norm")(eps), spec.twin.frozen(twin_params)
        found = PGD()(lambda z: (margin_loss(twin(z).logits, label),) * 2, ball, x, key=key, num_steps=spec.num_steps)
        return {"withstands": predicted_class(network.explain(params, found.x_adv).logits) == label}

    return over_images(one)


STABILITY_SIDE = 8 / 255  # of the cube that stability is measured in


@functools.lru_cache
def stability(network: Model, draws: int) -> Check:
    """The mean change of the margin over uniform draws from a cube around x, over the margin at x; at most 1 (Pintor et al. 2022, indicator 6)."""

    def one(params: Params, x: Image, label: Label, key: PRNGKey) -> dict[str, Any]:
        margin = lambda z: margin_loss(network.explain(params, z).logits, label)  # noqa: E731
        here = margin(x)
        shifts = jax.random.uniform(key, (draws, *x.shape), x.dtype, -STABILITY_SIDE / 2, STABILITY_SIDE / 2)
        change = jax.lax.map(lambda shift: jnp.abs(margin(jnp.clip(x + shift, 0.0, 1.0)) - here), shifts)
        return {"change": jnp.minimum(jnp.mean(change) / jnp.maximum(jnp.abs(here), 1e-12), 1.0)}

    return over_images(one)


class Binary(NamedTuple):
    """An attack that must succeed: `inner` points of the ball of half the radius against the best separated of `outer` points on its sphere."""

    norm: str
    inner: int
    outer: int
    num_steps: int


def representation(network: Model, params: Params) -> Callable[[Image], Array]:
    """`x -> [K]`: the last feature map, flat; the logits of a network without one."""
    try:
        network.head_kernel(params)
    except (ValueError, NotImplementedError, KeyError):
        return lambda x: network.explain(params, x).logits
    return lambda x: jnp.ravel(network.explain(params, x, READOUTS["representation"]).maps)


@functools.lru_cache
def binary(network: Model, spec: Binary) -> Check:
    """A linear read-out of the features that is negative at x and the inner points and positive at one point of the ball, which therefore holds an
    adversarial example: `exists`, whether the read-out separates them; `found`, whether PGD finds one (Zimmermann et al. 2022,
    https://arxiv.org/abs/2206.13991).
    """

    def one(params: Params, x: Image, label: Label, key: PRNGKey, eps: Scalar) -> dict[str, Any]:
        ball, half = (find(BALLS, spec.norm, "norm")(radius) for radius in (eps, eps / 2.0))
        features = representation(network, params)
        inner_key, outer_key, start_key = jax.random.split(key, 3)
        inner = jax.lax.map(lambda k: features(half.random_point(k, x)), jax.random.split(inner_key, spec.inner))
        points = jax.vmap(lambda k: at_distance_eps(ball, k, x))(jax.random.split(outer_key, spec.outer))
        outer = jax.lax.map(features, points)
        inner = jnp.concatenate([inner, features(x)[None]])
        directions = outer - jnp.mean(inner, axis=0)
        directions /= jnp.maximum(jnp.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
        ends, most = jnp.sum(directions * outer, axis=1), jnp.max(directions @ inner.T, axis=1)
        best = jnp.argmax(ends - most)
        direction, threshold = jax.lax.stop_gradient((directions[best], 0.5 * (ends[best] + most[best])))

        def objective(z: Image) -> tuple[Scalar, Scalar]:
            value = jnp.sum(direction * features(z)) - threshold
            return value, value

        found: AttackResult = PGD()(objective, ball, x, key=start_key, num_steps=spec.num_steps)
        return {"exists": ends[best] > most[best], "found": found.score > 0.0}

    return over_images(one)


def repeated(logits: list[np.ndarray]) -> float:
    """The largest distance between normalized logits of an image in different passes, `[n, C]` each."""
    scaled = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in logits]
    return float(max(np.max(np.linalg.norm(each - scaled[0], axis=1)) for each in scaled))
