"""Networks as models. `cam_network` has those of the paper, as tables of layers; `adapters` makes models of networks of one's own."""

from irob.models.adapters import FunctionModel, LinenModel, from_function, from_linen
from irob.models.cam_network import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create

__all__ = [
    "NETWORKS",
    "CAMNetwork",
    "Conv",
    "FunctionModel",
    "LinenModel",
    "MaxPool",
    "PoolCNN",
    "SmallCNN",
    "WResNet",
    "create",
    "from_function",
    "from_linen",
]
