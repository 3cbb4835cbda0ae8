"""The training loop: steps, log, validation, checkpoints."""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.errors import InvalidRngError

from experiments import data
from experiments.configs import base
from experiments.data.batches import training_batches
from experiments.runtime import devices, provenance
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.models import build_network
from experiments.runtime.names import find
from experiments.runtime.plan import current_plan
from experiments.training.log import Log
from experiments.training.step import MetricSums, TrainState, initial_state, make_step, zero_metrics
from experiments.training.validation import validation_scores
from experiments.training.workdir import locked_workdir, refuse_changes
from irob.defenses import Defense
from irob.maps import EXPLAINERS, READOUTS, shape_of_maps
from irob.models import LinenModel
from irob.types import Model


def train(config: ml_collections.ConfigDict, workdir: str, data_dir: str | None = None) -> TrainState:
    """Trains to `config.num_steps` and returns the last state, on the host. A run that was interrupted continues from its last checkpoint.

    Raises:
      UserError: for a config, workdir or data set that cannot be used, and for a loss that is not finite (the last good checkpoint is kept).
    """
    base.validate_config(config, devices.num_devices())
    network, plan = build_network(config), current_plan()
    defense = base.defense_of(config, chunk=plan.path_chunk)
    check_network(config, network, defense)
    split = data.load_split(config.dataset, "train", data_dir)
    refuse(
        len(split.labels) < config.batch_size,
        f"config.batch_size = {config.batch_size}: the training split has only {len(split.labels)} images",
    )
    validation = data.load_split(config.dataset, "validation", data_dir).first(config.validation.num_examples)

    with locked_workdir(workdir, config) as directory, Checkpoints(directory, config.keep_last) as checkpoints:
        state = _latest(checkpoints, workdir, config, split) or initial_state(config, network)
        start = int(state.step)
        if start >= config.num_steps:
            print(f"{workdir} has all {config.num_steps} steps already", file=sys.stderr)
            return state
        with Log(directory, start, config) as log:
            step, at_once = make_step(config, network, defense, plan), config.steps_per_dispatch
            batches = training_batches(split, config.batch_size, config.seed, start, at_once)
            device_state, sums = devices.replicate(state), devices.replicate(zero_metrics())
            for number in range(start + at_once, config.num_steps + 1, at_once):
                device_state, sums = step(device_state, sums, *next(batches))
                log.advance(sums, at_once)
                saves = number % config.checkpoint_every == 0 or number == config.num_steps
                if saves or number % config.log_every == 0:
                    log.training(number, mean_loss(devices.unreplicate(sums), directory))
                    sums = devices.replicate(zero_metrics())
                if saves:
                    state = devices.unreplicate(device_state)
                    scores = validation_scores(config, network, state.params, validation)
                    log.validation(number, scores)
                    checkpoints.save(number, state, checkpoint_metadata(config, split, state), scores)
            batches.close()
        return state


def check_network(config: ml_collections.ConfigDict, network: Model, defense: Defense) -> None:
    """Refuses a network that this method cannot train."""
    params = network.initial_params(config.seed)
    if isinstance(network, LinenModel):
        state = sorted(set(params) - {"params", "batch_stats"})
        refuse(
            bool(state),
            f"config.network = {config.network!r}: it has {', '.join(state)} beside its parameters, which training does not update",
        )
        of_image = lambda x: network.training(params, x, READOUTS["cam"], ("batch",)).logits  # noqa: E731
        try:
            jax.eval_shape(jax.vmap(of_image, axis_name="batch"), jnp.zeros((1, *network.input_shape)))
        except InvalidRngError as error:
            raise UserError(
                f"config.network = {config.network!r}: in training it draws at random (dropout), which is not supported"
            ) from error
    if defense.compares_maps:
        try:
            shape_of_maps(find(EXPLAINERS, config.map, "map"), network, params)
        except ValueError as error:
            raise UserError(f"config.map = {config.map!r}, which {config.method} compares: {error}") from error


def _latest(checkpoints: Checkpoints, workdir: str, config: ml_collections.ConfigDict, split: data.Split) -> TrainState | None:
    """The state of the last checkpoint, of the same config and data; None where there is none."""
    if not checkpoints.steps():
        return None
    restored = checkpoints.restore("latest", initial_state(config, build_network(config)))
    refuse_changes(workdir, base.with_defaults(restored.metadata["config"]), base.plain_config(config))
    refuse_changes(workdir, {"data": restored.metadata["data"]["sha256"]}, {"data": split.source["sha256"]})
    return restored.state


def mean_loss(sums: MetricSums, directory: pathlib.Path) -> float:
    """The mean loss, or a `UserError` if a step was not finite."""
    if sums.first_nonfinite_step > 0:
        raise UserError(
            f"the loss or an update was not finite at step {int(sums.first_nonfinite_step)}: training stopped, the checkpoints before it are kept in"
            f" {directory / 'checkpoints'}; lower config.learning_rate"
        )
    return float(sums.loss / sums.steps)


def checkpoint_metadata(config: ml_collections.ConfigDict, split: data.Split, state: TrainState) -> dict[str, Any]:
    """The metadata beside the arrays of a checkpoint."""
    epoch, batch = divmod(int(state.step), len(split.labels) // config.batch_size)
    return {
        "config": base.plain_config(config),
        "versions": provenance.versions(),
        "data": split.source,
        "data_position": {"epoch": epoch, "batch": batch},
    }
