"""The same networks, training steps and attacks in PyTorch, as a competent user would write them, to be timed beside ours.

Needs the extra `benchmark`. Channels-last, parameters frozen during the attack, what depends on the clean image alone computed once.
"""

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

    def compile_maps(self) -> None:
        """Has PyTorch compile what a step runs most. (Not replayed as a CUDA graph: a step keeps the clean maps while it computes others.)"""
        for name in ("maps", "forward"):
            setattr(self, name, torch.compile(getattr(self, name)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, C]` of images `[n, c, H, W]`."""
        if self.head is None:
            return self.features(x).mean(dim=(2, 3))
        return self.features(x).mean(dim=(2, 3)) @ self.head[:, :, 0, 0].T


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
    network: TorchNetwork, method: str, *, eps: float, step_size: float, steps: int, learning_rate: float, weight: float = 0.01
) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step of `int`, `adv` or `normal`, as `experiments.train` has it."""
    adam = torch.optim.Adam(network.parameters(), lr=learning_rate)

    def attack(x: Tensor, labels: Tensor) -> Tensor:
        network.requires_grad_(False)
        with torch.no_grad():
            clean = network.maps(x) if method == "int" else None
        x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_(True)
            objective = (
                interpretation_change(clean, network.maps(x_adv), labels)
                if method == "int"
                else functional.cross_entropy(network(x_adv), labels)
            )
            (gradient,) = torch.autograd.grad(objective, x_adv)
            with torch.no_grad():
                x_adv = torch.max(torch.min(x_adv + step_size * gradient.sign(), x + eps), x - eps).clamp(0, 1)
        network.requires_grad_(True)
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
