"""The same networks, training steps and attacks in PyTorch, as a competent user would write them, to be timed beside ours.

Needs the extra `benchmark`. Channels-last, parameters frozen during the attack, what depends on the clean image alone computed once.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from irob.convolutions import same_padding
from irob.models.cam_network import CAMNetwork, MaxPool
from irob.types import Params


class TorchNetwork(nn.Module):
    """A `CAMNetwork` in PyTorch. folded: the head folded into the last convolution, where one stands there."""

    def __init__(self, network: CAMNetwork, params: Params, folded: bool = False):
        super().__init__()
        if folded:
            network, params = network.fold_head(params)
        self.network, self.last = network, nn.Identity()  # a module for those who hook into the last feature map
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        for i in range(len(params) - 1):
            conv = params[f"conv_{i}"]
            self.kernels.append(
                nn.Parameter(tensor(np.transpose(conv["kernel"], (3, 2, 0, 1))).contiguous(memory_format=torch.channels_last))
            )
            self.biases.append(nn.Parameter(tensor(conv["bias"])))
        head = np.asarray(params["head"]["kernel"])
        identity = head.shape[0] == head.shape[1] and np.array_equal(head, np.eye(len(head)))
        self.head = None if identity else nn.Parameter(tensor(head.T)[:, :, None, None])

    def features(self, x: Tensor) -> Tensor:
        """The last feature map `[n, K, h, w]`."""
        outputs, convs = [x], iter(zip(self.kernels, self.biases, strict=True))
        for layer in self.network.layers:
            h = outputs[-1]
            if isinstance(layer, MaxPool):
                outputs.append(functional.max_pool2d(h, layer.width))
                continue
            kernel, bias = next(convs)
            h = h if len(outputs) == 1 else functional.relu(h)
            (top, bottom), (left, right) = (same_padding(size, layer.width, layer.stride) for size in h.shape[2:])
            if (top, left) != (bottom, right):
                h, top, left = functional.pad(h, (left, right, top, bottom)), 0, 0
            out = functional.conv2d(h, kernel, bias, layer.stride, (top, left))
            outputs.append(out + fit(outputs[-2], out.shape) if layer.shortcut else out)
        return self.last(outputs[-1])

    def maps(self, x: Tensor) -> Tensor:
        """Class activation maps `[n, C, h, w]`."""
        features = self.features(x)
        return features if self.head is None else functional.conv2d(features, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` of images `[n, c, H, W]`."""
        if self.head is None:
            return self.features(x).mean(dim=(2, 3))
        return self.features(x).mean(dim=(2, 3)) @ self.head[:, :, 0, 0].T


class TorchBlock(nn.Module):
    """A block of `irob.models.resnets` in PyTorch."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(features)
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, features, 1, stride, bias=False) if stride != 1 or inputs != features else None

    def forward(self, x: Tensor) -> Tensor:
        """Features `[n, features, h, w]`."""
        h = functional.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return self.conv2(functional.relu(self.bn2(self.conv1(h)))) + shortcut


class TorchResNet(nn.Module):
    """A network of `irob.models.resnets`, with batch norms and rectifiers, in PyTorch."""

    def __init__(self, module: Any, variables: Any):
        super().__init__()
        self.conv1, self.blocks, inputs = nn.Conv2d(3, module.stem, 3, 1, 1, bias=False), nn.ModuleDict(), module.stem
        for name, features, count, first_stride in module.groups:
            for i in range(count):
                self.blocks[f"{name}_{i}"] = TorchBlock(inputs, features, first_stride if i == 0 else 1)
                inputs = features
        self.norm, self.head = nn.BatchNorm2d(inputs), nn.Linear(inputs, module.num_classes)
        with torch.no_grad():
            for name, child in self.named_modules():
                place = name.removeprefix("blocks.").split(".")
                if isinstance(child, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    copy_variables(child, at(variables["params"], place), at(variables["batch_stats"], place))
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """The last activations `[n, K, h, w]`."""
        h = self.conv1(x)
        for block in self.blocks.values():
            h = block(h)
        return functional.relu(self.norm(h))

    def maps(self, x: Tensor) -> Tensor:
        """Class activation maps `[n, C, h, w]`."""
        return functional.conv2d(self.features(x), self.head.weight[:, :, None, None], self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` of images `[n, c, H, W]`."""
        return self.head(self.features(x).mean(dim=(2, 3)))


def at(tree: Any, place: list[str]) -> Any:
    """A branch of nested dictionaries; empty where there is none."""
    for name in place:
        tree = tree.get(name, {})
    return tree


def copy_variables(layer: Any, params: Any, statistics: Any) -> None:
    """The variables of a layer of flax into PyTorch's."""
    if "kernel" in params:
        kernel = np.asarray(params["kernel"])
        layer.weight.copy_(tensor(kernel.T if kernel.ndim == 2 else np.transpose(kernel, (3, 2, 0, 1))))
    else:
        layer.weight.copy_(tensor(params["scale"]))
        layer.running_mean.copy_(tensor(statistics["mean"]))
        layer.running_var.copy_(tensor(statistics["var"]))
    if layer.bias is not None:
        layer.bias.copy_(tensor(params["bias"]))


def compile_maps(network: Any) -> None:
    """Has PyTorch compile what a step runs most. (Not replayed as a CUDA graph: a step keeps the clean maps while it computes others.)"""
    for name in ("maps", "forward"):
        setattr(network, name, torch.compile(getattr(network, name)))


def tensor(array: Any) -> Tensor:
    """A copy as a tensor."""
    return torch.tensor(np.array(array))


def images(x: np.ndarray) -> Tensor:
    """`[n, H, W, c]` to `[n, c, H, W]`, channels-last in memory, on the device."""
    return tensor(np.transpose(x, (0, 3, 1, 2))).to(device()).contiguous(memory_format=torch.channels_last)


def device() -> str:
    """Where PyTorch runs: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(h: Tensor, shape: torch.Size) -> Tensor:
    """The shortcut of a residual layer, at another shape."""
    if h.shape[2] != shape[2]:
        h = functional.avg_pool2d(h, h.shape[2] // shape[2])
    missing = shape[1] - h.shape[1]
    return functional.pad(h, (0, 0, 0, 0, missing // 2, missing - missing // 2)) if missing else h


def interpretation_change(clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """The mean over images of R (see `irob.defenses`)."""
    change = (attacked - clean).abs().sum(dim=(2, 3))
    true = functional.one_hot(labels, change.shape[1]).bool()
    weights = functional.softmax(attacked.mean(dim=(2, 3)).masked_fill(true, -torch.inf), dim=1)
    return torch.where(true, change, weights * change).sum(dim=1).mean()


def make_step(
    network: TorchNetwork | TorchResNet,
    method: str,
    *,
    eps: float,
    step_size: float,
    steps: int,
    learning_rate: float,
    weight: float = 0.01,
    half: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step of `int`, `adv` or `normal`, as `experiments.train` has it. half: whether the network is attacked in bfloat16."""
    adam = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=device() == "cuda")
    torch.backends.cudnn.benchmark = True
    if os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        torch.set_float32_matmul_precision("high")  # TF32, as XLA has it by default

    def precision() -> Any:
        return torch.autocast(device(), torch.bfloat16, enabled=half)

    def attack(x: Tensor, labels: Tensor) -> Tensor:
        network.requires_grad_(False).eval()
        with torch.no_grad(), precision():
            clean = network.maps(x) if method == "int" else None
        x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_(True)
            with precision():
                objective = (
                    interpretation_change(clean, network.maps(x_adv), labels)
                    if method == "int"
                    else functional.cross_entropy(network(x_adv), labels)
                )
            (gradient,) = torch.autograd.grad(objective, x_adv)
            with torch.no_grad():
                x_adv = torch.max(torch.min(x_adv + step_size * gradient.sign(), x + eps), x - eps).clamp(0, 1)
        network.requires_grad_(True).train()
        return x_adv.detach()

    def step(x: Tensor, labels: Tensor) -> Tensor:
        x_adv = x if method == "normal" else attack(x, labels)
        if method == "int":
            clean = network.maps(x)
            loss = functional.cross_entropy(clean.mean(dim=(2, 3)), labels) + weight * interpretation_change(
                clean, network.maps(x_adv), labels
            )
        else:
            loss = functional.cross_entropy(network(x_adv), labels)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        return loss.detach()

    return step


def pgd(network: TorchNetwork, x: Tensor, labels: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """Plain PGD on the cross-entropy from the image, last iterate."""
    network.requires_grad_(False)
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(x_adv), labels, reduction="sum"), x_adv)
        with torch.no_grad():
            x_adv = torch.max(torch.min(x_adv + step_size * gradient.sign(), x + eps), x - eps).clamp(0, 1)
    return x_adv.detach()
