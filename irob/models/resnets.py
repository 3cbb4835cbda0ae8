"""Residual networks of the robustness literature, as linen modules of a batch `[n, H, W, c]` in [0, 1], through `from_linen` as anybody's.

PreActResNet (He et al. 2016, https://arxiv.org/abs/1603.05027) with 18 layers and WideResNet (Zagoruyko and Komodakis 2016,
https://arxiv.org/abs/1605.07146), in the forms for images of 32 x 32 that robust training uses (WideResNet: the code of TRADES, Zhang et al. 2019;
PreActResNet: with a norm before the head, as in Rice et al. 2020, code): 3 x 3 convolutions with one pixel of zeros around, no bias, norms with
eps 1e-5 and momentum 0.9 (0.1 in PyTorch's terms), maps = the last activations through the head.

    name                        norm, rectifier         parameters, 10 classes
    preact_resnet_18            batch, relu             11,172,170
    wide_resnet_28_10           batch, relu             36,479,194
    ..._swish                   batch, swish            the same (as Gowal et al. 2020, https://arxiv.org/abs/2010.03593)
    ..._group                   16 groups, relu         the same
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from irob.models.linen_modules import LinenModel, from_linen
from irob.types import Array

Norm = Callable[..., Any]
Rectifier = Callable[[Array], Array]


def batch_norm(train: bool, name: str) -> nn.Module:
    """BatchNorm with PyTorch's defaults (its running variance is unbiased, flax's is not)."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def group_norm(train: bool, name: str) -> nn.Module:
    """GroupNorm of 16 groups, which needs no statistics of a batch (Wu and He 2018, https://arxiv.org/abs/1803.08494)."""
    return nn.GroupNorm(num_groups=16, epsilon=1e-5, name=name)


def padded_conv(features: int, width: int, stride: int, name: str) -> nn.Module:
    """A convolution without bias, with (width - 1) / 2 zeros on each side; initial weights normal with variance 2 / (width^2 features)."""
    initial = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nn.Conv(features, (width, width), stride, padding=(width - 1) // 2, use_bias=False, kernel_init=initial, name=name)


class Block(nn.Module):
    """Two convolutions, each after a norm and a rectifier, and a shortcut around them.

    projects_input: whether the shortcut at another shape is of the input of the first norm, rather than of what its rectifier returns.
    """

    features: int
    stride: int
    norm: Norm
    rectifier: Rectifier
    projects_input: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Features `[n, H / stride, W / stride, features]`."""
        h = self.rectifier(self.norm(train, "bn1")(x))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = padded_conv(self.features, 1, self.stride, "shortcut")(x if self.projects_input else h)
        h = padded_conv(self.features, 3, self.stride, "conv1")(h)
        h = padded_conv(self.features, 3, 1, "conv2")(self.rectifier(self.norm(train, "bn2")(h)))
        return h + shortcut


class ResNet(nn.Module):
    """A convolution, groups of blocks, a norm and a rectifier, the spatial mean, a linear head.

    num_classes: C.
    stem: features of the first convolution.
    groups: (name, features, blocks, stride of the first one) of each group.
    norm, rectifier, projects_input: of the blocks. final_norm: whether there is a norm before the mean.
    mean, std: of the channels, for inputs that are standardized.
    """

    num_classes: int
    stem: int
    groups: Sequence[tuple[str, int, int, int]]
    norm: Norm = batch_norm
    rectifier: Rectifier = jax.nn.relu
    projects_input: bool = False
    final_norm: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Logits `[n, C]`."""
        if self.mean is not None and self.std is not None:
            x = (x - jnp.array(self.mean, x.dtype)) / jnp.array(self.std, x.dtype)
        h = padded_conv(self.stem, 3, 1, "conv1")(x)
        for name, features, count, first_stride in self.groups:
            for i in range(count):
                stride = first_stride if i == 0 else 1
                h = Block(features, stride, self.norm, self.rectifier, self.projects_input, name=f"{name}_{i}")(h, train)
        h = self.rectifier(self.norm(train, "norm")(h)) if self.final_norm else h
        self.sow("intermediates", "features", h)
        return nn.Dense(self.num_classes, name="head")(h.mean(axis=(-3, -2)))


def PreActResNet(num_classes: int, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2), **options: Any) -> ResNet:  # noqa: N802
    """PreActResNet, by default of 18 layers. options: of `ResNet`."""
    sizes = (width, 2 * width, 4 * width, 8 * width)
    groups = tuple((f"layer{i + 1}", size, count, 1 if i == 0 else 2) for i, (size, count) in enumerate(zip(sizes, blocks, strict=True)))
    return ResNet(num_classes, width, groups, **options)


def WideResNet(num_classes: int, depth: int = 28, widen: int = 10, **options: Any) -> ResNet:  # noqa: N802
    """WideResNet-depth-widen. options: of `ResNet`.

    Raises:
      ValueError: if depth - 4 is not a multiple of 6.
    """
    if (depth - 4) % 6:
        raise ValueError(f"the depth of a WideResNet is 6 n + 4, got {depth}")
    count = (depth - 4) // 6
    groups = tuple((f"block{i + 1}", 16 * 2**i * widen, count, 1 if i == 0 else 2) for i in range(3))
    return ResNet(num_classes, 16, groups, **options)


def resnet(make: Callable[..., ResNet], input_shape: tuple[int, int, int], num_classes: int, **options: Any) -> LinenModel:
    """One of them as a model. options: of `make`."""
    return from_linen(make(num_classes, **options), input_shape, num_classes)


VARIANTS: dict[str, dict[str, Any]] = {"": {}, "_swish": {"rectifier": jax.nn.silu}, "_group": {"norm": group_norm}}
RESNETS: dict[str, Callable[[tuple[int, int, int], int], LinenModel]] = {
    f"{name}{suffix}": functools.partial(resnet, make, **options)
    for name, make in (("preact_resnet_18", PreActResNet), ("wide_resnet_28_10", WideResNet))
    for suffix, options in VARIANTS.items()
}
