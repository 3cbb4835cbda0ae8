"""The paper's networks: convolutional features, their spatial mean, a linear head without bias.

    features A(x) [h, w, K]      class maps M = A W [h, w, C]      logits f = mean of M over (h, w)

The mean and the head commute, so a network is a function `x -> maps`: its class activation maps, whose means are the logits. A convolution acts on
the rectified output of the layer before (pre-activation); the image and the last feature map are not rectified. Layer tables, shortcut and
initial weights are those of the authors' system (Boopathy et al. 2020, https://arxiv.org/abs/2006.14748, code).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from irob import convolutions
from irob.maps.features import READOUTS, cam
from irob.rewriting import softplus
from irob.types import Array, Explain, Explanation, Features, Head, Image, Params, Readout, checked_image, in_type_of


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution of the rectified input (the first one: of the image itself) with bias, padding SAME.

    shortcut: adds the output of the layer two back, average-pooled and zero-padded in channels (half before, half after) to the same shape.
    """

    channels: int
    width: int
    stride: int = 1
    shortcut: bool = False


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maximum over non-overlapping squares of the raw input; the gradient goes to the first of equal maxima."""

    width: int


Layer = Conv | MaxPool
SMALL = (Conv(16, 4, 2), Conv(32, 4, 2), Conv(100, 7))
POOL = (Conv(32, 5), MaxPool(2), Conv(64, 5), MaxPool(2))
WRESNET = (
    Conv(16, 3),
    *(Conv(16, 3), Conv(16, 3, shortcut=True)) * 5,
    *(Conv(32, 3, 2), Conv(32, 3, shortcut=True)),
    *(Conv(32, 3), Conv(32, 3, shortcut=True)) * 4,
    *(Conv(64, 3, 2), Conv(64, 3, shortcut=True)),
    *(Conv(64, 3), Conv(64, 3, shortcut=True)) * 4,
)


class CAMNetwork(nn.Module):
    """A table of layers with a class-activation-map head.

    Parameters are `{"conv_i": {"kernel": [k, k, I, O], "bias": [O]}, ..., "head": {"kernel": [K, C]}}`, i counting convolutions.

    Attributes:
      layers: the table.
      input_shape: (H, W, c) of the images.
      num_classes: C.
      softplus: beta of the softplus that stands for relu; None for relu.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, int, int]
    num_classes: int
    softplus: float | None = None

    def setup(self) -> None:
        """Makes the convolutions and the head."""
        self.convs = [
            nn.Conv(
                layer.channels,
                (layer.width, layer.width),
                layer.stride,
                kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
                name=f"conv_{i}",
            )
            for i, layer in enumerate(_convs(self.layers))
        ]
        self.head = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"), name="head"
        )

    def __call__(self, x: Image) -> Explanation:
        """Class activation maps and logits of one image `[H, W, c]` in [0, 1] (linen's calling convention; see `explain`)."""
        maps = self.head(self.trunk(x))
        return Explanation(maps, jnp.mean(maps, axis=(0, 1)))

    def trunk(self, x: Image) -> Features:
        """The last feature map (linen's calling convention; see `features`)."""
        return _run(self.layers, self.convs, x, self._activation())

    @nn.nowrap
    def initial_params(self, seed: int = 99) -> Params:
        """Initial weights: kernels Normal(0, 1 / fan_in), fan_in = k^2 I, head Normal(0, 1 / K), biases 0.

        Drawn by NumPy's legacy generator as `[O, k^2 I]` in the order of the layers: seed 99 gives exactly the weights of the paper's authors.

        Args:
          seed: in 0 .. 2^32 - 1.

        Returns:
          Nested dictionaries of float32 arrays.
        """
        random = np.random.RandomState(seed)

        def draw(inputs: int, outputs: int) -> np.ndarray:
            return (random.normal(0.0, 1.0 / np.sqrt(inputs), (outputs, inputs)).T).astype(np.float32)

        params, channels = {}, self.input_shape[2]
        for i, layer in enumerate(_convs(self.layers)):
            kernel = draw(layer.width**2 * channels, layer.channels)
            params[f"conv_{i}"] = {
                "kernel": kernel.reshape(layer.width, layer.width, channels, layer.channels),
                "bias": np.zeros(layer.channels, np.float32),
            }
            channels = layer.channels
        return params | {"head": {"kernel": draw(channels, self.num_classes)}}

    @nn.nowrap
    def explain(self, params: Params, x: Image, readout: Readout = READOUTS["cam"]) -> Explanation:
        """Class activation maps `[h, w, C]` and logits `[C]` of one image `[H, W, c]` in [0, 1].

        Computed with the head folded into the last convolution: the same values at less cost, differentiable with respect to every parameter.

        Args:
          params: as `initial_params` returns them.
          x: one image; `jax.vmap` lifts to batches.
          readout: which maps are read off the last feature map, a value of `maps.READOUTS`.

        Returns:
          `Explanation(maps, logits)`.

        Raises:
          ValueError: if the image does not have the network's input shape, or is not of floats.

        >>> network = SmallCNN((8, 8, 1), 3)
        >>> [part.shape for part in network.explain(network.initial_params(), jnp.zeros((8, 8, 1)))]
        [(2, 2, 3), (3,)]
        """
        return Explanation(*(part.astype(x.dtype) for part in self._explainer(in_type_of(x, params), readout)(x)))

    @nn.nowrap
    def head_kernel(self, params: Params) -> Head:
        """W `[K, C]`, the linear layer that reads the maps."""
        return params["head"]["kernel"]

    @nn.nowrap
    def features(self, params: Params, x: Image) -> Features:
        """The representation: the last feature map A `[h, w, K]`, not rectified."""
        return self.apply({"params": in_type_of(x, params)}, checked_image(x, self.input_shape), method="trunk")  # type: ignore[return-value]

    @nn.nowrap
    def features_shape(self) -> tuple[int, int, int]:
        """(h, w, K) of the last feature map."""
        return self.layer_shapes()[-1]

    @nn.nowrap
    def layer_shapes(self) -> list[tuple[int, int, int]]:
        """(height, width, channels) of the output of each layer."""
        shapes, (h, w, channels) = [], self.input_shape
        for layer in self.layers:
            step = layer.stride if isinstance(layer, Conv) else layer.width
            h, w = -(-h // step), -(-w // step)
            channels = layer.channels if isinstance(layer, Conv) else channels
            shapes.append((h, w, channels))
        return shapes

    @nn.nowrap
    def fold_head(self, params: Params, readout: Readout = READOUTS["cam"]) -> tuple[CAMNetwork, Params]:
        """The same maps with the head folded into the last convolution: kernel `[k, k, I, K] V -> [k, k, I, C]`, bias `b V`, V = W for `cam`.

        Exact, because there is no activation between the two. The head that is left is the identity. A network that does not end in a convolution
        without shortcut is returned unchanged.
        """
        last = self.layers[-1]
        if not isinstance(last, Conv) or last.shortcut:
            return self, params
        name = f"conv_{len(_convs(self.layers)) - 1}"
        reading = readout(params["head"]["kernel"])
        maps = reading.shape[1]
        conv = {part: params[name][part] @ reading for part in ("kernel", "bias")}
        folded = self.clone(layers=(*self.layers[:-1], dataclasses.replace(last, channels=maps)), num_classes=maps)
        return folded, {**params, name: conv, "head": {"kernel": np.eye(maps, dtype=np.float32)}}

    @nn.nowrap
    def frozen(self, params: Params, readout: Readout = READOUTS["cam"], dtype: DTypeLike = jnp.float32) -> Explain:
        """The frozen form: `x -> (maps, logits)`, equal to `explain(params, x)`, with parameters constant and fast repeated input gradients.

        What depends on params alone is computed once, when this is called: call it outside of an attack's loop. Attacks use it.

        Args:
          params, readout: as in `explain`.
          dtype: of the computation; maps and logits have the type of the image. bfloat16 is for accelerators; it rounds pixels to 1/256, so
            smaller perturbations vanish.

        Returns:
          A function of one image `[H, W, c]`. It raises a ValueError when it is differentiated with respect to params.

        >>> network = SmallCNN((8, 8, 1), 3)
        >>> explain = network.frozen(network.initial_params())
        >>> jax.grad(lambda x: explain(x).logits[0])(jnp.zeros((8, 8, 1))).shape
        (8, 8, 1)
        """
        cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        explain = self._explainer(convolutions.constant(cast), readout)

        def of_image(x: Any) -> Explanation:
            return Explanation(*(part.astype(x.dtype) for part in explain(checked_image(x, self.input_shape).astype(dtype))))

        return of_image

    @nn.nowrap
    def smooth(self, beta: float = 1.0) -> CAMNetwork:
        """The same network with softplus for relu. It takes the same parameters and has the second derivatives that attacks on gradients need."""
        return self.clone(softplus=beta)

    @nn.nowrap
    def _activation(self) -> Callable[[Array], Array]:
        return nn.relu if self.softplus is None else softplus(self.softplus)

    @nn.nowrap
    def _explainer(self, params: Params, readout: Readout) -> Explain:
        """The network as a function of x, with specialized convolutions.

        Where the last layer is a convolution without shortcut, a linear map reads the logits off its input h, `f = <h, V> + b W`, V being the mean
        over positions of the folded convolution: an attack on logits alone never computes maps.
        """
        head = params["head"]["kernel"]
        network, folded = self.fold_head(params, readout)
        act = self._activation()
        convs: list[convolutions.Convolution] = []
        input_sizes = [network.input_shape, *network.layer_shapes()[:-1]]
        for layer, (height, width, _) in zip(network.layers, input_sizes, strict=True):
            if isinstance(layer, Conv):
                kernel, bias = (folded[f"conv_{len(convs)}"][part] for part in ("kernel", "bias"))
                convs.append(convolutions.specialize(kernel, bias, layer.stride, (height, width)))

        def ending_in_features(x: Image) -> Explanation:
            features = _run(network.layers, convs, checked_image(x, self.input_shape), act)
            return Explanation(cam(features, readout(head)), jnp.mean(features, axis=(0, 1)) @ head)

        if network is self:
            return ending_in_features
        last, (height, width, _) = network.layers[-1], input_sizes[-1]
        assert isinstance(last, Conv)
        kernel, bias = (params[f"conv_{len(convs) - 1}"][part] @ head for part in ("kernel", "bias"))
        reading = convolutions.mean_over_positions(kernel, last.stride, (height, width))

        def ending_in_convolution(x: Image) -> Explanation:
            h = act(_run(network.layers[:-1], convs[:-1], checked_image(x, self.input_shape), act))
            # First over channels, then over positions: the rounding error of one long sum is five times as large.
            logits = jnp.sum(jnp.einsum("hwi,hwic->hwc", h, reading), axis=(0, 1)) + bias
            return Explanation(convs[-1](h), logits)

        return ending_in_convolution


def _convs(layers: Sequence[Layer]) -> list[Conv]:
    return [layer for layer in layers if isinstance(layer, Conv)]


def _run(layers: Sequence[Layer], convs: Sequence[Callable[[Array], Array]], x: Image, act: Callable[[Array], Array]) -> Array:
    """The last feature map, given each convolution as a function and the activation."""
    outputs, remaining = [x], iter(convs)
    for layer in layers:
        h = outputs[-1]
        if isinstance(layer, MaxPool):
            outputs.append(_max_pool(h, layer.width))
            continue
        out = next(remaining)(h if len(outputs) == 1 else act(h))
        outputs.append(out + _fit(outputs[-2], out.shape) if layer.shortcut else out)
    return outputs[-1]


def _squares(h: Float[Array, "H W K"], width: int) -> Float[Array, "h w K squares"]:
    rows, columns, channels = h.shape
    blocks = h.reshape(rows // width, width, columns // width, width, channels)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(rows // width, columns // width, channels, width * width)


def _max_pool(h: Float[Array, "H W K"], width: int) -> Float[Array, "h w K"]:
    return first_maximum(_squares(h, width))


@jax.jit
def first_maximum(squares: Float[Array, "h w K squares"]) -> Float[Array, "h w K"]:
    """The maximum over the last axis, whose gradient goes to the first of equal ones. By its name `certify` knows it."""
    largest = jnp.argmax(squares, axis=-1, keepdims=True) == jnp.arange(squares.shape[-1])
    return jnp.sum(jnp.where(largest, squares, 0.0), axis=-1)


def _fit(h: Float[Array, "H W I"], shape: tuple[int, ...]) -> Float[Array, "h w O"]:
    """The shortcut at another shape: averaged over squares, with zero channels added half before and half after."""
    pooled = jnp.mean(_squares(h, h.shape[0] // shape[0]), axis=-1)
    missing = shape[2] - h.shape[2]
    return jnp.pad(pooled, ((0, 0), (0, 0), (missing // 2, missing - missing // 2)))


SmallCNN = functools.partial(CAMNetwork, SMALL)
PoolCNN = functools.partial(CAMNetwork, POOL)
WResNet = functools.partial(CAMNetwork, WRESNET)
NETWORKS = {"small": SmallCNN, "pool": PoolCNN, "wresnet": WResNet}


def create(name: str, input_shape: tuple[int, int, int], num_classes: int) -> CAMNetwork:
    """A network by name.

    Args:
      name: "small" (`SmallCNN`), "pool" (`PoolCNN`) or "wresnet" (`WResNet`).
      input_shape: (H, W, c) of the images; sides in multiples of 4.
      num_classes: C >= 2.

    Returns:
      A `CAMNetwork`.

    Raises:
      ValueError: for an unknown name, image sides that are not multiples of 4, or fewer than two classes.

    >>> import jax
    >>> network = create("small", (28, 28, 1), 10)
    >>> params = network.initial_params(seed=99)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    166396
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose one of {sorted(NETWORKS)}; irob.models.MODELS has all")
    if any(side % 4 or side < 4 for side in input_shape[:2]):
        raise ValueError(f"network {name!r}: the sides of its images must be multiples of 4, at least 4, got {input_shape[:2]}")
    if input_shape[2] < 1:
        raise ValueError(f"network {name!r}: images have at least one channel, got {input_shape[2]}")
    if not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(f"num_classes must be a whole number, at least 2, got {num_classes}")
    height, width, channels = input_shape
    return NETWORKS[name]((height, width, channels), num_classes)
