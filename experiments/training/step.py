"""One training step: augmentation, the attack, then a gradient step on the outer loss.

BatchNorm: the loss normalizes by the statistics of the whole batch, the attack by the running ones (as the code of TRADES, Zhang et al. 2019, which
attacks in evaluation mode). `config.batch_statistics` says which pass updates these; the adversarial one is that of Gowal et al. 2020
(https://arxiv.org/abs/2010.03593, code).
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments.data import to_unit
from experiments.runtime import devices
from experiments.runtime.names import find
from experiments.runtime.plan import EXAMPLES, Plan, mean_and_gradient, vmap_in_pieces
from experiments.training import augment
from experiments.training.recipe import eps_at, optimizer
from irob.attacks import BALLS, constant_steps, last_of_pgd
from irob.defenses import Defense
from irob.maps import EXPLAINERS, differentiable, explainer, frozen, training
from irob.models import OwnModel
from irob.types import Array, Model, Params, PRNGKey, Scalar


class TrainState(NamedTuple):
    """All that a step changes.

    params, optimizer, step: as named.
    key: raw data of the key that everything random is derived from.
    averaged: moving average of the parameters; None without one.
    """

    params: Params
    optimizer: Any
    step: Array
    key: Array
    averaged: Params | None = None


class MetricSums(NamedTuple):
    """Sums since the last line of the log.

    first_nonfinite_step: the first step, from 1, whose loss or new parameters were not finite; else 0.
    nonfinite_part: what was not finite at that step, an index of `PARTS`.
    """

    loss: Array
    steps: Array
    first_nonfinite_step: Array
    nonfinite_part: Array


PARTS = ("attack", "loss", "update")


def initial_state(config: ml_collections.ConfigDict, network: Model, params: Params | None = None) -> TrainState:
    """The state before step 0, on the host. params: None for those that the seed draws."""
    params = network.initial_params(config.seed) if params is None else params
    key = jax.random.key_data(jax.random.key(config.seed))
    averaged = params if config.ema_decay else None
    return jax.tree.map(np.asarray, TrainState(params, optimizer(config).init(params), np.zeros((), np.int32), key, averaged))


def zero_metrics() -> MetricSums:
    """The sums before any step."""
    return MetricSums(np.zeros((), np.float32), np.zeros((), np.int32), np.zeros((), np.int32), np.zeros((), np.int32))


def make_attack(config: ml_collections.ConfigDict, network: Model, defense: Defense, plan: Plan) -> Callable[..., Array]:
    """`(params, x, labels, keys, eps) -> x_adv` for a batch: PGD on the defense's inner objective, from random starts."""
    ball_of, row = find(BALLS, config.attack.norm, "norm"), find(EXPLAINERS, config.map, "map")
    largest = max(math.prod(shape) for shape in network.layer_shapes())

    def attack(params: Params, x: Array, labels: Array, keys: Array, eps: Scalar) -> Array:
        explain = explainer(row, network, frozen(params, config.attack.dtype))
        ball = ball_of(eps)
        step_sizes = constant_steps(config.attack.step_size, config.attack.num_steps)

        def one(x: Array, label: Array, key: Array) -> Array:
            assert defense.inner is not None
            inner = defense.inner(explain, x, label)
            found = last_of_pgd(lambda z: (inner(z), 0.0), ball, x, step_sizes=step_sizes, start=ball.random_point(key, x))
            return jnp.where(found.finite(), found.x_adv, jnp.nan)  # without any finite gradient training must not go on

        return vmap_in_pieces(one, lambda n: plan.attack_piece(n, largest))(x, labels, keys)

    return attack


BATCH_AXES = (EXAMPLES, devices.AXIS)


def make_gradient(config: ml_collections.ConfigDict, network: Model, defense: Defense, plan: Plan) -> Callable[..., Any]:
    """`(params, x, x_adv, labels, keys) -> (mean loss, its gradient)` over the batch on this device."""
    row = find(EXPLAINERS, config.map, "map")
    residuals = residual_floats(network, defense, row.gradients)
    own = isinstance(network, OwnModel)
    normalizes = isinstance(network, OwnModel) and network.keeps_statistics()

    def loss_of(params: Params, x: Array, x_adv: Array, label: Array, *key: PRNGKey) -> Scalar:
        forward = training(params, BATCH_AXES, *key) if own else differentiable(params)
        explain = explainer(row, network, forward)
        return augment.expected(lambda label: defense.outer(explain, x, x_adv, label), label)

    def piece(n: int) -> int:
        return n if normalizes else plan.loss_piece(n, residuals)  # the statistics are those of the whole batch

    of_batch = mean_and_gradient(loss_of, piece)
    return lambda params, x, x_adv, labels, keys: of_batch(params, x, x_adv, labels, *([keys] if own else []))


SHORT_STEPS, SHORT_FLOATS = 10, 10**7  # a step that stores no more than these takes a few milliseconds, as long as its dispatch


def steps_at_once(config: ml_collections.ConfigDict, network: Model, defense: Defense, start: int = 0) -> int:
    """Optimizer steps in one dispatch: the largest common divisor of what is wanted, of the intervals of the config and of the first step. Wanted is
    what the config says, or else `SHORT_STEPS` where nothing is attacked and a step is short.
    """
    stored = config.batch_size * residual_floats(network, defense, find(EXPLAINERS, config.map, "map").gradients)
    short = defense.inner is None and stored <= SHORT_FLOATS
    wanted = config.steps_per_dispatch or (SHORT_STEPS if short else 1)
    return math.gcd(wanted, start, config.num_steps, config.checkpoint_every, config.log_every)


def make_step(
    config: ml_collections.ConfigDict, network: Model, defense: Defense, plan: Plan
) -> Callable[..., tuple[TrainState, MetricSums]]:
    """The pmapped steps `(state, sums, images, labels) -> (state, sums)` on batches `[steps, batch, ...]`; each device has its part of each batch."""
    update, attack = optimizer(config).update, make_attack(config, network, defense, plan)
    gradient_of, augmented = make_gradient(config, network, defense, plan), augment.make_augmentation(config, network.num_classes)
    normalizes = isinstance(network, OwnModel) and network.keeps_statistics()

    def step(state: TrainState, sums: MetricSums, images: Array, labels: Array) -> tuple[TrainState, MetricSums]:
        eps, keys_for = eps_at(config, state.step), keys_of_batch(state, len(labels))
        x, labels, targets = augmented(to_unit(images), labels, keys_for)
        if defense.inner is None:
            x_adv = x
        else:
            keys = keys_for(None)
            x_adv = jax.lax.cond(eps > 0.0, lambda: attack(state.params, x, labels, keys, eps), lambda: x)
        dropout_keys = keys_for("dropout")
        loss, gradient = devices.mean_over_devices(gradient_of(state.params, x, x_adv, targets, dropout_keys))
        updates, optimizer_state = update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        if normalizes:
            statistics = state.params
            for passed in {"clean": (x,), "adversarial": (x_adv,), "both": (x, x_adv)}[config.batch_statistics]:
                statistics = {**statistics, "batch_stats": updated_statistics(network, statistics, passed, dropout_keys)}
            params |= {"batch_stats": statistics["batch_stats"]}
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((loss, params))]))
        first = (sums.first_nonfinite_step == 0) & ~finite
        bad = jnp.where(first, state.step + 1, sums.first_nonfinite_step)
        part = jnp.where(jnp.all(jnp.isfinite(x_adv)), jnp.where(jnp.isfinite(loss), 2, 1), 0)
        part = jnp.where(first, part, sums.nonfinite_part)
        new = TrainState(params, optimizer_state, state.step + 1, state.key, moving_average(config, state, params))
        return new, MetricSums(sums.loss + loss, sums.steps + 1, bad, part)

    def steps(state: TrainState, sums: MetricSums, images: Array, labels: Array) -> tuple[TrainState, MetricSums]:
        return jax.lax.scan(lambda carry, batch: (step(*carry, *batch), None), (state, sums), (images, labels))[0]

    return devices.pmap(steps, donate=(0,))


def keys_of_batch(state: TrainState, n: int) -> Callable[[str | None], Array]:
    """`purpose -> keys [n]`, of (seed, step, purpose, position in the whole batch). None: of the random starts."""
    of_step = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)

    def keys(purpose: str | None) -> Array:
        key = of_step if purpose is None else jax.random.fold_in(of_step, zlib.crc32(purpose.encode()))
        return jax.vmap(jax.random.fold_in, (None, 0))(key, devices.batch_positions(n))

    return keys


def moving_average(config: ml_collections.ConfigDict, state: TrainState, params: Params) -> Params | None:
    """`decay a + (1 - decay) params` after each update, decay growing as `min(decay, (1 + updates) / (10 + updates))`, so that the initial
    parameters are soon forgotten (as `tf.train.ExponentialMovingAverage` with `num_updates`). Statistics of BatchNorm are averaged, too.
    """
    if state.averaged is None:
        return None
    updates, made = jnp.divmod(state.step + 1, config.accumulate_steps)
    decay = jnp.where(made == 0, jnp.minimum(config.ema_decay, (1.0 + updates) / (10.0 + updates)), 1.0)
    return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.averaged, params)


def updated_statistics(network: Model, params: Params, x: Array, keys: Array) -> Params:
    """The running statistics after a pass of the whole batch, on all devices."""
    assert isinstance(network, OwnModel)
    of_image = lambda x, key: network.updated_statistics(params, x, BATCH_AXES, key)  # noqa: E731
    return jax.vmap(of_image, out_axes=None, axis_name=EXAMPLES)(x, keys)


def residual_floats(network: Model, defense: Defense, gradients_of_map: int) -> int:
    """About how many floats the loss of one example stores for the backward pass: every layer of x and of x', before and after the rectifier, and
    that again for each gradient computed at the same time that is itself differentiated.
    """
    gradients = defense.gradients * max(gradients_of_map, 1)
    if gradients_of_map or defense.per_class:
        gradients *= network.num_classes
    return 4 * gradients * sum(math.prod(shape) for shape in network.layer_shapes())
