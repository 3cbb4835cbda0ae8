"""One training step: the attack, then a gradient step on the outer loss.

BatchNorm: the loss normalizes by the statistics of the whole batch, the attack by the running ones (as the code of TRADES, Zhang et al. 2019, which
attacks in evaluation mode). `config.batch_statistics` says which pass updates these; the adversarial one is that of Gowal et al. 2020
(https://arxiv.org/abs/2010.03593, code).
"""

import math
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
from experiments.training.recipe import eps_at, optimizer
from irob.attacks import BALLS, constant_steps, pgd
from irob.defenses import Defense
from irob.maps import EXPLAINERS, differentiable, explainer, frozen, training
from irob.models import LinenModel
from irob.types import Array, Model, Params, Scalar


class TrainState(NamedTuple):
    """All that a step changes. key: raw data of the key that every random start is derived from."""

    params: Params
    optimizer: Any
    step: Array
    key: Array


class MetricSums(NamedTuple):
    """Sums since the last line of the log. first_nonfinite_step: the first step, from 1, whose loss or new parameters were not finite; else 0."""

    loss: Array
    steps: Array
    first_nonfinite_step: Array


def initial_state(config: ml_collections.ConfigDict, network: Model) -> TrainState:
    """The state before step 0, on the host."""
    params = network.initial_params(config.seed)
    state = TrainState(params, optimizer(config).init(params), np.zeros((), np.int32), jax.random.key_data(jax.random.key(config.seed)))
    return jax.tree.map(np.asarray, state)


def zero_metrics() -> MetricSums:
    """The sums before any step."""
    return MetricSums(np.zeros((), np.float32), np.zeros((), np.int32), np.zeros((), np.int32))


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
            return pgd(defense.inner(explain, x, label), ball, x, step_sizes=step_sizes, start=ball.random_point(key, x))

        return vmap_in_pieces(one, lambda n: plan.attack_piece(n, largest))(x, labels, keys)

    return attack


def make_step(
    config: ml_collections.ConfigDict, network: Model, defense: Defense, plan: Plan
) -> Callable[..., tuple[TrainState, MetricSums]]:
    """The pmapped steps `(state, sums, images, labels) -> (state, sums)` on batches `[steps, batch, ...]`; each device has its part of each batch."""
    update, attack = optimizer(config).update, make_attack(config, network, defense, plan)
    row = find(EXPLAINERS, config.map, "map")
    residuals = residual_floats(network, defense, row.gradients)

    normalizes = isinstance(network, LinenModel) and network.keeps_statistics()

    def loss_of(params: Params, x: Array, x_adv: Array, label: Array) -> Scalar:
        forward = training(params, BATCH_AXES) if normalizes else differentiable(params)
        return defense.outer(explainer(row, network, forward), x, x_adv, label)

    def piece(n: int) -> int:
        return n if normalizes else plan.loss_piece(n, residuals)  # the statistics are those of the whole batch

    def step(state: TrainState, sums: MetricSums, images: Array, labels: Array) -> tuple[TrainState, MetricSums]:
        x, eps = to_unit(images), eps_at(config, state.step)
        if defense.inner is None:
            x_adv = x
        else:
            step_key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, devices.batch_positions(len(labels)))
            x_adv = jax.lax.cond(eps > 0.0, lambda: attack(state.params, x, labels, keys, eps), lambda: x)
        of_device = mean_and_gradient(loss_of, piece)(state.params, x, x_adv, labels)
        loss, gradient = devices.mean_over_devices(of_device)
        updates, optimizer_state = update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        if normalizes:
            params |= {"batch_stats": updated_statistics(network, state.params, x if config.batch_statistics == "clean" else x_adv)}
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((loss, params))]))
        bad = jnp.where((sums.first_nonfinite_step == 0) & ~finite, state.step + 1, sums.first_nonfinite_step)
        return TrainState(params, optimizer_state, state.step + 1, state.key), MetricSums(sums.loss + loss, sums.steps + 1, bad)

    def steps(state: TrainState, sums: MetricSums, images: Array, labels: Array) -> tuple[TrainState, MetricSums]:
        return jax.lax.scan(lambda carry, batch: (step(*carry, *batch), None), (state, sums), (images, labels))[0]

    return devices.pmap(steps, donate=(0,))


BATCH_AXES = (EXAMPLES, devices.AXIS)


def updated_statistics(network: Model, params: Params, x: Array) -> Params:
    """The running statistics after a pass of the whole batch, on all devices."""
    assert isinstance(network, LinenModel)
    of_image = lambda x: network.updated_statistics(params, x, BATCH_AXES)  # noqa: E731
    return jax.vmap(of_image, out_axes=None, axis_name=EXAMPLES)(x)


def residual_floats(network: Model, defense: Defense, gradients_of_map: int) -> int:
    """About how many floats the loss of one example stores for the backward pass: every layer of x and of x', before and after the rectifier, and
    that again for each gradient computed at the same time that is itself differentiated.
    """
    gradients = defense.gradients * max(gradients_of_map, 1)
    if gradients_of_map or defense.per_class:
        gradients *= network.num_classes
    return 4 * gradients * sum(math.prod(shape) for shape in network.layer_shapes())
