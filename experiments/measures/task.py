"""What every measure is asked, and what it answers."""

from typing import Any, NamedTuple

import numpy as np

from experiments import protocols
from experiments.evaluator import Evaluator
from experiments.protocols import Drawn, Protocol
from irob.arrays import Params
from irob.metrics import mean_with_error, robust_accuracy
from irob.networks import CAMNetwork

SHOWN = 3  # examples whose pictures are kept


class Task(NamedTuple):
    """A measurement to be made.

    evaluator: the network with its test images.
    protocol, norm, eps: how it is attacked; eps ascending, 0 among them.
    steps: of PGD, several for a ladder of them; empty for that of the protocol.
    num_examples: the first ones instead of the protocol's.
    k: most salient positions.
    budgets: of the sneaking attack, multiples of the smallest eps that changes the prediction.
    other: a second network, to compare maps with, and its name.
    dataset: its name.
    attacks: keys of `unforeseen.UNFORESEEN`; empty for all.
    maps: keys of `explainers.EXPLAINERS`; empty for those of each measure.
    """

    evaluator: Evaluator
    protocol: Protocol
    norm: str
    eps: tuple[float, ...]
    steps: tuple[int, ...] = ()
    num_examples: int | None = None
    k: int = 8
    budgets: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0)
    other: tuple[str, CAMNetwork, Params] | None = None
    dataset: str = ""
    attacks: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def drawn(self, measure: str) -> Drawn:
        """The examples of a measure."""
        network, split = self.evaluator.network, self.evaluator.split
        return protocols.drawn(self.protocol, measure, len(split.labels), network.num_classes, self.num_examples)


class Measured(NamedTuple):
    """records: flat dictionaries, for the result file. arrays: by example, for the .npz beside it."""

    records: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


def mean(values: np.ndarray) -> dict[str, Any]:
    """n, value and 95% interval of a mean; values that are not finite are left out. value is None if none is left."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    if not len(finite):
        return {"n": 0, "value": None, "ci95": None}
    value, error = mean_with_error(finite)
    half = 1.959964 * error if len(finite) > 1 else None
    return {"n": len(finite), "value": value, "ci95": None if half is None else [value - half, value + half]}


def share(holds: np.ndarray) -> dict[str, Any]:
    """n, value and 95% interval of a proportion. value is None for no example."""
    if not len(holds):
        return {"n": 0, "value": None, "ci95": None}
    accuracy = robust_accuracy(np.asarray(holds, bool))
    return {"n": accuracy.n, "value": accuracy.value, "ci95": [accuracy.low, accuracy.high]}
