"""Networks as models, all by name in `MODELS`. `cam_network` has those of the paper, as tables of layers; `resnets` those that are common today;
the others make models of networks of one's own.
"""

from irob.models import resnets, torch_weights
from irob.models.bound import BoundModel, bind
from irob.models.cam_network import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create
from irob.models.linen_modules import LinenModel, from_linen
from irob.models.nnx_modules import NnxModel, from_nnx
from irob.models.own import FunctionModel, OwnModel, from_function
from irob.models.resnets import RESNETS, PreActResNet, WideResNet
from irob.models.table import MODELS

__all__ = [
    "MODELS",
    "NETWORKS",
    "RESNETS",
    "BoundModel",
    "CAMNetwork",
    "Conv",
    "FunctionModel",
    "LinenModel",
    "MaxPool",
    "NnxModel",
    "OwnModel",
    "PoolCNN",
    "PreActResNet",
    "SmallCNN",
    "WResNet",
    "WideResNet",
    "bind",
    "create",
    "from_function",
    "from_linen",
    "from_nnx",
    "resnets",
    "torch_weights",
]
