"""Fast forms of one convolution. `specialize` chooses the form for the device; nothing else in the project does.

On accelerators it is XLA's own convolution. XLA on CPU is fast at matrix products and at standard convolutions (images `NHWC`, kernel `HWIO`, at
least `MIN_FAST_CHANNELS` channels). It rewrites other convolutions to that form outside of loops only: inside `lax.scan` the gradients that
autodiff writes run ten times slower. So on CPU a convolution is a matrix product where the shape allows a good one, and otherwise a standard
convolution whose gradients are standard convolutions, too; that of a kernel with many channels is matrix products.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from irob.types import Array

Kernel = Float[Array, "kh kw I O"]
ROWS_PER_BAND = 2  # output rows computed by one dense matrix
MIN_FAST_CHANNELS = 17  # below, XLA's CPU backend has no fast convolution
MAX_EXTRA_FLOPS = 4  # multiply-adds of a fast convolution over those of the slow one, up to which it is faster
MIN_PRODUCT_CHANNELS = 64  # of a kernel, from which matrix products are its faster gradient
MIN_PRODUCT_FLOATS = 64 * 64  # channels times positions, above which they are
MAX_DENSE_FLOPS = 1.5  # multiply-adds of the dense matrix over those of the convolution, up to which it is faster
Padding = tuple[tuple[int, int], tuple[int, int]]  # (before, after) along height and width
Convolution = Callable[[Float[Array, "H W I"]], Float[Array, "h w O"]]


def specialize(
    kernel: Kernel, bias: Float[Array, " O"], stride: int, input_size: tuple[int, int], padding: Padding | None = None
) -> Convolution:
    """`x -> conv(x, kernel) + bias` in the fastest form for this device. What depends on the kernel alone is computed now.

    Args:
      kernel: `[kh, kw, I, O]`.
      bias: `[O]`.
      stride: the same along both axes.
      input_size: (H, W) of the inputs.
      padding: (before, after) along height and width; None for SAME.

    Returns:
      A function `[H, W, I] -> [h, w, O]`, differentiable to any order in x, kernel and bias.
    """
    if padding == padding_of(None, input_size, kernel, stride):
        padding = None
    if not on_cpu():
        return lambda x: conv(x, kernel, stride, padding) + bias
    if padding is not None:
        return lambda x: conv_with_explicit_gradients(x, kernel, stride, padding) + bias
    if max(kernel.shape[2:]) < MIN_FAST_CHANNELS and _divides(stride, input_size, kernel):
        return lambda x: strided_conv_as_matmul(x, kernel, stride) + bias
    if stride == 1 and input_size[0] * input_size[1] <= MAX_DENSE_FLOPS * kernel.shape[0] * kernel.shape[1]:
        bands = dense_bands(kernel, input_size)
        return lambda x: conv_by_bands(x, bands).reshape(*input_size, -1) + bias
    return lambda x: conv_with_explicit_gradients(x, kernel, stride) + bias


def conv(x: Float[Array, "H W I"], kernel: Kernel, stride: int, padding: Padding | None = None) -> Float[Array, "h w O"]:
    """XLA's own convolution. padding: None for SAME."""
    return _conv(x[None], kernel, (stride, stride), padding_of(padding, x.shape[:2], kernel, stride))[0]


def padding_of(padding: Padding | None, input_size: Sequence[int], kernel: Kernel, stride: int) -> Padding:
    """The padding itself, or that of SAME."""
    if padding is not None:
        return padding
    height, width = (same_padding(size, taps, stride) for size, taps in zip(input_size, kernel.shape[:2], strict=True))
    return height, width


def output_size(size: int, width: int, stride: int, padding: tuple[int, int]) -> int:
    """The number of positions along one axis."""
    return (size + sum(padding) - width) // stride + 1


def same_padding(size: int, width: int, stride: int) -> tuple[int, int]:
    """Padding (before, after) of SAME along one axis; the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + width - size, 0)
    return total // 2, total - total // 2


def strided_conv_as_matmul(x: Float[Array, "H W I"], kernel: Kernel, stride: int) -> Float[Array, "h w O"]:
    """A convolution whose stride s divides kernel and image, as one matrix product: blocks of s x s pixels become channels (space to depth), the
    kernel shrinks to k/s with stride 1, and shifted copies of the image lie side by side.
    """
    (kh, kw, channels, outputs), s = kernel.shape, stride
    padding = [same_padding(n, k, s) for n, k in zip(x.shape[:2], (kh, kw), strict=True)]
    padded = jnp.pad(x, (*padding, (0, 0)))
    rows, columns = padded.shape[0] // s, padded.shape[1] // s
    blocks = padded.reshape(rows, s, columns, s, channels).transpose(0, 2, 1, 3, 4).reshape(rows, columns, s * s * channels)
    # Outputs first, so that the gradient with respect to the weights is a fast matrix product.
    weights = kernel.reshape(kh // s, s, kw // s, s, channels, outputs).transpose(5, 0, 2, 1, 3, 4).reshape(outputs, -1)
    h, w = rows - kh // s + 1, columns - kw // s + 1
    shifted = [blocks[i : i + h, j : j + w] for i in range(kh // s) for j in range(kw // s)]
    return jnp.einsum("hwk,ok->hwo", jnp.concatenate(shifted, axis=-1), weights)


class Band(NamedTuple):
    """Some rows of the output: the input rows `first` to `last` - 1 times a matrix."""

    first: int
    last: int
    matrix: Float[Array, "rWI shO"]


def dense_bands(kernel: Kernel, input_size: tuple[int, int]) -> list[Band]:
    """The matrix of the convolution with stride 1 (row = input pixel and channel, column = output pixel and channel), `ROWS_PER_BAND` output
    rows at a time, without the input rows that these do not depend on.

    For a kernel about as large as the map it has hardly more multiply-adds than the convolution, at the speed of a matrix product.
    """
    (height, width), (kh, kw, channels, outputs) = input_size, kernel.shape
    above, _ = same_padding(height, kh, 1)
    left, _ = same_padding(width, kw, 1)
    # Input i reaches output o through tap i - o + padding: each output gets its window of the taps, with zeros around.
    taps = jnp.pad(kernel, ((ROWS_PER_BAND - 1, ROWS_PER_BAND - 1), (width - 1, width - 1), (0, 0), (0, 0)))
    taps = jnp.stack([taps[:, width - 1 + left - o :][:, :width] for o in range(width)], axis=3)  # [taps, W, I, w, O]
    bands = []
    for o in range(0, height, ROWS_PER_BAND):
        end = min(o + ROWS_PER_BAND, height)
        first, last = max(o - above, 0), min(end - 1 - above + kh, height)
        begins = [ROWS_PER_BAND - 1 + above - row for row in range(o, end)]
        matrix = jnp.stack([taps[begin + first : begin + last] for begin in begins], axis=3)
        bands.append(Band(first, last, matrix.reshape((last - first) * width * channels, (end - o) * width * outputs)))
    return bands


def conv_by_bands(x: Float[Array, "H W I"], bands: Sequence[Band]) -> Float[Array, " HWO"]:
    """The convolution as matrix products with `dense_bands`."""
    return jnp.concatenate([x[band.first : band.last].reshape(-1) @ band.matrix for band in bands])


def _taps(size: int, width: int, stride: int, padding: tuple[int, int]) -> Float[Array, "in out tap"]:
    """1 where kernel tap u connects input i to output o along an axis, u = i - stride o + padding before; else 0."""
    i, o, u = np.ogrid[:size, : output_size(size, width, stride, padding), :width]
    return (u == i - stride * o + padding[0]).astype(np.float32)


def mean_over_positions(
    kernel: Kernel, stride: int, input_size: tuple[int, int], padding: Padding | None = None
) -> Float[Array, "H W I O"]:
    """The linear map V with `<x, V[..., o]>` = the mean over positions of output channel o, bias apart. padding: None for SAME."""
    rows, columns = (
        np.mean(_taps(size, width, stride, pad), axis=1).astype(kernel.dtype)
        for size, width, pad in zip(input_size, kernel.shape[:2], padding_of(padding, input_size, kernel, stride), strict=True)
    )
    return jnp.einsum("iu,jv,uvcd->ijcd", rows, columns, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv_with_explicit_gradients(
    x: Float[Array, "H W I"], kernel: Kernel, stride: int, padding: Padding | None = None
) -> Float[Array, "h w O"]:
    """`conv`, whose derivatives of every order are standard convolutions.

    Its derivative is stated as the transpose of the two gradients, so that JAX, transposing it again, arrives at the gradients as written here.
    """
    if stride == 1:
        return conv_several_columns(x, kernel, padding_of(padding, x.shape[:2], kernel, stride))
    return conv(x, kernel, stride, padding)


def _derivative(stride: int, padding: Padding | None, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    x, kernel = primals
    out = conv_with_explicit_gradients(x, kernel, stride, padding)
    change = jnp.zeros_like(out)
    for gradient, tangent in zip((_input_gradient, _kernel_gradient), tangents, strict=True):
        if type(tangent) is not jax.custom_derivatives.SymbolicZero:
            change += jax.linear_transpose(functools.partial(gradient, x, kernel, stride, padding), out)(tangent)[0]
    return out, change


conv_with_explicit_gradients.defjvp(_derivative, symbolic_zeros=True)


def _input_gradient(x: Array, kernel: Kernel, stride: int, padding: Padding | None, cotangent: Array) -> Array:
    """A convolution of the cotangent, its pixels `stride` apart, with the flipped kernel; a matrix product where the shape allows it."""
    if padding is None and _divides(stride, x.shape[:2], kernel):
        return jax.linear_transpose(lambda x: strided_conv_as_matmul(x, kernel, stride), x)(cotangent)[0]
    around = []
    for size, width, pad in zip(x.shape[:2], kernel.shape[:2], padding_of(padding, x.shape[:2], kernel, stride), strict=True):
        dilated = (output_size(size, width, stride, pad) - 1) * stride + 1
        around.append((width - 1 - pad[0], size - dilated + pad[0]))
    # The barrier keeps the flipped kernel an array of its own. Without it XLA folds the flip into dimension numbers, which is the slow form.
    flipped = jax.lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    if stride == 1:
        return conv_several_columns(cotangent, flipped, around)
    return _conv(cotangent[None], flipped, (1, 1), around, dilation=(stride, stride))[0]


def _kernel_gradient(x: Array, kernel: Kernel, stride: int, padding: Padding | None, cotangent: Array) -> Array:
    """A convolution with the channels of x as images and the cotangent as kernel; under `vmap` examples become the channels that it sums over.
    Of many channels and positions, matrix products.
    """
    channels = min(kernel.shape[2:])
    if channels >= MIN_PRODUCT_CHANNELS and channels * cotangent[..., 0].size > MIN_PRODUCT_FLOATS:
        return _kernel_gradient_by_taps(x, kernel, stride, padding, cotangent)
    around = []
    for size, width, pad in zip(x.shape[:2], kernel.shape[:2], padding_of(padding, x.shape[:2], kernel, stride), strict=True):
        around.append((pad[0], (output_size(size, width, stride, pad) - 1) * stride + width - size - pad[0]))
    channels = jnp.transpose(x, (2, 0, 1))[..., None]
    return jnp.transpose(_conv(channels, cotangent[:, :, None], (1, 1), around, kernel_dilation=(stride, stride)), (1, 2, 0, 3))


def _kernel_gradient_by_taps(x: Array, kernel: Kernel, stride: int, padding: Padding | None, cotangent: Array) -> Array:
    """`G[u, v, i, o] = sum_hw X[s h + u, s w + v, i] C[h, w, o]` for each tap (u, v): s the stride, X the padded image, C the cotangent."""
    sides = (*padding_of(padding, x.shape[:2], kernel, stride), (0, 0))
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [(*side, 0) for side in sides])
    (taps_down, taps_across), (height, width) = kernel.shape[:2], cotangent.shape[:2]

    def of_tap(u: int, v: int) -> Array:
        seen = padded[u : u + (height - 1) * stride + 1 : stride, v : v + (width - 1) * stride + 1 : stride]
        return jnp.einsum("hwi,hwo->io", seen, cotangent)

    return jnp.stack([jnp.stack([of_tap(u, v) for v in range(taps_across)]) for u in range(taps_down)])


def conv_several_columns(x: Float[Array, "H W I"], kernel: Kernel, padding: Sequence[tuple[int, int]]) -> Float[Array, "h w O"]:
    """A convolution with stride 1 and few channels that computes b columns at once: a kernel b - 1 columns wider moves by b columns, and each of
    its outputs is one column and channel of the result. It takes up to `MAX_EXTRA_FLOPS` times the multiply-adds, but in a fast convolution.

    padding: (before, after) along height and width.
    """
    kh, kw, channels, outputs = kernel.shape
    width = x.shape[1] + sum(padding[1]) - kw + 1
    at_most = min(width, (MAX_EXTRA_FLOPS - 1) * kw + 1)
    enough = (b for b in range(1, at_most + 1) if width % b == 0 and max(b * outputs, channels) >= MIN_FAST_CHANNELS)
    b = next(enough, 1)
    shifted = [jnp.pad(kernel, ((0, 0), (i, b - 1 - i), (0, 0), (0, 0))) for i in range(b)]
    columns = jnp.stack(shifted, axis=3).reshape(kh, kw + b - 1, channels, b * outputs)
    return _conv(x[None], columns, (1, b), padding)[0].reshape(-1, width, outputs)


def _divides(stride: int, input_size: Sequence[int], kernel: Kernel) -> bool:
    return stride > 1 and all(size % stride == 0 for size in (*input_size, *kernel.shape[:2]))


def _conv(
    x: Float[Array, "N H W I"],
    kernel: Kernel,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
    kernel_dilation: tuple[int, int] = (1, 1),
) -> Float[Array, "N h w O"]:
    return jax.lax.conv_general_dilated(
        jnp.asarray(x), jnp.asarray(kernel), strides, padding, dilation, kernel_dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_jvp
def constant(tree: PyTree) -> PyTree:
    """The identity, for values that must not be differentiated: it raises a ValueError when it is. (`stop_gradient` would give zeros silently.)"""
    return tree


@constant.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise ValueError("the frozen form of a network has gradients with respect to its input only: use explain(params, x) instead")


def on_cpu() -> bool:
    """Whether JAX's default device is a CPU."""
    return jax.default_backend() == "cpu"


def images_at_a_time(height: int, width: int) -> int:
    """Images in a batch, on all devices together, that attacks are fast with: at most 256; on a CPU 32 of 32 x 32 pixels a core, whose caches hold
    about so many, and of larger ones fewer.
    """
    if not on_cpu():
        return 256
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    a_core = min(max(32 * 32 * 32 // (height * width), 1), 32)
    return min(a_core * max(jax.local_device_count(), cores), 256)
