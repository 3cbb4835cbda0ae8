"""Networks as models. `cam_network` has those of the paper, as tables of layers; the others make models of networks of one's own."""

from irob.models.cam_network import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create
from irob.models.linen_modules import LinenModel, from_linen
from irob.models.nnx_modules import NnxModel, from_nnx
from irob.models.own import FunctionModel, OwnModel, from_function

__all__ = [
    "NETWORKS",
    "CAMNetwork",
    "Conv",
    "FunctionModel",
    "LinenModel",
    "MaxPool",
    "NnxModel",
    "OwnModel",
    "PoolCNN",
    "SmallCNN",
    "WResNet",
    "create",
    "from_function",
    "from_linen",
    "from_nnx",
]
