"""The training loop: one pmapped step, its state and log, and the workdir that a run claims."""

import collections
import contextlib
import fcntl
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, parallel, protocols, provenance
from experiments.checkpoints import SCORE, Checkpoints
from experiments.cli import UserError
from experiments.configs import common
from experiments.evaluator import Evaluator
from experiments.measures.pgd import ladder
from irob import networks
from irob.arrays import Array, Params, Scalar
from irob.attacks.balls import BALLS
from irob.attacks.pgd import constant_steps, pgd
from irob.defenses import DEFENSES, Defense, points_at_once
from irob.explainers import GRADIENTS, explainer, for_attacks, plain
from irob.networks import CAMNetwork

if TYPE_CHECKING:
    import ml_collections


class TrainState(NamedTuple):
    """All that a step changes. key: raw data of the key that every random start is derived from."""

    params: Params
    optimizer: Any
    step: Array
    key: Array


class Totals(NamedTuple):
    """Sums since the last line of the log. first_bad: the first step, counted from 1, whose loss or new parameters were not finite; else 0."""

    loss: Array
    steps: Array
    first_bad: Array


def eps_at(config: "ml_collections.ConfigDict", step: Array | np.integer) -> Scalar:
    """`eps clip((step - s0) / (s1 - s0), 0, 1)` with the two steps of `config.eps_ramp`."""
    start, end = config.eps_ramp
    return config.eps * jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def learning_rate_at(config: "ml_collections.ConfigDict", step: Array | np.integer) -> Scalar:
    """The learning rate, divided by 10 after each of `config.learning_rate_drops`."""
    drops = sum((jnp.asarray(step > drop, jnp.float32) for drop in config.learning_rate_drops), start=jnp.float32(0.0))
    return config.learning_rate * 0.1**drops


def build(config: "ml_collections.ConfigDict") -> tuple[CAMNetwork, Defense]:
    """The network and the training method of a config."""
    dataset = data.find(config.dataset)
    network = networks.create(config.network, dataset.image_shape, len(dataset.classes))
    return network, DEFENSES[config.method](**config.defense)


def optimizer(config: "ml_collections.ConfigDict") -> optax.GradientTransformation:
    """Adam with optax's defaults, which are the authors' (beta 0.9, 0.999; epsilon 1e-8)."""
    return optax.adam(lambda step: learning_rate_at(config, step))


def initial_state(config: "ml_collections.ConfigDict", network: CAMNetwork) -> TrainState:
    """The state before step 0, on the host."""
    params = network.initial_params(config.seed)
    state = TrainState(params, optimizer(config).init(params), np.zeros((), np.int32), jax.random.key_data(jax.random.key(config.seed)))
    return jax.tree.map(np.asarray, state)


def make_step(config: "ml_collections.ConfigDict", network: CAMNetwork, defense: Defense) -> Callable[..., tuple[TrainState, Totals]]:
    """The pmapped steps `(state, totals, images, labels) -> (state, totals)` on batches `[steps, batch, ...]`; each device has its part of each."""
    update = optimizer(config).update

    def attack(params: Params, x: Array, labels: Array, keys: Array, eps: Scalar) -> Array:
        explain = explainer(config.map, network, for_attacks(params, config.attack.dtype))
        ball = BALLS[config.attack.norm](eps)
        step_sizes = constant_steps(config.attack.step_size, config.attack.num_steps)

        def one(x: Array, label: Array, key: Array) -> Array:
            assert defense.inner is not None
            return pgd(defense.inner(explain, x, label), ball, x, step_sizes=step_sizes, start=ball.random_point(key, x))

        largest = max(math.prod(shape) for shape in network.layer_shapes())
        return parallel.vmap_in_cache(one, largest)(x, labels, keys)

    def step(state: TrainState, totals: Totals, images: Array, labels: Array) -> tuple[TrainState, Totals]:
        x, eps = data.to_unit(images), eps_at(config, state.step)
        if defense.inner is None:
            x_adv = x
        else:
            step_key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, parallel.positions(len(labels)))
            x_adv = jax.lax.cond(eps > 0.0, lambda: attack(state.params, x, labels, keys, eps), lambda: x)

        def loss_of(params: Params, x: Array, x_adv: Array, label: Array) -> Scalar:
            return defense.outer(explainer(config.map, network, plain(params)), x, x_adv, label)

        loss, gradient = parallel.mean(parallel.mean_and_gradient(loss_of, kept_floats(config, network))(state.params, x, x_adv, labels))
        updates, optimizer_state = update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((loss, params))]))
        bad = jnp.where((totals.first_bad == 0) & ~finite, state.step + 1, totals.first_bad)
        return TrainState(params, optimizer_state, state.step + 1, state.key), Totals(totals.loss + loss, totals.steps + 1, bad)

    def steps(state: TrainState, totals: Totals, images: Array, labels: Array) -> tuple[TrainState, Totals]:
        return jax.lax.scan(lambda carry, batch: (step(*carry, *batch), None), (state, totals), (images, labels))[0]

    return parallel.pmap(steps, donate=(0,))


def kept_floats(config: "ml_collections.ConfigDict", network: CAMNetwork) -> int:
    """About how many floats the loss of one example keeps for the way back: every layer of x and of x', as it is and rectified, and that again for
    each gradient of those computed at once that is differentiated itself.
    """
    gradients = min(config.defense.get("points", 1), points_at_once())
    if config.map in GRADIENTS or config.method.startswith("int_ig"):
        gradients *= network.num_classes * GRADIENTS.get(config.map, 1)
    return 4 * gradients * sum(math.prod(shape) for shape in network.layer_shapes())


def train(config: "ml_collections.ConfigDict", workdir: str, data_dir: str | None = None) -> TrainState:
    """Trains to `config.num_steps` and returns the last state, on the host.

    Raises:
      UserError: for a config, workdir or data set that cannot be used, and for a loss that is not finite (the last good checkpoint is kept).
    """
    common.validate(config, parallel.num_devices())
    network, defense = build(config)
    train_split = data.load(config.dataset, "train", data_dir)
    if len(train_split.labels) < config.batch_size:
        raise UserError(f"config.batch_size = {config.batch_size}: the training split has only {len(train_split.labels)} images")
    validation = data.load(config.dataset, "validation", data_dir).first(config.validation.num_examples)

    with claim(workdir, config) as directory, Checkpoints(directory, config.keep_last) as checkpoints:
        state = initial_state(config, network)
        if checkpoints.steps():
            restored = checkpoints.restore("latest", state)
            refuse_changes(workdir, common.completed(restored.metadata["config"]), provenance.plain(config))
            refuse_changes(workdir, {"data": restored.metadata["data"]["sha256"]}, {"data": train_split.source["sha256"]})
            state = restored.state
        start = int(state.step)
        if start >= config.num_steps:
            print(f"{workdir} has all {config.num_steps} steps already", file=sys.stderr)
            return state
        with Log(directory, start, config) as log:
            step = make_step(config, network, defense)
            at_once = config.steps_per_dispatch
            batches = data.training_batches(train_split, config.batch_size, config.seed, start, at_once)
            device_state, totals = parallel.replicate(state), parallel.replicate(no_totals())
            for number in range(start + at_once, config.num_steps + 1, at_once):
                device_state, totals = step(device_state, totals, *next(batches))
                log.advance(totals, at_once)
                saves = number % config.checkpoint_every == 0 or number == config.num_steps
                if saves or number % config.log_every == 0:
                    log.training(number, check(parallel.first(totals), directory))
                    totals = parallel.replicate(no_totals())
                if saves:
                    state = parallel.first(device_state)
                    scores = validate(config, network, state.params, validation)
                    log.validation(number, scores)
                    checkpoints.save(number, state, describe(config, train_split, state), scores)
            batches.close()
        return state


def no_totals() -> Totals:
    """Totals of no step."""
    return Totals(np.zeros((), np.float32), np.zeros((), np.int32), np.zeros((), np.int32))


def check(totals: Totals, directory: pathlib.Path) -> float:
    """The mean loss, or a `UserError` if a step failed."""
    if totals.first_bad > 0:
        raise UserError(
            f"the loss or an update was not finite at step {int(totals.first_bad)}: training stopped, the checkpoints before it are kept in"
            f" {directory / 'checkpoints'}; lower config.learning_rate"
        )
    return float(totals.loss / totals.steps)


def validate(config: "ml_collections.ConfigDict", network: CAMNetwork, params: Params, split: data.Split) -> dict[str, float]:
    """Accuracy on the validation images, clean and under the short attack at full eps."""
    evaluator = Evaluator(network, params, split, None, config.seed)
    protocol = protocols.validation_protocol(config.validation.attack_steps)
    outcomes = list(ladder(evaluator, protocol, config.attack.norm, (0.0, config.eps), np.arange(len(split.labels))))
    return {"clean_accuracy": float(outcomes[0].correct.mean()), SCORE: float(outcomes[-1].correct.mean())}


@contextlib.contextmanager
def claim(workdir: str, config: "ml_collections.ConfigDict") -> Iterator[pathlib.Path]:
    """Makes the workdir this config's own for as long as the run lasts, or refuses it. Several processes must see the same workdir."""
    directory, wanted = pathlib.Path(workdir), provenance.plain(config)
    file = directory / "config.json"
    with contextlib.ExitStack() as held:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((directory / ".lock").open("w"))
            holds_a_run = (directory / "checkpoints").exists() or (directory / "metrics.jsonl").exists()  # asked before its config is
            if file.exists():
                refuse_changes(workdir, common.completed(json.loads(file.read_text())), wanted)
            elif holds_a_run:
                raise UserError(f"{workdir} holds checkpoints or logs but no config.json: use another --workdir")
            if parallel.is_first_process():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                text = json.dumps(wanted, indent=2, sort_keys=True)
                data.save_atomically(file, lambda f: f.write(text.encode()))
        except BlockingIOError as error:
            raise UserError(f"another training is running in {workdir}: wait for it, or use another --workdir") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is not a config written by this command ({error}): use another --workdir") from error
        except OSError as error:
            raise UserError(f"--workdir {workdir} cannot be written ({error.strerror or error}): choose another") from error
        yield directory


def refuse_changes(workdir: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A `UserError` with the differences if a run in a workdir was made with something else."""
    if differences := common.changes(found, wanted):
        lines = "\n  ".join(differences)
        raise UserError(f"{workdir} holds a run of another config; use another --workdir, or its values:\n  {lines}")


def describe(config: "ml_collections.ConfigDict", split: data.Split, state: TrainState) -> dict[str, Any]:
    """What lies beside the arrays of a checkpoint."""
    epoch, batch = divmod(int(state.step), len(split.labels) // config.batch_size)
    return {
        "config": provenance.plain(config),
        "versions": provenance.versions(),
        "data": split.source,
        "data_position": {"epoch": epoch, "batch": batch},
    }


class Log:
    """Progress bar, metrics.jsonl and TensorBoard events. Lines of steps after `start`, left by an interrupted run, are dropped."""

    def __init__(self, directory: pathlib.Path, start: int, config: "ml_collections.ConfigDict"):
        import tensorboardX
        import tqdm

        self.config, self.writes = config, parallel.is_first_process()
        self.bar = tqdm.tqdm(
            total=config.num_steps, initial=start, unit="step", desc=f"{config.dataset} {config.method}", disable=not self.writes
        )
        self.since = (time.monotonic(), start)
        self.under_way: collections.deque[Totals] = collections.deque()
        if self.writes:
            self.path = directory / "metrics.jsonl"
            kept = [line for line in self._lines() if line["step"] <= start]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            data.save_atomically(self.path, lambda f: f.write(text.encode()))
            self.file = self.path.open("a")
            self.board = tensorboardX.SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writes:
            self.file.close()
            self.board.close()

    def advance(self, totals: Totals, steps: int) -> None:
        """Moves the bar on; waits for the call before the last, so that the device is never idle and never far behind."""
        self.under_way.append(totals)
        if len(self.under_way) > 2:
            jax.block_until_ready(self.under_way.popleft())
        self.bar.update(steps)

    def training(self, step: int, loss: float) -> None:
        """The mean loss since the last line."""
        now = time.monotonic()
        rate = (step - self.since[1]) / max(now - self.since[0], 1e-9)
        self.since = (now, step)
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        last = np.int32(step - 1)
        schedules = {"eps": float(eps_at(self.config, last)), "learning_rate": float(learning_rate_at(self.config, last))}
        self._write(step, {"loss": loss, **schedules, "steps_per_second": rate})

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Accuracies on the validation split."""
        self._write(step, {f"validation_{name}": value for name, value in scores.items()})
        self.since = (time.monotonic(), step)

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self.writes:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        parsed = []
        for line in lines:
            try:
                parsed.append(json.loads(line))
            except json.JSONDecodeError:  # a line that was being written when the run was killed
                break
        return parsed
