"""Devices and processes: pmap, sharding, padding. The only place that knows about them.

A batch axis is split over all devices of all processes; parameters are copied to each. One device is the case n = 1 of the same code.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np
from flax import jax_utils
from jax.experimental import multihost_utils

from experiments.runtime import processes
from experiments.runtime.errors import UserError
from experiments.runtime.plan import MIN_IMAGES_PER_CPU_DEVICE

AXIS = "devices"
# CPU devices that share a machine may wait long for each other; after 40 seconds XLA would end the process.
COLLECTIVE_TIMEOUT_FLAGS = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600 --xla_cpu_collective_call_terminate_timeout_seconds=86400"
)

# In these releases XLA's library for sums crashes, or does not end, on arrays of seven axes or more (https://github.com/jax-ml/jax/issues/39257).
FAULTY_SUMS = ("0.10.2", "0.11.0")
WITHOUT_LIBRARY_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-reduce"


def avoid_faulty_sums() -> None:
    """Lets XLA write the code of its sums on CPU, where the library it would call for them is one of `FAULTY_SUMS`. Call it before anything uses
    a device. A choice in XLA_FLAGS takes precedence.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__ in FAULTY_SUMS and "xla_cpu_experimental_ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WITHOUT_LIBRARY_SUMS}".strip()


def cores() -> int:
    """How many cores this process may run on; a container's CPU quota is not seen."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(*batches: int, even: bool = True) -> None:
    """On CPU, makes a device of each core, or of fewer, so that each has `MIN_IMAGES_PER_CPU_DEVICE` images of every one of these batches.

    A core with images of its own waits for no other; the threads of one device wait for each other after every operation. Call it before anything
    uses a device. JAX's own variables for the number of devices take precedence.

    Args:
      batches: sizes of the batches to come.
      even: whether the number of devices must divide them.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in flags or jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return
    good = (
        n for n in range(1, cores() + 1) if all(batch >= n * MIN_IMAGES_PER_CPU_DEVICE and not (even and batch % n) for batch in batches)
    )
    jax.config.update("jax_num_cpu_devices", max(good, default=1))
    os.environ["XLA_FLAGS"] = f"{COLLECTIVE_TIMEOUT_FLAGS} {flags}".strip()


def start(
    coordinator: str | None,
    num_processes: int,
    process_id: int,
    *batches: int,
    even: bool = True,
    timeout: int = 300,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Joins the processes of one run. Call it before anything else uses a device. A process on its own takes `use_cores(*batches, even)`.

    Args:
      coordinator: None for a single process; "auto" on TPU pods and clusters that JAX recognizes; otherwise "host:port" of process 0.
      num_processes, process_id: how many there are and which one this is; unused with "auto".
      batches, even: as in `use_cores`; several processes keep one CPU device each.
      timeout, settings: of `processes.join`.

    Raises:
      UserError: for flags that do not fit together, and as `processes.join`.
    """
    if coordinator is None:
        if num_processes != 1 or process_id != 0:
            raise UserError("--num_processes and --process_id need --coordinator host:port (or auto), the address of process 0")
        use_cores(*batches, even=even)
        return
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes} must be at least 1")
    if coordinator != "auto" and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id} must be in 0..{num_processes - 1}, one for each of the --num_processes={num_processes}")
    port = re.fullmatch(r"(?:\[[^\]]+\]|[^:]+):([0-9]{1,5})", coordinator)
    if coordinator != "auto" and not (port and 1 <= int(port[1]) <= 65535):
        raise UserError(f"--coordinator={coordinator}: must be auto, or host:port of process 0 with a port in 1..65535")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    processes.join(coordinator, num_processes, process_id, timeout, settings or {})


def is_first_process() -> bool:
    """True in the one process that writes files."""
    return jax.process_index() == 0


def num_processes() -> int:
    """How many processes make up this run."""
    return jax.process_count()


def num_devices() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def describe_devices() -> str:
    """The devices of all processes, e.g. "8 x cpu"."""
    return f"{num_devices()} x {jax.devices()[0].device_kind}"


def broadcast_text(text: str | None) -> str | None:
    """The text of the first process, in every process; at most 2,000 bytes of it."""
    if jax.process_count() == 1:
        return text
    letters = np.zeros(2000, np.uint8)
    own = (text or "").encode()[: letters.size]
    letters[: len(own)] = np.frombuffer(own, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(letters)).rstrip(b"\0").decode(errors="ignore") or None


def on_first_process(action: Callable[[], None], place: str, advice: str) -> None:
    """Runs an action in the first process. What is refused there is refused in every process, so that none waits for it.

    Args:
      place, advice: said where a file cannot be written.

    Raises:
      UserError: in every process.
    """
    mistake = None
    if is_first_process():
        try:
            action()
        except UserError as error:
            mistake = str(error)
        except OSError as error:
            mistake = f"{place} cannot be written ({error.strerror or error}): {advice}"
    if mistake := broadcast_text(mistake):
        raise UserError(mistake)


def all_processes_agree(text: str) -> bool:
    """Whether all processes have the same text."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return bool((multihost_utils.process_allgather(own) == own).all())


@contextlib.contextmanager
def fake_devices(n: int) -> Iterator[None]:
    """Processes that are started meanwhile have n CPU devices."""
    before = os.environ.get("JAX_NUM_CPU_DEVICES")
    os.environ["JAX_NUM_CPU_DEVICES"] = str(n)
    try:
        yield
    finally:
        os.environ.pop("JAX_NUM_CPU_DEVICES")
        if before is not None:
            os.environ["JAX_NUM_CPU_DEVICES"] = before


def pmap(function: Callable[..., Any], donate: Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.pmap` over the axis that `mean_over_devices` and `batch_positions` refer to."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=tuple(donate))


def pmap_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """`pmap`, with matrix products in full float32: GPUs and TPUs round the factors by default, which changes signs of gradients."""
    return pmap(jax.default_matmul_precision("highest")(function))


def mean_over_devices(tree: Any) -> Any:
    """Inside a pmapped function: the mean over all devices."""
    return jax.lax.pmean(tree, AXIS)


def batch_positions(local_batch: int) -> jax.Array:
    """Inside a pmapped function: the positions in the whole batch of the examples on this device."""
    return jax.lax.axis_index(AXIS) * local_batch + np.arange(local_batch)


def mirrored_batch(array: Any) -> jax.Array:
    """Inside a pmapped function: of each example on this device, the example at the mirrored position of the whole batch."""
    everything = jax.lax.all_gather(array, AXIS, tiled=True)
    return everything[len(everything) - 1 - batch_positions(len(array))]


def replicate(tree: Any) -> Any:
    """Copies to every local device, on a new leading axis."""
    return jax_utils.replicate(tree, axis_name=AXIS)  # the sharding of pmapped results, so that feeding them back compiles nothing again


def unreplicate(tree: Any) -> Any:
    """The first local copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)


def local_rows(indices: np.ndarray) -> np.ndarray:
    """The rows of a batch that belong to this process."""
    return np.split(indices, jax.process_count())[jax.process_index()]


def shard(tree: Any, axis: int = 0) -> Any:
    """This process's rows of a batch, along an axis, spread over its devices: `[..., n, ...] -> [devices, ..., n / devices, ...]`."""
    return jax.tree.map(lambda leaf: np.stack(np.split(leaf, jax.local_device_count(), axis)), tree)


def map_batches(
    function: Callable[..., Any], replicated: Any, fetch: Callable[[np.ndarray], Any], indices: np.ndarray, batch_size: int
) -> Any:
    """Applies a pmapped function to examples in batches, each example counted once, and returns all results in every process.

    Args:
      function: pmapped, `(replicated, *examples) -> tree of [devices, batch, ...]`, examples being what `fetch` returns, sharded.
      replicated: its first argument, e.g. replicated parameters.
      fetch: `indices [n] -> tuple of arrays [n, ...]`, called for this process's rows of a batch.
      indices: `[n]`, n >= 1, the examples. The last batch is padded with copies of the last one, whose results are dropped.
      batch_size: per device, so the arithmetic on a device is the same for any number of them.

    Returns:
      A tree of NumPy arrays `[n, ...]` in the order of `indices`.
    """
    whole = batch_size * num_devices()
    padded = np.concatenate([indices, np.full(-len(indices) % whole, indices[-1])])
    results = []
    for batch in np.split(padded, len(padded) // whole):
        out = function(replicated, *shard(fetch(local_rows(batch))))
        results.append(jax.tree.map(_rows_of_this_process, out))
    local = jax.tree.map(lambda *parts: np.stack(parts), *results)  # [batches, rows of this process, ...]
    if jax.process_count() > 1:
        local = jax.tree.map(lambda a: np.concatenate(multihost_utils.process_allgather(a), axis=1), local)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(indices)], local)


def _rows_of_this_process(leaf: jax.Array) -> np.ndarray:
    shards = sorted(leaf.addressable_shards, key=lambda s: s.index[0].start or 0)
    return np.concatenate([np.asarray(s.data).reshape(-1, *leaf.shape[2:]) for s in shards])
