"""A model under evaluation: compiled checks mapped over chosen test images, each image computed and counted once."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.data import Split
from experiments.evaluation.cache import ResultCache
from experiments.evaluation.examples import Images
from experiments.runtime import devices
from experiments.runtime.models import EvaluatedModel
from experiments.runtime.plan import current_plan
from experiments.runtime.progress import progress
from irob.types import Model

Check = Callable[..., Any]


class Evaluation:
    """A model and its test split, ready to be measured.

    Args:
      model: what is measured.
      split: the test images; only those asked for are read.
      eps: the ladder, ascending; None for that of the model.
      batch_size: per device, None for the plan's. Results do not depend on it.
      cache: results of an earlier, interrupted run.
      quiet: no progress bars.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        split: Split,
        eps: tuple[float, ...] | None = None,
        batch_size: int | None = None,
        *,
        cache: ResultCache | None = None,
        quiet: bool = True,
    ):
        self.model, self.split = model, split
        self.network: Model = model.network
        self.norm, self.seed, self.dataset = model.norm, model.seed, model.dataset
        self.eps = tuple(sorted(model.eps if eps is None else eps))
        self.params = devices.replicate(model.params)
        self.cache = cache or ResultCache()
        self.quiet = quiet or not devices.is_first_process()
        self.given_batch_size = self.fixed_batch_size = None if batch_size is None else min(batch_size, max(len(split.labels), 1))

    def indices(self, images: Images) -> np.ndarray:
        """The chosen images, as indices into the split."""
        return images.indices(len(self.split.labels))

    def target_offsets(self, images: Images) -> np.ndarray | None:
        """`[n]`: the target of an image is label + offset mod C; None leaves the class to the attack."""
        return images.target_offsets(len(self.split.labels), self.network.num_classes)

    def batch_size(self, n: int) -> int:
        """Images at a time on a device, for n images."""
        planned = current_plan().evaluation_batch(self.network.input_shape, n, devices.num_devices())
        return self.fixed_batch_size or planned

    def sized_for(self, n: int) -> "Evaluation":
        """This evaluation with the batch of n images for any number of them.

        Attacks run on the images that survive, another number of them at each step; each batch size would be compiled anew.
        """
        sized = copy.copy(self)
        sized.fixed_batch_size = self.given_batch_size
        sized.fixed_batch_size = sized.batch_size(n)
        return sized

    def map_examples(
        self,
        label: str,
        make: Callable[[Model, Any], Check],
        spec: Any,
        shared: tuple[Any, ...],
        indices: np.ndarray,
        *more: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Maps a compiled check over test images. Results that are in the cache are not computed again.

        Args:
          label: shown in the progress bar, and in the name of a file of the cache.
          make: `(network, spec) -> check`, the check pmapped: `((params, *shared), images, labels, indices, *more) -> {name: [devices, batch, ...]}`.
          spec: of plain values, everything that the check is compiled from. Results are cached by make, spec, shared and more.
          shared: arrays, the same for every image.
          indices: `[n]`, all different, in the split.
          more: arrays `[n, ...]`, one row per image.

        Returns:
          Arrays `[n, ...]` in the order of `indices`.
        """
        name = f"{label} {key_of(make, spec, (shared, more))}"
        known = self.cache.read(name)
        missing = np.flatnonzero(~np.isin(indices, known.get("indices", ())))
        arguments = (self.params, *devices.replicate(shared))

        def fetch(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            return *self.split.fetch(indices[rows]), indices[rows].astype(np.int32), *(array[rows] for array in more)

        per_device = self.batch_size(len(indices))
        batch = per_device * devices.num_devices()
        with progress(len(indices), "image", label, len(indices) - len(missing), show=not self.quiet, leave=False) as bar:
            for i in range(0, len(missing), batch):
                rows = missing[i : i + batch]
                arrays = devices.map_batches(make(self.network, spec), arguments, fetch, rows, per_device)
                self.cache.add(name, {"indices": indices[rows], **arrays}, last=i + batch >= len(missing))
                bar.update(len(rows))
        known = self.cache.read(name)
        order = np.argsort(known["indices"])
        rows = order[np.searchsorted(known["indices"], indices, sorter=order)]
        return {key: array[rows] for key, array in known.items() if key != "indices"}

    def random_key(self, *parts: int) -> np.ndarray:
        """Data of the key that the keys of all images are derived from: (seed, *parts)."""
        key = jax.random.key(self.seed)
        for part in parts:
            key = jax.random.fold_in(key, part)
        return np.asarray(jax.random.key_data(key))


def key_of(make: Callable[..., Any], spec: Any, arguments: Any) -> str:
    """A digest of everything that decides the results of a check."""
    hasher = hashlib.sha256(f"{make.__module__}.{make.__qualname__} {spec!r}".encode())
    for leaf in jax.tree.leaves(arguments):
        array = np.asarray(leaf, order="C")
        hasher.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return hasher.hexdigest()[:16]
