"""A network under evaluation: compiled checks mapped over chosen test images, each image's result counted and kept once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import parallel
from experiments.data import Split
from experiments.kept import Kept
from irob.arrays import Array, Params
from irob.networks import CAMNetwork


class Evaluator:
    """A network's parameters and a split, ready to be measured.

    Args:
      network, params: what is measured.
      split: the examples; only those asked for are read.
      batch_size: per device, None for the device's default. Results do not depend on it.
      seed: of the random starts.
      kept: what an earlier, interrupted run has measured already.
      quiet: no progress bars.
    """

    def __init__(
        self,
        network: CAMNetwork,
        params: Params,
        split: Split,
        batch_size: int | None,
        seed: int,
        kept: Kept | None = None,
        quiet: bool = True,
    ):
        self.network, self.split, self.seed = network, split, seed
        self.batch_size = batch_size or parallel.default_batch_size(network.input_shape, len(split.labels))
        self.sized_by_user = batch_size is not None
        self.params = parallel.replicate(params)
        self.kept = kept or Kept()
        self.quiet = quiet or not parallel.is_first_process()

    def expect(self, n: int) -> None:
        """Fits the batch size to the number of images to come, unless it was given."""
        if not self.sized_by_user:
            self.batch_size = parallel.default_batch_size(self.network.input_shape, n)

    def map(self, name: str, check: Callable[..., Any], shared: Any, indices: np.ndarray, *more: np.ndarray) -> dict[str, np.ndarray]:
        """Maps a check over test images; what is kept under the name is not computed again.

        Args:
          name: of this measurement; the same name must mean the same numbers.
          check: pmapped `((params, *shared), images, labels, indices, *more) -> {name: [devices, batch, ...]}`.
          shared: a tuple of arrays, the same for every image.
          indices: `[n]`, all different, in the split.
          more: arrays `[n, ...]` that go with them.

        Returns:
          Arrays `[n, ...]` in the order of `indices`.
        """
        known = self.kept.read(name)
        missing = np.flatnonzero(~np.isin(indices, known.get("indices", ())))
        arguments = (self.params, *parallel.replicate(shared))

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return *self.split.fetch(indices[rows]), indices[rows].astype(np.int32), *(array[rows] for array in more)

        batch = self.batch_size * parallel.num_devices()
        with tqdm.tqdm(
            total=len(indices), initial=len(indices) - len(missing), desc=name, unit="image", disable=self.quiet, leave=False, delay=1
        ) as bar:
            for i in range(0, len(missing), batch):
                rows = missing[i : i + batch]
                arrays = parallel.map_examples(check, arguments, fetch, rows, self.batch_size)
                self.kept.add(name, {"indices": indices[rows], **arrays}, last=i + batch >= len(missing))
                bar.update(len(rows))
        known = self.kept.read(name)
        order = np.argsort(known["indices"])
        rows = order[np.searchsorted(known["indices"], indices, sorter=order)]
        return {key: array[rows] for key, array in known.items() if key != "indices"}


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pmaps a function traced with products in full float32: GPUs and TPUs round the factors by default, which turns signs of gradients."""
    return parallel.pmap(jax.default_matmul_precision("highest")(function))


def prediction(logits: Array) -> Array:
    """The predicted class; -1 where a logit is not finite, which predicts nothing."""
    return jnp.where(jnp.all(jnp.isfinite(logits)), jnp.argmax(logits), -1)
