"""Networks. Those of the paper are tables of layers (`cam_network`)."""

from irob.models.cam_network import NETWORKS, CAMNetwork, Conv, MaxPool, PoolCNN, SmallCNN, WResNet, create

__all__ = ["NETWORKS", "CAMNetwork", "Conv", "MaxPool", "PoolCNN", "SmallCNN", "WResNet", "create"]
