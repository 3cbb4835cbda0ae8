"""What measures of maps share: maps by name, and checks of what is asked of them."""

import math
from collections.abc import Sequence

from experiments.evaluation.engine import Evaluation
from experiments.runtime.errors import UserError, refuse
from experiments.runtime.names import find
from experiments.runtime.values import distinct, row_of, several
from irob.maps import BETAS, EXPLAINERS, Smoother, shape_of_maps

MAPS = distinct(several(row_of(EXPLAINERS, "map"), 1))


def check_maps(evaluation: Evaluation, names: Sequence[str], of_classes: bool = True) -> None:
    """Refuses maps that the network does not have, and, if asked for, maps that have none for each class."""
    for name in names:
        positions_of(evaluation, name)
        by_class = find(EXPLAINERS, name, "map").by_class
        refuse(of_classes and not by_class, f"--map={name}: this measure needs maps of a class, and {name} has none")


def check_betas(evaluation: Evaluation, names: Sequence[str], betas: Sequence[float] = BETAS) -> None:
    """Refuses attacks on gradients, by softplus networks of these beta, of a model whose softplus network has no beta."""
    if any(find(EXPLAINERS, name, "map").gradients for name in names):
        try:
            for beta in betas:
                Smoother(evaluation.network, beta).smooth()
        except TypeError as error:
            raise UserError(f"an attack on gradients needs network.smooth(beta): {error}") from error


def positions_of(evaluation: Evaluation, name: str) -> int:
    """The number of positions of a map."""
    try:
        return math.prod(shape_of_maps(find(EXPLAINERS, name, "map"), evaluation.network, evaluation.model.params)[:2])
    except ValueError as error:
        raise UserError(f"map {name}: {error}") from error


def check_k(evaluation: Evaluation, names: Sequence[str], k: int) -> None:
    """Refuses k beyond the positions of a map."""
    positions = min(positions_of(evaluation, name) for name in names)
    refuse(not 1 <= k <= positions, f"--k={k} must be in 1..{positions}, the positions of a map")
