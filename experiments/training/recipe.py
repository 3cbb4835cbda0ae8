"""How parameters are updated: the optimizer and the schedules of a config."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments.runtime import optimizers
from experiments.runtime.calls import call_text
from experiments.runtime.errors import UserError, one_line, refuse
from irob.types import Array, Params, Scalar


def eps_at(config: ml_collections.ConfigDict, step: Array | np.integer) -> Scalar:
    """`eps clip((step - s0) / (s1 - s0), 0, 1)`, s0 and s1 being the two steps of `config.eps_ramp`."""
    start, end = config.eps_ramp
    return config.eps * jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def learning_rate_at(config: ml_collections.ConfigDict, step: Array | np.integer) -> Scalar:
    """The learning rate of a step, counted from 0: the schedule counts updates, of `config.accumulate_steps` steps each."""
    return jnp.asarray(schedule(config)(step // config.accumulate_steps))


def schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """The learning rate as a function of the number of updates made."""
    return optimizers.make_schedule(config.schedule, config.learning_rate, max(config.num_steps // config.accumulate_steps, 1))


def decays(params: Params) -> Any:
    """Which parameters have weight decay: those with more than one axis, so neither biases nor scales of norms."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a config: clipping, then weight decay (added to the gradient, as in the SGD of PyTorch), then the optimizer by name.

    The default is Adam with optax's defaults, which are the authors' (beta 0.9, 0.999; epsilon 1e-8).
    """
    transformations = [
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
        *([optax.add_decayed_weights(config.weight_decay, decays)] if config.weight_decay else []),
    ]
    base = optimizers.make_optimizer(config.optimizer, schedule(config), decays)
    whole = optax.chain(*transformations, base) if transformations else base
    if config.accumulate_steps > 1:
        whole = optax.MultiSteps(whole, config.accumulate_steps).gradient_transformation()
    return whole


def check_recipe(config: ml_collections.ConfigDict, params: Params) -> None:
    """Makes one update in the abstract, so that a recipe that cannot work is refused before the first step.

    Raises:
      UserError: with what optax says.
    """
    try:
        update = optimizer(config)
        jax.eval_shape(lambda p: update.update(p, update.init(p), p), params)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        made = f"{call_text(config.optimizer)} with {call_text(config.schedule)}"
        raise UserError(f"config.optimizer, config.schedule: {made} make no optimizer: {one_line(error)}") from error
    last = max(config.num_steps // config.accumulate_steps, 1) - 1
    updates = np.unique(np.linspace(0, last, min(last + 1, 100_000)).astype(np.int32))
    rates = np.asarray(jax.jit(jax.vmap(schedule(config)))(updates))
    wrong = ~(np.isfinite(rates) & (rates >= 0.0))
    first = int(updates[np.argmax(wrong)])
    what = f"config.schedule = {call_text(config.schedule)}: the learning rate"
    refuse(bool(wrong.any()), f"{what} of update {first} is {rates[np.argmax(wrong)]:g}: it must be finite and not negative")
    refuse(not rates.any(), f"{what} is 0 at every update")
