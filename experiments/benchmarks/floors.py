"""What a step costs at least: floating-point operations and bytes, counted from the tables of layers; and what this machine can do."""

import time
from typing import NamedTuple

import jax

from irob.models.cam_network import CAMNetwork, Conv


class Cost(NamedTuple):
    """operations: multiplications and additions. bytes: of activations read and written once each, in float32."""

    operations: float
    bytes: float

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, n: float) -> "Cost":
        """The cost of n times as much."""
        return Cost(self.operations * n, self.bytes * n)


def forward(network: CAMNetwork, maps: bool = True) -> Cost:
    """Of one image through the network with its head folded. Without maps a network that ends in a convolution reads logits off its input."""
    network, _ = network.fold_head(network.initial_params())
    shapes = network.layer_shapes()
    total = Cost(0.0, 0.0)
    for layer, (height, width, channels), (h, w, outputs) in zip(network.layers, [network.input_shape, *shapes], shapes, strict=False):
        inputs = height * width * channels
        last = layer is network.layers[-1] and isinstance(layer, Conv) and not layer.shortcut
        if last and not maps:
            total += Cost(2.0 * inputs * network.num_classes, 4.0 * inputs)
        elif isinstance(layer, Conv):
            total += Cost(2.0 * h * w * layer.width**2 * channels * outputs, 4.0 * (inputs + h * w * outputs))
        else:
            total += Cost(float(inputs), 4.0 * (inputs + h * w * outputs))
    if not _ends_in_convolution(network):
        h, w, channels = shapes[-1]
        total += Cost(2.0 * h * w * channels * network.num_classes if maps else 2.0 * channels * network.num_classes, 0.0)
    return total


def _ends_in_convolution(network: CAMNetwork) -> bool:
    last = network.layers[-1]
    return isinstance(last, Conv) and not last.shortcut


def attack_step(network: CAMNetwork, maps: bool) -> Cost:
    """One forward pass and the gradient with respect to the image, which costs as much again."""
    return forward(network, maps).times(2.0)


def training_step_cost(network: CAMNetwork, method: str, batch: int, steps: int) -> Cost:
    """An optimizer step of `int`, `adv` or `normal`: the attack, then forward and both gradients (three forward passes) of the outer loss."""
    if method == "normal":
        return forward(network, maps=False).times(3.0 * batch)
    if method == "adv":
        return (attack_step(network, maps=False).times(steps) + forward(network, maps=False).times(3.0)).times(batch)
    clean = forward(network)
    return (clean + attack_step(network, maps=True).times(steps) + clean.times(6.0)).times(batch)


def matmul_peak(size: int = 2048, repeats: int = 12) -> float:
    """Operations per second of a float32 matrix product, the best of several."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(product(a))
        times.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(times)
