"""Training batches: which examples, and on which devices."""

import concurrent.futures
import functools
import itertools
from collections.abc import Generator
from typing import Any

import jax
import numpy as np

from experiments.data.splits import Images, Split
from experiments.runtime import devices


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of a training step. Every epoch is a fresh permutation; what is left of it after the last whole batch is dropped.

    A function of (seed, step) alone, so a run can start at any step.
    """
    epoch, batch = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def training_batches(split: Split, batch_size: int, seed: int, step: int, steps_at_once: int = 1) -> Generator[Any]:
    """Sharded (images, labels) `[devices, steps at once, batch, ...]` of this and all following steps.

    Images in memory are copied to the devices once and gathered there; a stream is read two such batches ahead in the background.
    """
    n = len(split.labels)
    rows_to_come = (
        np.stack([devices.local_rows(batch_indices(n, batch_size, seed, first + i)) for i in range(steps_at_once)])
        for first in itertools.count(step, steps_at_once)
    )
    if isinstance(split, Images):
        resident = devices.replicate((split.images, split.labels))
        gather = devices.pmap(lambda arrays, rows: jax.tree.map(lambda a: a[rows], arrays))
        for rows in rows_to_come:
            yield gather(resident, devices.shard(rows, axis=1))
    else:

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(array.reshape(*rows.shape, *array.shape[1:]) for array in split.fetch(rows.reshape(-1)))

        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(fetch, next(rows_to_come)) for _ in range(2)]
            try:
                for rows in rows_to_come:
                    yield devices.shard(pending.pop(0).result(), axis=1)
                    pending.append(reader.submit(fetch, rows))
            finally:
                for future in pending:
                    future.cancel()
