"""Every network that comes with the project, by name: `MODELS[name](input_shape, num_classes)`."""

import functools
from collections.abc import Callable

from irob.models.cam_network import NETWORKS, create
from irob.models.resnets import RESNETS
from irob.types import Model

MODELS: dict[str, Callable[[tuple[int, int, int], int], Model]] = {
    **{name: functools.partial(create, name) for name in NETWORKS},
    **RESNETS,
}
