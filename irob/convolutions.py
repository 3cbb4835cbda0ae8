"""Forms of one convolution, chosen for where it is to run.

XLA on CPU rewrites a convolution to its fast library form only outside of loops; inside `lax.scan` the gradient with respect to the input,
as autodiff writes it, runs ten times slower. An attack needs that gradient alone and holds its kernels fixed, so a convolution can be prepared
once, before the loop, as something that runs well there: `loop_form`. Outside, matrix products still beat convolutions of some shapes:
`training_form`. Nothing else in the project chooses.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from irob.arrays import Array

Kernel = Float[Array, "kh kw I O"]
ROWS = 2  # of the output, in a band of a dense matrix
DENSE = 1.5  # products of the dense matrix over those of the convolution, up to which it pays
Convolution = Callable[[Float[Array, "H W I"]], Float[Array, "h w O"]]


def loop_form(kernel: Kernel, bias: Float[Array, " O"], stride: int, input_size: tuple[int, int]) -> Convolution:
    """`x -> conv(x, kernel) + bias` (padding SAME) in the form that is fast inside a loop, for gradients with respect to x only.

    Args:
      kernel: `[kh, kw, I, O]`.
      bias: `[O]`.
      stride: the same along both axes.
      input_size: (H, W) of the inputs to come.
    """
    looped = input_gradient_only if on_cpu() else plain
    kernel, bias = constant((kernel, bias))
    return _as_product(kernel, stride, input_size, bias) or (lambda x: looped(x, kernel, stride) + bias)


def training_form(kernel: Kernel, bias: Float[Array, " O"], stride: int, input_size: tuple[int, int]) -> Convolution:
    """The same in the form that is fast outside of loops, for gradients with respect to everything."""
    return _as_product(kernel, stride, input_size, bias) or (lambda x: plain(x, kernel, stride) + bias)


def _as_product(kernel: Kernel, stride: int, input_size: tuple[int, int], bias: Float[Array, " O"]) -> Convolution | None:
    """A matrix product where the shape allows a good one, on CPU."""
    if not on_cpu():
        return None
    if stride > 1 and all(size % stride == 0 for size in (*input_size, *kernel.shape[:2])):
        return lambda x: strided_as_matmul(x, kernel, stride) + bias
    if stride == 1 and input_size[0] * input_size[1] <= DENSE * kernel.shape[0] * kernel.shape[1]:
        bands = as_bands(kernel, input_size)
        return lambda x: in_bands(x, bands).reshape(*input_size, -1) + bias
    return None


Form = Callable[[Kernel, Float[Array, " O"], int, tuple[int, int]], Convolution]


def plain(x: Float[Array, "H W I"], kernel: Kernel, stride: int) -> Float[Array, "h w O"]:
    """The convolution as XLA has it, padding SAME."""
    return _batch_of_one(x, kernel, (stride, stride), "SAME")


def same_padding(size: int, width: int, stride: int) -> tuple[int, int]:
    """Padding (before, after) of SAME along one axis; the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + width - size, 0)
    return total // 2, total - total // 2


def strided_as_matmul(x: Float[Array, "H W I"], kernel: Kernel, stride: int) -> Float[Array, "h w O"]:
    """A convolution whose stride s divides kernel and image: blocks of s x s pixels become channels (space to depth), the kernel shrinks to
    k/s with stride 1, and its shifted copies side by side make one matrix product.
    """
    (kh, kw, channels, outputs), s = kernel.shape, stride
    padding = [same_padding(n, k, s) for n, k in zip(x.shape[:2], (kh, kw), strict=True)]
    padded = jnp.pad(x, (*padding, (0, 0)))
    rows, columns = padded.shape[0] // s, padded.shape[1] // s
    blocks = padded.reshape(rows, s, columns, s, channels).transpose(0, 2, 1, 3, 4).reshape(rows, columns, s * s * channels)
    # Outputs first: so the product's gradient in them comes out of a fast product.
    weights = kernel.reshape(kh // s, s, kw // s, s, channels, outputs).transpose(5, 0, 2, 1, 3, 4).reshape(outputs, -1)
    h, w = rows - kh // s + 1, columns - kw // s + 1
    shifted = [blocks[i : i + h, j : j + w] for i in range(kh // s) for j in range(kw // s)]
    return jnp.einsum("hwk,ok->hwo", jnp.concatenate(shifted, axis=-1), weights)


class Band(NamedTuple):
    """The rows `first` to `last` - 1 of the input, and the matrix by which they give some rows of the output."""

    first: int
    last: int
    matrix: Float[Array, "rWI shO"]


def as_bands(kernel: Kernel, input_size: tuple[int, int]) -> list[Band]:
    """The matrix of the convolution with stride 1 (row = input pixel and channel, column = output pixel and channel), `ROWS` rows of the output
    at a time, without the input rows that these do not meet.

    For a kernel about as large as the map it has hardly more products than the convolution itself, at the speed of a matrix product.
    """
    (height, width), (kh, kw, channels, outputs) = input_size, kernel.shape
    above, _ = same_padding(height, kh, 1)
    left, _ = same_padding(width, kw, 1)
    # Input i meets output o by tap i - o + padding: to each output its window of the taps, zeros around them.
    taps = jnp.pad(kernel, ((ROWS - 1, ROWS - 1), (width - 1, width - 1), (0, 0), (0, 0)))
    taps = jnp.stack([taps[:, width - 1 + left - o :][:, :width] for o in range(width)], axis=3)  # [taps, W, I, w, O]
    bands = []
    for o in range(0, height, ROWS):
        end = min(o + ROWS, height)
        first, last = max(o - above, 0), min(end - 1 - above + kh, height)
        begins = [ROWS - 1 + above - row for row in range(o, end)]
        matrix = jnp.stack([taps[begin + first : begin + last] for begin in begins], axis=3)
        bands.append(Band(first, last, matrix.reshape((last - first) * width * channels, (end - o) * width * outputs)))
    return bands


def in_bands(x: Float[Array, "H W I"], bands: Sequence[Band]) -> Float[Array, " HWO"]:
    """The convolution by `as_bands`."""
    return jnp.concatenate([x[band.first : band.last].reshape(-1) @ band.matrix for band in bands])


def _taps(size: int, width: int, stride: int) -> Float[Array, "in out tap"]:
    """1 where kernel tap u joins input i to output o along an axis, u = i - stride o + padding before; else 0."""
    before, _ = same_padding(size, width, stride)
    i, o, u = np.ogrid[:size, : -(-size // stride), :width]
    return (u == i - stride * o + before).astype(np.float32)


def mean_over_positions(kernel: Kernel, stride: int, input_size: tuple[int, int]) -> Float[Array, "H W I O"]:
    """The linear map V with `<x, V[..., o]>` = the mean over positions of output channel o, bias apart."""
    rows, columns = (
        np.mean(_taps(size, width, stride), axis=1).astype(kernel.dtype) for size, width in zip(input_size, kernel.shape[:2], strict=True)
    )
    return jnp.einsum("iu,jv,uvcd->ijcd", rows, columns, kernel)


def input_gradient_only(x: Float[Array, "H W I"], kernel: Kernel, stride: int) -> Float[Array, "h w O"]:
    """The convolution with its gradient with respect to x written as an ordinary convolution of the cotangent with the flipped kernel.

    Reverse mode only. The kernel is `constant`: inside a vmapped loop its gradient would be slow.
    """
    return _input_gradient_only(x, constant(kernel), stride)


@jax.custom_jvp
def constant(tree: PyTree) -> PyTree:
    """The identity, for values that must not be differentiated.

    Raises:
      ValueError: when differentiated.
    """
    return tree


@constant.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise ValueError("the attack form of a network gives gradients with respect to its input only: use explain(params, x) instead")


def on_cpu() -> bool:
    """Whether JAX's default device is a CPU."""
    return jax.default_backend() == "cpu"


def _batch_of_one(
    x: Array, kernel: Array, strides: tuple[int, int], padding: str | Sequence[tuple[int, int]], dilation: tuple[int, int] = (1, 1)
) -> Array:
    return jax.lax.conv_general_dilated(
        jnp.asarray(x)[None], jnp.asarray(kernel), strides, padding, lhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


_input_gradient_only = jax.custom_vjp(plain, nondiff_argnums=(2,))


def _forward(x: Array, kernel: Kernel, stride: int) -> tuple[Array, Any]:
    return plain(x, kernel, stride), (x.shape, kernel)


def _backward(stride: int, residuals: Any, cotangent: Array) -> tuple[Array, None]:
    shape, kernel = residuals
    padding = []
    for size, width in zip(shape[:2], kernel.shape[:2], strict=True):
        before, _ = same_padding(size, width, stride)
        dilated = (-(-size // stride) - 1) * stride + 1
        padding.append((width - 1 - before, size - dilated + before))
    # The barrier keeps the flipped kernel an array of its own: folded back into dimension numbers, the slow form returns.
    flipped = jax.lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    return _batch_of_one(cotangent, flipped, (1, 1), padding, (stride, stride)), None


_input_gradient_only.defvjp(_forward, _backward)
