"""The training loop: steps, log, validation, checkpoints."""

import contextlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.errors import InvalidRngError

from experiments import data
from experiments.configs import base
from experiments.data.batches import training_batches
from experiments.runtime import devices, provenance
from experiments.runtime.checkpoints import SCORE, Checkpoints, fingerprint
from experiments.runtime.errors import UserError, one_line, refuse, warn
from experiments.runtime.models import build_network, params_from
from experiments.runtime.names import find
from experiments.runtime.plan import current_plan
from experiments.runtime.process import drop_old_programs
from experiments.runtime.signals import stopped_by
from experiments.training.augment import check_augmentation
from experiments.training.log import Log
from experiments.training.recipe import check_recipe, eps_at
from experiments.training.step import PARTS, MetricSums, TrainState, initial_state, make_step, steps_at_once, zero_metrics
from experiments.training.validation import validation_scores
from experiments.training.workdir import locked_workdir, refuse_changes, refuse_other_runs
from irob.defenses import Defense
from irob.maps import EXPLAINERS, READOUTS, shape_of_maps
from irob.models import LinenModel, OwnModel
from irob.types import Model, Params


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    data_dir: str | None = None,
    extend: bool = False,
    stop: Callable[[], int | None] = lambda: None,
    from_step: int | None = None,
    quiet: bool = False,
) -> TrainState:
    """Trains to `config.num_steps` and returns the last state, on the host. A run that was interrupted continues from its last checkpoint.

    Args:
      config: from `configs.base.load_config` or `make`.
      workdir: where checkpoints and logs go.
      data_dir: where tfds data sets lie.
      extend: whether a run of fewer steps is continued to this number. Where the schedule of the learning rate depends on the number of steps, the
        result is not that of one run.
      stop: the number of a signal that asks to stop, None while there is none; then the run is saved as it is, without validation.
      from_step: of the checkpoint to continue from; later ones are set aside. None: the last.
      quiet: whether no progress is printed.

    Raises:
      Stopped: if it was asked to stop.
      UserError: for a config, workdir or data set that cannot be used, and for a loss that is not finite (the last good checkpoint is kept).
    """
    drop_old_programs()
    base.validate_config(config, devices.num_devices())
    refuse_other_runs(pathlib.Path(workdir), base.plain_config(config), extend)  # before the work of the rest
    network, defense, params, split, validation = _prepared(config, workdir, data_dir)
    same = fingerprint(params) + split.source["sha256"] + validation.source["sha256"]
    refuse(not devices.all_processes_agree(same), "the processes do not see the same data or initial parameters: give all the same files")
    with locked_workdir(workdir, config, extend) as directory, Checkpoints(directory, config.keep_last) as checkpoints:
        if from_step is not None:
            _go_back(checkpoints, workdir, from_step, initial_state(config, network, params))
        state, history = _latest(checkpoints, workdir, config, split, network, params)
        history = history if from_step is None else history._replace(from_step=from_step)
        start = int(state.step)
        if start >= config.num_steps or history.waited(config):
            early = f": it stopped at {start}, config.patience after its best validation at {history.best_step}"
            if not quiet:
                print(f"{workdir} has all {config.num_steps} steps already{'' if start >= config.num_steps else early}", file=sys.stderr)
            return state
        with Log(directory, start, config, quiet) as log:
            step, at_once = make_step(config, network, defense, current_plan()), steps_at_once(config, network, defense, start)
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
                    scores = all_scores(config, network, state, validation)
                    log.validation(number, scores)
                    history = history.after(number, scores[SCORE], config)
                    checkpoints.save(number, state, checkpoint_metadata(config, split, state, history), scores)
                    if history.waited(config):
                        print(f"stopped: no better validation since step {history.best_step}", file=sys.stderr)
                        break
                if (signal := stop()) is not None and number < config.num_steps:
                    batches.close()
                    if not saves:
                        mean_loss(devices.unreplicate(sums), directory)  # refuses what is not finite
                        state = devices.unreplicate(device_state)
                        checkpoints.save(number, state, checkpoint_metadata(config, split, state, history), None)
                    raise stopped_by(signal, f"saved at step {number} of {config.num_steps}")
            batches.close()
        return state


class Prepared(NamedTuple):
    """What a training needs, checked: nothing of it is refused later."""

    network: Model
    defense: Defense
    params: Params
    split: data.Split
    validation: data.Split


def _prepared(config: ml_collections.ConfigDict, workdir: str, data_dir: str | None) -> Prepared:
    """Checks everything that can be checked before the workdir is touched, and says what is odd."""
    network = build_network(config)
    defense = base.defense_of(config, chunk=current_plan().path_chunk)
    params = network.initial_params(config.seed)
    check_network(config, network, defense, params)
    check_recipe(config, params)
    check_augmentation(config, network.input_shape)
    begins = not any((pathlib.Path(workdir) / "checkpoints").glob("[0-9]*"))
    if config.init_from and begins:
        params = params_from(config.init_from, params)
    split = data.load_split(config.dataset, "train", data_dir)
    refuse(
        len(split.labels) < config.batch_size,
        f"config.batch_size = {config.batch_size}: the training split has only {len(split.labels)} images",
    )
    wanted = config.validation.num_examples
    validation = data.load_split(config.dataset, "validation", data_dir).first(wanted)
    if (fewer := len(validation.labels)) < wanted:
        warn(f"config.validation.num_examples = {wanted}: the validation split has only {fewer} images")
    last_eps = float(eps_at(config, np.int32(config.num_steps - 1)))
    if defense.inner is not None and last_eps < 0.999 * config.eps:
        warn(f"eps is {last_eps:g} at the last step, not {config.eps:g}: config.eps_ramp = {tuple(config.eps_ramp)} ends after it")
    return Prepared(network, defense, params, split, validation)


class History(NamedTuple):
    """What a run has behind it.

    best_score, best_step, validations: the best robust validation accuracy, where it was, and how many validations came after it.
    extended_from: numbers of steps that this run was to have before it was extended.
    init_from: digest of the parameters that it began with, where they are those of `config.init_from`.
    from_step: the checkpoint that it went back to; 0 if it never did.
    """

    best_score: float = -1.0
    best_step: int = 0
    validations: int = 0
    extended_from: tuple[int, ...] = ()
    init_from: str = ""
    from_step: int = 0

    def after(self, step: int, score: float, config: ml_collections.ConfigDict) -> "History":
        """The history with one more validation."""
        if score > self.best_score:
            return self._replace(best_score=score, best_step=step, validations=0)
        return self._replace(validations=self.validations + 1)

    def waited(self, config: ml_collections.ConfigDict) -> bool:
        """Whether the patience of the config is at its end."""
        return 0 < config.patience <= self.validations


def all_scores(config: ml_collections.ConfigDict, network: Model, state: TrainState, validation: data.Split) -> dict[str, float]:
    """Validation accuracies, also of the moving average; then `SCORE`, by which the best checkpoint is chosen, is the average's."""
    scores = validation_scores(config, network, state.params, validation)
    if state.averaged is None:
        return scores
    averaged = validation_scores(config, network, state.averaged, validation)
    return {f"raw_{name}": value for name, value in scores.items()} | averaged


def check_network(config: ml_collections.ConfigDict, network: Model, defense: Defense, params: Params) -> None:
    """Refuses a network that this method cannot train."""
    if isinstance(network, LinenModel):
        state = sorted(set(params) - {"params", "batch_stats"})
        refuse(
            bool(state),
            f"config.network = {config.network!r}: it has {', '.join(state)} beside its parameters, which training does not update",
        )
        takes = inspect.signature(type(network.module).__call__).parameters
        other = [name for name in ("training", "is_training", "deterministic", "use_running_average") if name in takes]
        wrong = "train" not in takes and (network.keeps_statistics() or bool(other))
        what = f"its __call__ takes {other[0]!r}" if other else "it has BatchNorm and its __call__ takes no flag"
        refuse(
            wrong, f"config.network = {config.network!r}: {what}: training passes train=True, evaluation train=False, under this name alone"
        )
    if isinstance(network, OwnModel):
        of_image = lambda x: network.training(params, x, READOUTS["cam"], ("batch",), jax.random.key(0)).logits  # noqa: E731
        try:
            jax.eval_shape(jax.vmap(of_image, axis_name="batch"), jnp.zeros((1, *network.input_shape)))
        except InvalidRngError as error:
            raise UserError(
                f"config.network = {config.network!r}: in training it draws from more keys than dropout's: {one_line(error)}"
            ) from error
    if defense.compares_maps:
        try:
            shape_of_maps(find(EXPLAINERS, config.map, "map"), network, params)
        except ValueError as error:
            raise UserError(f"config.map = {config.map!r}, which {config.method} compares: {error}") from error


def _go_back(checkpoints: Checkpoints, workdir: str, step: int, like: TrainState) -> None:
    """Makes a checkpoint the last one, unless the last one is a good one that came from it: so the same command resumes."""
    there = checkpoints.steps()
    refuse(step not in there, f"--from_step={step}: {workdir} has the checkpoints {', '.join(map(str, there)) or 'none'}")
    with contextlib.suppress(UserError):
        if checkpoints.restore("latest", like).metadata.get("history", {}).get("from_step") == step:
            return
    later = [other for other in there if other > step]
    devices.on_first_process(lambda: checkpoints.set_aside(later), f"--workdir {workdir}", "make it writable")
    checkpoints.manager.reload()
    if later and devices.is_first_process():
        warn(
            f"the checkpoints {', '.join(map(str, later))} are now in {pathlib.Path(workdir) / 'set_aside'}; the run continues from {step}"
        )


def _latest(
    checkpoints: Checkpoints, workdir: str, config: ml_collections.ConfigDict, split: data.Split, network: Model, params: Params
) -> tuple[TrainState, History]:
    """The state of the last checkpoint, of the same config and data, and what is behind it; the initial state where there is none."""
    if not checkpoints.steps():
        return initial_state(config, network, params), History(init_from=fingerprint(params) if config.init_from else "")
    restored = checkpoints.restore("latest", initial_state(config, network, params))
    checkpoints.metadata("latest", needs=("config", "data"))
    base.stored_config(restored.metadata["config"], f"the config of checkpoint {restored.step} in {workdir}")
    before, wanted = base.with_defaults(restored.metadata["config"]), base.plain_config(config)
    history = History(**{name: value for name, value in restored.metadata.get("history", {}).items() if name in History._fields})
    if before["num_steps"] != config.num_steps:  # the workdir has agreed to it
        history = history._replace(extended_from=(*history.extended_from, before["num_steps"]), validations=0)
    refuse_changes(workdir, before | {"num_steps": config.num_steps}, wanted)
    refuse_changes(workdir, {"data": restored.metadata["data"].get("sha256")}, {"data": split.source["sha256"]})
    return restored.state, history


NONFINITE = {  # part of a step -> what is said of it, and what to do
    "attack": ("the gradient of what the attack ascends was", "a term has none where the attack starts, or the logits overflow"),
    "loss": ("the loss was", "lower config.learning_rate"),
    "update": (
        "the loss was finite, but its gradient or the update was",
        "at the first step: a term of the loss has no gradient there (as a norm at x' = x); otherwise lower config.learning_rate",
    ),
}


def mean_loss(sums: MetricSums, directory: pathlib.Path) -> float:
    """The mean loss, or a `UserError` if a step was not finite."""
    if sums.first_nonfinite_step > 0:
        what, advice = NONFINITE[PARTS[int(sums.nonfinite_part)]]
        raise UserError(
            f"{what} not finite at step {int(sums.first_nonfinite_step)}: training stopped, the checkpoints before it are kept in"
            f" {directory / 'checkpoints'}; {advice}"
        )
    return float(sums.loss / max(sums.steps, 1))


def checkpoint_metadata(config: ml_collections.ConfigDict, split: data.Split, state: TrainState, history: History) -> dict[str, Any]:
    """The metadata beside the arrays of a checkpoint."""
    epoch, batch = divmod(int(state.step), len(split.labels) // config.batch_size)
    return {
        "config": base.plain_config(config),
        "versions": provenance.versions(),
        "data": split.source,
        "data_position": {"epoch": epoch, "batch": batch},
        "history": history._asdict(),
    }
