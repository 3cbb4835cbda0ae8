"""How robustness is measured: who is attacked with what, and what counts.

A protocol is data; `evaluate` runs it. Random starts come from (seed, attack, restart, index of the example in its split), so an example's result
depends neither on the batch it is in nor on the devices.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import parallel
from experiments.cli import UserError
from experiments.data import Split, to_unit
from irob.arrays import Array, Explain, Image, Label, Params, Scalar
from irob.attacks.balls import BALLS, Ball
from irob.attacks.pgd import best_of_pgd, constant_steps, decaying_steps, pgd
from irob.losses import cross_entropy, margin
from irob.metrics import robust_accuracy
from irob.networks import CAMNetwork

LOSSES = {"margin": margin, "cross_entropy": cross_entropy}


class Attack(NamedTuple):
    """What a compiled attack is made of: the fields of `Protocol` that shape it. eps, restart and parameters are its arguments."""

    norm: str
    objective: str
    steps: int
    step_sizes: Callable[[Scalar, int], Array]
    random_start: bool
    best_iterate: bool


class Protocol(NamedTuple):
    """An evaluation by projected gradient ascent.

    objectives: losses that are ascended, one attack each, keys of `LOSSES`.
    restarts: of each objective.
    steps: of each restart.
    step_sizes: `(eps, steps) -> [steps]`.
    random_start: from a random point of the ball, else from the image.
    best_iterate: an example is broken if any iterate breaks it, else if the last one does.
    nested: an example broken at a smaller eps counts as broken at every larger one, whose ball contains it (spares the work, too).
    choose: `n -> indices`, the test images.
    description: for the record.
    """

    objectives: tuple[str, ...]
    restarts: int
    steps: int
    step_sizes: Callable[[Scalar, int], Array]
    random_start: bool
    best_iterate: bool
    nested: bool
    choose: Callable[[int], np.ndarray]
    description: str

    def attack(self, norm: str, objective: str) -> Attack:
        """One attack of this protocol."""
        return Attack(norm, objective, self.steps, self.step_sizes, self.random_start, self.best_iterate)


def hundredths(eps: Scalar, steps: int) -> Array:
    """Steps of 0.01 for every eps."""
    return constant_steps(0.01, steps)


def quarters(eps: Scalar, steps: int) -> Array:
    """Steps of eps / 4."""
    return constant_steps(eps / 4, steps)


def authors_choice(n: int) -> np.ndarray:
    """The 200 test images of the paper's authors: NumPy's legacy generator, seed 99."""
    return np.random.RandomState(99).permutation(n)[:200]


PROTOCOLS = {
    "standard": Protocol(
        objectives=("margin", "cross_entropy"),
        restarts=5,
        steps=150,
        step_sizes=decaying_steps,
        random_start=True,
        best_iterate=True,
        nested=True,
        choose=np.arange,
        description="PGD on the logit margin and on the cross-entropy, random starts, steps of 0.2, 0.06, 0.02 eps;"
        " worst case over iterates, restarts, objectives and smaller eps",
    ),
    "paper": Protocol(
        objectives=("cross_entropy",),
        restarts=1,
        steps=200,
        step_sizes=hundredths,
        random_start=False,
        best_iterate=False,
        nested=False,
        choose=authors_choice,
        description="PGD on the cross-entropy as the paper's authors ran it: 200 test images (seed 99), steps of 0.01, no random start, last iterate",
    ),
}


def validation_protocol(steps: int) -> Protocol:
    """The short attack that watches over training."""
    return Protocol(
        objectives=("cross_entropy",),
        restarts=1,
        steps=steps,
        step_sizes=quarters,
        random_start=True,
        best_iterate=False,
        nested=False,
        choose=np.arange,
        description=f"PGD on the cross-entropy, {steps} steps of eps / 4, one random start, last iterate",
    )


class Outcome(NamedTuple):
    """Of one eps: correct `[n]` for each example under the whole attack."""

    eps: float
    correct: np.ndarray


class Evaluator:
    """A network's parameters and a split, ready to be attacked.

    Args:
      network, params: what is attacked.
      split: the examples; only those asked for are read.
      batch_size: per device, None for the device's default. Results do not depend on it.
      seed: of the random starts.
    """

    def __init__(self, network: CAMNetwork, params: Params, split: Split, batch_size: int | None, seed: int):
        self.network, self.split, self.seed = network, split, seed
        self.batch_size = batch_size or parallel.default_batch_size(network.input_shape, len(split.labels))
        self.params = parallel.replicate(params)

    def clean(self, indices: np.ndarray) -> np.ndarray:
        """Correct without attack, bool `[n]`."""
        return parallel.map_examples(clean_check(self.network), self.params, self.split.fetch, indices, self.batch_size)

    def attack(self, protocol: Protocol, norm: str, objective: str, restart: int, eps: float, indices: np.ndarray) -> np.ndarray:
        """Correct under one restart of one objective, bool `[n]`."""
        check = attack_check(self.network, protocol.attack(norm, objective))
        start_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(objective.encode())), restart)

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return *self.split.fetch(rows), rows.astype(np.int32)

        shared = (self.params, *parallel.replicate((np.float32(eps), np.asarray(jax.random.key_data(start_key)))))
        correct, distance, inside = parallel.map_examples(check, shared, fetch, indices, self.batch_size)
        if not np.isfinite(distance).all():
            raise UserError(
                f"the {objective} has no finite gradient for {np.sum(~np.isfinite(distance))} images at eps {eps}: its logits overflow"
            )
        if not (inside.all() and (distance <= eps * (1 + 1e-5) + 1e-6).all()):
            raise RuntimeError(
                f"the {norm} attack left its ball of eps {eps}: largest distance {distance.max()}, all in [0, 1]: {inside.all()}"
            )
        return correct

    def ladder(self, protocol: Protocol, norm: str, eps_values: tuple[float, ...], indices: np.ndarray) -> Iterator[Outcome]:
        """The outcome at each eps, ascending. Within one eps, later attacks see only the examples that have withstood so far."""
        clean = standing = self.clean(indices)
        for eps in sorted(eps_values):
            if eps > 0:
                correct = (standing if protocol.nested else clean).copy()
                for objective in protocol.objectives:
                    for restart in range(protocol.restarts):
                        left = np.flatnonzero(correct)
                        if len(left):
                            correct[left] = self.attack(protocol, norm, objective, restart, eps, indices[left])
                standing = correct
            yield Outcome(eps, standing)


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function traced with products in full float32: GPUs and TPUs round the factors by default, which turns signs of gradients."""
    return jax.default_matmul_precision("highest")(function)


def is_correct(logits: Array, label: Label) -> Array:
    """True where the label is the prediction; logits that are not finite predict nothing."""
    return (jnp.argmax(logits) == label) & jnp.all(jnp.isfinite(logits))


@functools.lru_cache
def clean_check(network: CAMNetwork) -> Callable[..., Any]:
    """Pmapped `(params, images, labels) -> correct`."""

    def check(params: Params, images: Array, labels: Array) -> Array:
        return jax.vmap(lambda x, label: is_correct(network.explain(params, x).logits, label))(to_unit(images), labels)

    return parallel.pmap(exact(check))


@functools.lru_cache
def attack_check(network: CAMNetwork, attack: Attack) -> Callable[..., Any]:
    """Pmapped `((params, eps, key data), images, labels, indices) -> (correct, distance, inside)`.

    What the attack returns is judged again by the plain form of the network.
    """

    def check(shared: tuple[Params, Array, Array], images: Array, labels: Array, indices: Array) -> tuple[Scalar, Scalar, Array]:
        params, eps, key_data = shared
        key = jax.random.wrap_key_data(jnp.asarray(key_data))
        ball = BALLS[attack.norm](eps)
        explain = network.attack_form(params)
        step_sizes = attack.step_sizes(eps, attack.steps)

        def one(x: Image, label: Label, index: Array) -> tuple[Scalar, Scalar, Array]:
            start = ball.random_point(jax.random.fold_in(key, index), x) if attack.random_start else x
            x_adv = attacked_image(explain, LOSSES[attack.objective], ball, x, label, step_sizes, start, attack.best_iterate)
            logits = network.explain(params, x_adv).logits
            inside = jnp.all((x_adv >= 0.0) & (x_adv <= 1.0))
            return is_correct(logits, label), distance(x_adv - x, attack.norm), inside

        return jax.vmap(one)(to_unit(images), labels, indices)

    return parallel.pmap(exact(check))


def attacked_image(
    explain: Explain,
    loss: Callable[..., Scalar],
    ball: Ball,
    x: Image,
    label: Label,
    step_sizes: Array,
    start: Image,
    best_iterate: bool,
) -> Image:
    """PGD on a loss of the logits: the last iterate, or the one with the largest margin."""
    if not best_iterate:
        return pgd(lambda x_adv: loss(explain(x_adv).logits, label), ball, x, step_sizes=step_sizes, start=start)

    def scored(x_adv: Image) -> tuple[Scalar, Scalar]:
        logits = explain(x_adv).logits
        return loss(logits, label), margin(logits, label)

    return best_of_pgd(scored, ball, x, step_sizes=step_sizes, start=start).x_adv


def distance(difference: Image, norm: str) -> Scalar:
    """Length of a perturbation in the norm of a ball."""
    order = {"linf": jnp.inf, "l2": 2, "l1": 1}[norm]
    return jnp.linalg.norm(difference.reshape(-1), order)


def record(protocol: Protocol, norm: str, outcome: Outcome) -> dict[str, Any]:
    """One line of the results."""
    accuracy = robust_accuracy(outcome.correct)
    shared = {"n": accuracy.n, "value": accuracy.value, "ci95": [accuracy.low, accuracy.high]}
    if outcome.eps == 0:
        return {"metric": "clean_accuracy", "eps": 0.0, **shared}
    return {
        "metric": "robust_accuracy",
        "attack": "pgd",
        "norm": norm,
        "eps": outcome.eps,
        "objectives": list(protocol.objectives),
        "steps": protocol.steps,
        "restarts": protocol.restarts,
        **shared,
    }


def chosen(protocol: Protocol, n: int, num_examples: int | None) -> np.ndarray:
    """Indices of the test images under a protocol, the first `num_examples` of the split if given."""
    if num_examples is None:
        return protocol.choose(n)
    if protocol.choose is not np.arange:
        raise UserError("--num_examples is for the standard protocol: the paper's has its own 200 images")
    if not 0 < num_examples <= n:
        raise UserError(f"--num_examples={num_examples} must be in 1..{n}, the size of the test split")
    return np.arange(num_examples)
