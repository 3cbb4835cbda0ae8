"""What measures of maps share: maps by name, and checks of what is asked of them."""

import math
from collections.abc import Sequence

from experiments.evaluation.engine import Evaluation
from experiments.runtime.errors import refuse
from experiments.runtime.names import find
from experiments.runtime.values import distinct, row_of, several
from irob.maps import EXPLAINERS, shape_of_maps

MAPS = distinct(several(row_of(EXPLAINERS, "map"), 1))


def check_maps(names: Sequence[str]) -> None:
    """Refuses maps that have none for each class."""
    for name in names:
        by_class = find(EXPLAINERS, name, "map").by_class
        refuse(not by_class, f"--map={name}: this measure needs maps of a class, and {name} has none")


def check_k(evaluation: Evaluation, names: Sequence[str], k: int) -> None:
    """Refuses k beyond the positions of a map."""
    rows = [find(EXPLAINERS, name, "map") for name in names]
    positions = min(math.prod(shape_of_maps(row, evaluation.network, evaluation.model.params)[:2]) for row in rows)
    refuse(not 1 <= k <= positions, f"--k={k} must be in 1..{positions}, the positions of a map")
