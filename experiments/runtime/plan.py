"""The execution plan: into which pieces batches are cut, on this kind of device. Every constant of a machine is here.

It changes speed and memory, never what is computed. (How one convolution runs is `irob.convolutions`' own choice.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from irob.convolutions import on_cpu

MIN_IMAGES_PER_CPU_DEVICE = 16  # below, matrix products on a core are slow


class Plan(NamedTuple):
    """How work is cut for a kind of device.

    l2_cache_bytes: an attack runs on so many images at a time that their largest activation fits; None: on the whole batch.
    backward_bytes: a loss runs on so many images at a time that what is stored for the backward pass fits; None: on the whole batch.
    path_chunk: points of a path that are differentiated at a time.
    evaluation_pixels: pixels at a time on a device in evaluation.
    """

    l2_cache_bytes: int | None
    backward_bytes: int | None
    path_chunk: int
    evaluation_pixels: int

    def attack_piece(self, n: int, activation_floats: int) -> int:
        """Images at a time of n in an attack; the pieces are as equal as can be. activation_floats: of the largest activation of one image."""
        return n if self.l2_cache_bytes is None else equal_pieces(n, self.l2_cache_bytes // (4 * activation_floats))

    def loss_piece(self, n: int, residual_floats: int) -> int:
        """Images at a time of n in a loss. residual_floats: stored for the backward pass, per image."""
        return n if self.backward_bytes is None else equal_pieces(n, self.backward_bytes // (4 * residual_floats))

    def evaluation_batch(self, image_shape: tuple[int, int, int], n: int, num_devices: int) -> int:
        """Images at a time on a device in an evaluation of n; the last batch is as full as the others."""
        return equal_pieces(-(-n // num_devices), self.evaluation_pixels // (image_shape[0] * image_shape[1]))


# A core of a CPU is at full speed with 8 to 32 images of 32 x 32 (with 65 attacks take a sixth longer); 40 MB of residuals hardly leave its caches.
CPU = Plan(l2_cache_bytes=2**20, backward_bytes=40 * 2**20, path_chunk=1, evaluation_pixels=32 * 32 * 32)
ACCELERATOR = Plan(l2_cache_bytes=None, backward_bytes=None, path_chunk=5, evaluation_pixels=500 * 32 * 32)


def current_plan() -> Plan:
    """The plan for JAX's default device."""
    return CPU if on_cpu() else ACCELERATOR


def equal_pieces(n: int, most: int) -> int:
    """The size of the fewest pieces of n, at most `most` (at least 1) each, that are as equal as can be."""
    return max(1, -(-n // -(-max(1, n) // max(1, most))))


def vmap_in_pieces(function: Callable[..., Any], piece: Callable[[int], int]) -> Callable[..., Any]:
    """`jax.vmap`, of `piece(n)` examples of n at a time. For loops whose examples do not depend on each other."""

    def mapped(*arrays: Any) -> Any:
        n = len(arrays[0])
        if piece(n) == n:
            return jax.vmap(function)(*arrays)
        return jax.lax.map(lambda rows: function(*rows), arrays, batch_size=piece(n))

    return mapped


EXAMPLES = "examples"  # name of the axis that `mean_and_gradient` maps a loss over


def mean_and_gradient(loss: Callable[..., Any], piece: Callable[[int], int]) -> Callable[..., Any]:
    """`(params, *arrays) -> (value, gradient with respect to params)` of the mean of `loss(params, *example)` over examples.

    piece: n -> how many examples at a time; memory does not grow with the others.
    """

    def of_piece(params: Any, *arrays: Any) -> Any:
        def mean_loss(params: Any) -> jax.Array:
            return jnp.mean(jax.vmap(lambda *example: loss(params, *example), axis_name=EXAMPLES)(*arrays))

        return jax.value_and_grad(mean_loss)(params)

    def in_pieces(params: Any, *arrays: Any) -> Any:
        n = len(arrays[0])
        size = piece(n)
        if size == n:
            return of_piece(params, *arrays)
        whole = n - n % size

        def add(total: Any, part: Sequence[Any]) -> tuple[Any, None]:
            weight = len(part[0]) / n
            return jax.tree.map(lambda sum, found: sum + weight * found, total, of_piece(params, *part)), None

        parts = [array[:whole].reshape(-1, size, *array.shape[1:]) for array in arrays]
        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zero, parts)
        return add(total, [array[whole:] for array in arrays])[0] if whole < n else total

    return in_pieces
