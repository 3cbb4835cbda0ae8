"""The only place that knows about devices: processes, pmap, sharding, padding.

A batch axis is split over all devices of all processes, parameters are copied to each. One device is the case n = 1 of the same code.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from experiments.cli import UserError
from irob.convolutions import on_cpu

AXIS = "devices"
CACHE = 2**20  # bytes of a level-2 cache
MEMORY = 40 * 2**20  # bytes for what a step keeps for the way back, on a device of CPU: few leave the cache
FEWEST = 16  # images on a device of CPU, below which matrix products are slow
PATIENCE = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600 --xla_cpu_collective_call_terminate_timeout_seconds=86400"


def cores() -> int:
    """How many this process may run on; a container's quota is not seen."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(*batches: int, even: bool = True) -> None:
    """On CPU, makes a device of each core, or of so many that each has `FEWEST` images of every one of these batches, and (even) that they divide it.

    A core with images of its own waits for no other; the threads of one device wait for each other after every operation. To be called before
    anything touches a device. Who asks for a number of devices by JAX's own variables gets that.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in flags or jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return
    good = (n for n in range(1, cores() + 1) if all(batch >= n * FEWEST and not (even and batch % n) for batch in batches))
    jax.config.update("jax_num_cpu_devices", max(good, default=1))
    # Devices that share a machine may wait long for each other; after 40 seconds XLA would end the process.
    os.environ["XLA_FLAGS"] = f"{PATIENCE} {flags}".strip()


def start(coordinator: str | None, num_processes: int, process_id: int, *batches: int, even: bool = True) -> None:
    """Joins the processes of one run. To be called before anything else touches a device. A process on its own takes `use_cores(*batches, even)`.

    Args:
      coordinator: None for a single process; "auto" on TPU pods and clusters that JAX recognises; else "host:port" of process 0.
      num_processes, process_id: how many there are and which one this is; unused under "auto".
      batches, even: as in `use_cores`; several processes keep a device of CPU each.
    """
    if coordinator is None:
        if num_processes != 1 or process_id != 0:
            raise UserError("--num_processes and --process_id need --coordinator host:port (or auto), the address of process 0")
        use_cores(*batches, even=even)
        return
    if coordinator != "auto" and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} must be in 0..{num_processes - 1}, one for each of the --num_processes={num_processes}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--coordinator={coordinator}: the processes could not meet ({' '.join(str(error).split())[:200]})") from error


def is_first_process() -> bool:
    """True in the one process that writes files."""
    return jax.process_index() == 0


def num_processes() -> int:
    """How many processes make up this run."""
    return jax.process_count()


def num_devices() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def word_of_the_first(text: str | None) -> str | None:
    """What the first process says, in every process; at most 2,000 bytes of it."""
    if jax.process_count() == 1:
        return text
    letters = np.zeros(2000, np.uint8)
    said = (text or "").encode()[: letters.size]
    letters[: len(said)] = np.frombuffer(said, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(letters)).rstrip(b"\0").decode(errors="ignore") or None


def same_everywhere(text: str) -> bool:
    """Whether all processes say the same."""
    if jax.process_count() == 1:
        return True
    said = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return bool((multihost_utils.process_allgather(said) == said).all())


@contextlib.contextmanager
def fake_devices(n: int) -> Iterator[None]:
    """Processes that are started meanwhile have n devices on CPU."""
    before = os.environ.get("JAX_NUM_CPU_DEVICES")
    os.environ["JAX_NUM_CPU_DEVICES"] = str(n)
    try:
        yield
    finally:
        os.environ.pop("JAX_NUM_CPU_DEVICES")
        if before is not None:
            os.environ["JAX_NUM_CPU_DEVICES"] = before


def in_words() -> str:
    """The devices of all processes, e.g. "8 x cpu"."""
    return f"{num_devices()} x {jax.devices()[0].device_kind}"


def default_batch_size(image_shape: tuple[int, int, int], n: int) -> int:
    """Images at a time on a device in evaluation of n: in pixels at most what 50 images of 32 x 32 have on CPU, where a core is at full speed with
    that, and ten times as much elsewhere; so many that the last batch is as full as the others.
    """
    pixels = (50 if on_cpu() else 500) * 32 * 32
    on_a_device, most = -(-n // num_devices()), max(1, pixels // (image_shape[0] * image_shape[1]))
    return max(1, -(-on_a_device // -(-max(1, on_a_device) // most)))


def vmap_in_cache(function: Callable[..., Any], activation: int) -> Callable[..., Any]:
    """`jax.vmap`; on CPU of so many examples at a time that their largest activation, of `activation` floats each, stays in the cache.

    For loops whose examples do not depend on each other. The pieces are as equal as can be.
    """
    whole = jax.vmap(function)
    if not on_cpu():
        return whole

    def in_pieces(*arrays: Any) -> Any:
        n = len(arrays[0])
        piece = -(-n // -(-n // max(1, CACHE // (4 * activation))))
        return whole(*arrays) if piece == n else jax.lax.map(lambda rows: function(*rows), arrays, batch_size=piece)

    return in_pieces


def mean_and_gradient(loss: Callable[..., Any], activations: int) -> Callable[..., Any]:
    """`(params, *arrays) -> (value, gradient in params)` of the mean of `loss(params, *example)` over examples.

    On CPU over so many examples at a time that what is kept of them for the way back, about `activations` floats each, stays within `MEMORY`.
    """

    def of_piece(params: Any, *arrays: Any) -> Any:
        def mean_loss(params: Any) -> jax.Array:
            return jnp.mean(jax.vmap(lambda *example: loss(params, *example))(*arrays))

        return jax.value_and_grad(mean_loss)(params)

    def in_pieces(params: Any, *arrays: Any) -> Any:
        n, most = len(arrays[0]), max(1, MEMORY // (4 * activations))
        if n <= most or not on_cpu():
            return of_piece(params, *arrays)
        size = -(-n // -(-n // most))
        whole = n - n % size

        def add(total: Any, piece: Sequence[Any]) -> tuple[Any, None]:
            weight = len(piece[0]) / n
            return jax.tree.map(lambda sum, found: sum + weight * found, total, of_piece(params, *piece)), None

        pieces = [array[:whole].reshape(-1, size, *array.shape[1:]) for array in arrays]
        nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, nothing, pieces)
        return add(total, [array[whole:] for array in arrays])[0] if whole < n else total

    return in_pieces


def pmap(function: Callable[..., Any], donate: Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.pmap` over the axis that `mean` and `positions` refer to."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=tuple(donate))


def mean(tree: Any) -> Any:
    """Inside a pmapped function: the mean over all devices."""
    return jax.lax.pmean(tree, AXIS)


def positions(local_batch: int) -> jax.Array:
    """Inside a pmapped function: the positions in the whole batch of the examples on this device."""
    return jax.lax.axis_index(AXIS) * local_batch + np.arange(local_batch)


def replicate(tree: Any) -> Any:
    """Copies to every local device, on a new leading axis."""
    return jax_utils.replicate(tree, axis_name=AXIS)  # the sharding of pmapped results, so that feeding them back compiles nothing anew


def first(tree: Any) -> Any:
    """The first local copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)


def share(indices: np.ndarray) -> np.ndarray:
    """The part of the rows of a batch that belongs to this process."""
    return np.split(indices, jax.process_count())[jax.process_index()]


def shard(tree: Any, axis: int = 0) -> Any:
    """This process's rows of a batch, along an axis, spread over its devices: `[..., n, ...] -> [devices, ..., n / devices, ...]`."""
    return jax.tree.map(lambda leaf: np.stack(np.split(leaf, jax.local_device_count(), axis)), tree)


def map_examples(
    function: Callable[..., Any], replicated: Any, fetch: Callable[[np.ndarray], Any], indices: np.ndarray, batch_size: int
) -> Any:
    """Applies a pmapped function to examples in batches, each example counted once, and returns all results in every process.

    Args:
      function: pmapped, `(replicated, *examples) -> tree of [devices, batch, ...]`, examples being what `fetch` gives, sharded.
      replicated: its first argument, e.g. replicated parameters.
      fetch: `indices [n] -> tuple of arrays [n, ...]`, called for this process's share of a batch.
      indices: `[n]`, n >= 1, the examples. The last batch is filled up with copies of the last one, whose results are dropped.
      batch_size: per device, so the arithmetic on a device is the same for any number of them.

    Returns:
      A tree of NumPy arrays `[n, ...]` in the order of `indices`.
    """
    whole = batch_size * num_devices()
    padded = np.concatenate([indices, np.full(-len(indices) % whole, indices[-1])])
    results = []
    for batch in np.split(padded, len(padded) // whole):
        out = function(replicated, *shard(fetch(share(batch))))
        results.append(jax.tree.map(_local_rows, out))
    local = jax.tree.map(lambda *parts: np.stack(parts), *results)  # [batches, rows of this process, ...]
    if jax.process_count() > 1:
        local = jax.tree.map(lambda a: np.concatenate(multihost_utils.process_allgather(a), axis=1), local)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(indices)], local)


def _local_rows(leaf: jax.Array) -> np.ndarray:
    shards = sorted(leaf.addressable_shards, key=lambda s: s.index[0].start or 0)
    return np.concatenate([np.asarray(s.data).reshape(-1, *leaf.shape[2:]) for s in shards])
