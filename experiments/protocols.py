"""How a careful evaluation and the paper's own one are made: who is attacked with what. Protocols are data; `measures` runs them.

Where the two differ, `paper` repeats the authors step for step, with the very images, targets and random starts that they drew (but for the random
parts of the unforeseen attacks, which they drew without a seed).
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.cli import UserError
from irob.arrays import Array, Image, Scalar
from irob.attacks.balls import BALLS, ClippedLInf
from irob.attacks.interpretability import Climb, largest_weight, smallest_discrepancy
from irob.attacks.pgd import best_of_pgd, constant_steps, decaying_steps, last_of_pgd
from irob.attacks.unforeseen import by_size


class Attack(NamedTuple):
    """What a compiled PGD is made of: the fields of `Protocol` that shape it. eps, restart and parameters are its arguments."""

    norm: str
    objective: str
    steps: int
    step_sizes: Callable[[Scalar, int], Array]
    random_start: bool
    best_iterate: bool


class Drawn(NamedTuple):
    """The examples of a measurement.

    indices `[n]`: in the test split. shifts `[n]`: the target of an attack is label + shift mod C; None leaves the class to the attack.
    noise: `image shape -> [n, H, W, c]`, uniform in [-1, 1]; None draws random starts from the seed and the index.
    """

    indices: np.ndarray
    shifts: np.ndarray | None = None
    noise: Callable[[tuple[int, ...]], np.ndarray] | None = None


class Sneaking(NamedTuple):
    """How the smallest successful perturbation is found, and from there the interpretability sneaking attack.

    climb: `(norm, eps, x, start, n) -> Climb`, n being the number of examples.
    eps, eps_rounds: start of the search for the smallest eps, as a share of the widest, and its rounds.
    rank, weight, limit, rounds: of `interpretability.isa`.
    complete: D is measured on complete maps while attacking, else on raw ones.
    norms: the norm that is ascended for each that is reported.
    nested: a larger budget starts from what a smaller one found.
    """

    climb: Callable[[str, Scalar, Image, Image, int], Climb]
    eps: float
    eps_rounds: int
    rank: Callable[[Scalar, Scalar], Scalar]
    weight: float
    limit: float
    rounds: int
    complete: bool
    norms: tuple[tuple[str, str], ...]
    nested: bool


class Sizes(NamedTuple):
    """How large an unforeseen attack is made. source: who says so. eps `[k]`. ata `[k]`: the accuracies that UAR compares with; empty without UAR."""

    source: str
    eps: tuple[float, ...]
    ata: tuple[float, ...] = ()


class Unforeseen(NamedTuple):
    """How the unforeseen attacks are made.

    objectives: losses of the logits, keys of `measures.pgd.LOSSES`, one attack each; an image is broken if any breaks it.
    targeted: descends the loss of a drawn class instead of ascending that of the label.
    best_iterate: as in `Protocol`.
    steps: of each attack.
    step_sizes: `(eps, steps) -> [steps]` by attack, where they are not the attack's own.
    sizes: `(attack, data set) -> Sizes`; None where this protocol has no such attack.
    """

    objectives: tuple[str, ...]
    targeted: bool
    best_iterate: bool
    steps: int
    step_sizes: tuple[tuple[str, Callable[[Scalar, int], Array]], ...]
    sizes: Callable[[str, str], Sizes | None]


class Protocol(NamedTuple):
    """An evaluation.

    objectives: losses that PGD ascends, one attack each, keys of `measures.pgd.LOSSES`.
    restarts: of each objective, and of the attack on the map.
    steps: of each restart.
    step_sizes: `(eps, steps) -> [steps]`.
    random_start: from a random point of the ball, else from the image.
    best_iterate: an example is broken if any iterate breaks it, else if the last one does.
    nested: what held at a smaller eps counts at every larger one, whose ball contains it (spares the work, too).
    keeps_prediction: the attack on the map keeps the prediction, else images that lose it are left out.
    sneaking: how the bound, the sneaking attack and the trade-off are attacked.
    unforeseen: how the unforeseen attacks are made.
    draws: measure -> `(test images, classes) -> Drawn`.
    own_images: the images are part of the protocol.
    norms: in which a perturbation may be measured.
    description: for the record.
    """

    objectives: tuple[str, ...]
    restarts: int
    steps: int
    step_sizes: Callable[[Scalar, int], Array]
    random_start: bool
    best_iterate: bool
    nested: bool
    keeps_prediction: bool
    sneaking: Sneaking
    unforeseen: Unforeseen
    draws: dict[str, Callable[[int, int], Drawn]]
    own_images: bool
    norms: tuple[str, ...]
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


# --- the authors' draws: NumPy's legacy generator, first the images, then the targets, then the noise ---------------------------------------


def authors_draw(seed: int, kept: slice, n: int, num_classes: int) -> Drawn:
    """`kept` of a permutation of the test images, then r uniform in 0..C - 2 for the targets t + 1 + r mod C, then the noise."""
    random = np.random.RandomState(seed)
    indices = random.permutation(n)[kept]
    shifts = 1 + random.randint(0, num_classes - 1, len(indices))
    state = random.get_state()

    def noise(shape: tuple[int, ...]) -> np.ndarray:
        random.set_state(state)
        return random.uniform(-1.0, 1.0, (len(indices), *shape)).astype(np.float32)

    return Drawn(indices, shifts, noise)


def first(most: int | None, n: int, num_classes: int) -> Drawn:
    """The first `most` test images (None: all)."""
    return Drawn(np.arange(n if most is None else min(n, most)))


# --- the two ways to climb ------------------------------------------------------------------------------------------------------------------


def careful_climb(norm: str, eps: Scalar, x: Image, start: Image, n: int) -> Climb:
    """60 shrinking steps from a start of one's own, best iterate."""
    return functools.partial(best_of_pgd, ball=BALLS[norm](eps), x=x, step_sizes=decaying_steps(eps, 60), start=start)


def authors_climb(norm: str, eps: Scalar, x: Image, start: Image, n: int) -> Climb:
    """10 steps of 0.2 eps clip(1000 g, -1, 1) from x, g of the mean over n images, last iterate."""
    ball = ClippedLInf(eps, 1000.0 / n)
    return functools.partial(last_of_pgd, ball=ball, x=x, step_sizes=constant_steps(0.2 * eps, 10), start=x)


# --- sizes of the unforeseen attacks --------------------------------------------------------------------------------------------------------


def calibrated(attack: str, dataset: str) -> Sizes:
    """The six sizes of Kang et al.: those for CIFAR-10 where there are any and the data set is CIFAR-10, else those for ImageNet-100."""
    table = json.loads((pathlib.Path(__file__).parent / "uar_calibration.json").read_text())
    source = "cifar-10" if dataset == "cifar10" and attack in table["cifar-10"] else "imagenet-100"
    return Sizes(source, **{key: tuple(values) for key, values in table[source][attack].items()})


def authors_size(attack: str, dataset: str) -> Sizes | None:
    """The one size at which the paper's authors ran an attack."""
    sizes = {"jpeg_linf": 0.25, "jpeg_l2": 8.0, "jpeg_l1": 256.0, "fog": 2048.0, "gabor": 400.0, "snow": 2.0}
    if dataset == "restricted_imagenet":
        sizes["jpeg_linf"] = 0.062
    return Sizes("paper", (sizes[attack],)) if attack in sizes else None


PROTOCOLS = {
    "standard": Protocol(
        objectives=("margin", "cross_entropy"),
        restarts=5,
        steps=150,
        step_sizes=decaying_steps,
        random_start=True,
        best_iterate=True,
        nested=True,
        keeps_prediction=True,
        sneaking=Sneaking(
            climb=careful_climb,
            eps=0.01,
            eps_rounds=14,
            rank=smallest_discrepancy,
            weight=1.0,
            limit=2.0**10,
            rounds=10,
            complete=True,
            norms=(("l1", "l1"), ("l2", "l2")),
            nested=True,
        ),
        unforeseen=Unforeseen(
            objectives=("cross_entropy", "margin"), targeted=False, best_iterate=True, steps=200, step_sizes=(), sizes=calibrated
        ),
        draws={
            "pgd": functools.partial(first, None),
            "aai": functools.partial(first, None),
            "topk_overlap": functools.partial(first, None),
            "bound": functools.partial(first, 200),
            "isa": functools.partial(first, 200),
            "tradeoff": functools.partial(first, 200),
            "inversion": functools.partial(first, 4),
            "unforeseen": functools.partial(first, 200),
        },
        own_images=False,
        norms=tuple(BALLS),
        description="PGD on the logit margin and on the cross-entropy, random starts, steps of 0.2, 0.06, 0.02 eps;"
        " worst case over iterates, restarts, objectives and smaller eps; sneaking in 60 such steps from the smallest attack, best of all weights",
    ),
    "paper": Protocol(
        objectives=("plain_cross_entropy",),
        restarts=1,
        steps=200,
        step_sizes=hundredths,
        random_start=False,
        best_iterate=False,
        nested=False,
        keeps_prediction=False,
        sneaking=Sneaking(
            climb=authors_climb,
            eps=0.05,
            eps_rounds=10,
            rank=largest_weight,
            weight=5e-5,
            limit=1.0,
            rounds=10,
            complete=False,
            norms=(("l1", "l1"), ("l2", "squared_l2")),
            nested=False,
        ),
        unforeseen=Unforeseen(
            objectives=("plain_cross_entropy",),
            targeted=True,
            best_iterate=False,
            steps=200,
            step_sizes=(
                ("fog", by_size),
                ("gabor", by_size),
                ("snow", by_size),
            ),  # far larger than the range of the variable: they jump between its ends
            sizes=authors_size,
        ),
        draws={
            "pgd": functools.partial(authors_draw, 99, slice(200)),
            "aai": functools.partial(authors_draw, 99, slice(200)),
            "topk_overlap": functools.partial(authors_draw, 99, slice(200)),
            "bound": functools.partial(authors_draw, 99, slice(100)),
            "isa": functools.partial(authors_draw, 123, slice(100)),  # how many images they took is not known
            "tradeoff": functools.partial(authors_draw, 52, slice(37, 42)),
            "inversion": functools.partial(authors_draw, 99, slice(4)),
            "unforeseen": functools.partial(authors_draw, 99, slice(200)),
        },
        own_images=True,
        norms=("linf",),
        description="as the paper's authors ran it, on the images that they drew (seed 99; sneaking attack 123, here 100 images; trade-off 52):"
        " PGD on the cross-entropy, steps of 0.01, no random start, last iterate; sneaking in 10 steps of 0.2 eps clip(1000 g)",
    ),
}


def find(name: str) -> Protocol:
    """A protocol by name."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def validation_protocol(steps: int) -> Protocol:
    """The short attack that watches over training."""
    return PROTOCOLS["standard"]._replace(
        objectives=("cross_entropy",),
        restarts=1,
        steps=steps,
        step_sizes=quarters,
        best_iterate=False,
        nested=False,
        description=f"PGD on the cross-entropy, {steps} steps of eps / 4, one random start, last iterate",
    )


def in_words(value: Any) -> Any:
    """A setting with names for functions."""
    return [in_words(part) for part in value] if isinstance(value, tuple) else getattr(value, "__name__", value)


def settings(protocol: Protocol) -> dict[str, Any]:
    """The numbers of a protocol, for the record."""
    fields = ("objectives", "restarts", "steps", "random_start", "best_iterate", "nested", "keeps_prediction")

    parts = {
        part: {key: in_words(value) for key, value in getattr(protocol, part)._asdict().items()} for part in ("sneaking", "unforeseen")
    }
    return {field: getattr(protocol, field) for field in fields} | {"step_sizes": protocol.step_sizes.__name__, **parts}


def drawn(protocol: Protocol, measure: str, n: int, num_classes: int, num_examples: int | None) -> Drawn:
    """The examples of a measure under a protocol, the first `num_examples` of the split if given."""
    if num_examples is None:
        return protocol.draws[measure](n, num_classes)
    if protocol.own_images:
        raise UserError("--num_examples is for the standard protocol: the paper's has its own images")
    if not 0 < num_examples <= n:
        raise UserError(f"--num_examples={num_examples} must be in 1..{n}, the size of the test split")
    return Drawn(np.arange(num_examples))


def widest(norm: str, shape: tuple[int, ...]) -> float:
    """The diameter of the box [0, 1]^n: no perturbation is longer."""
    return float({"linf": 1.0, "l2": np.sqrt(np.prod(shape)), "l1": np.prod(shape)}[norm])


def length(difference: Image, norm: str) -> Scalar:
    """Length of a perturbation in the norm of a ball."""
    order = {"linf": jnp.inf, "l2": 2, "l1": 1}[norm]
    return jnp.linalg.norm(difference.reshape(-1), order)
