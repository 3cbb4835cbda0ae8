"""A finished training in a notebook: its network, parameters, test images, results and log.

from experiments import runs
run = runs.open("runs/digits_int")
x, labels = run.batch(8)                    # the first test images, floats in [0, 1]
maps, logits = jax.vmap(run.model)(x)       # run.model.network, run.model.params
pandas.DataFrame(run.records())             # every number that was measured in that folder
run.save("digits_int.safetensors")          # the parameters, with their checksum
"""

import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging

from experiments import data
from experiments.configs import base
from experiments.reports import results
from experiments.runtime.errors import refuse
from experiments.runtime.models import from_workdir
from experiments.runtime.variables import write_variables
from irob.models import BoundModel, bind


class Run(NamedTuple):
    """A training.

    workdir, step: which checkpoint.
    model: the network with its parameters, a function of one image `[H, W, c]`.
    config: of the training.
    classes: names.
    data_dir: where tfds data sets lie.
    """

    workdir: pathlib.Path
    step: int
    model: BoundModel
    config: ml_collections.ConfigDict
    classes: tuple[str, ...]
    data_dir: str | None = None

    def save(self, file: str) -> str:
        """Writes the parameters as .npz or .safetensors with their SHA-256, which is returned, for `evaluate --model NETWORK --variables FILE`."""
        return write_variables(file, self.model.params)

    def split(self, name: str = "test") -> data.Split:
        """The images of "train", "validation" or "test"."""
        return data.load_split(self.config.dataset, name, self.data_dir)

    def batch(self, n: int, split: str = "test", first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """N images of a split as floats in [0, 1], `[n, H, W, c]`, and their labels `[n]`.

        Raises:
          UserError: if the split has fewer.
        """
        found = self.split(split)
        count = len(found.labels)
        refuse(not 0 <= first < first + n <= count, f"the {split} split has {count} images, not {first} to {first + n}")
        images, labels = found.fetch(np.arange(first, first + n))
        return np.asarray(data.to_unit(images)), labels

    def records(self) -> list[dict[str, Any]]:
        """Every record of the result files in the workdir, flat, with its file, method, protocol and seed: what `pandas.DataFrame` takes."""
        found = []
        for file in self.result_files():
            result = results.read_result(file)
            shared = {"file": file.name, "method": result.method, "protocol": result.protocol, "seed": result.seed}
            found += [shared | record.as_dict() for record in result.records]
        return found

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        """The arrays per example beside a result file, by measure/key.

        Raises:
          UserError: if there is no such file, or its arrays are not those that were written with it.
        """
        path = self.workdir / file
        return results.read_result_arrays(path, results.read_result(path))

    def result_files(self) -> list[pathlib.Path]:
        """The result files in the workdir."""
        own = {"config.json", "results.json"}
        return sorted(file for file in self.workdir.glob("*.json") if file.name not in own)

    def log(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, one dictionary each."""
        return [json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]


def open(workdir: str, step: str = "latest", parameters: str = "raw", data_dir: str | None = None) -> Run:
    """A training by its workdir.

    Args:
      workdir: of `experiments.train`.
      step: latest, best (robust validation accuracy) or a number.
      parameters: raw, or averaged, their moving average.
      data_dir: where tfds data sets lie; None for tfds's default.

    Raises:
      UserError: if there is no such checkpoint.
    """
    said = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # orbax warns that it only reads
    try:
        found = from_workdir(workdir, step, parameters)
    finally:
        logging.set_verbosity(said)
    config = base.config_dict(base.with_defaults(found.provenance["config"]))
    model = bind(found.network, found.params)
    classes = data.find_dataset(found.dataset).classes
    return Run(pathlib.Path(workdir), found.provenance["checkpoint"]["step"], model, config, classes, data_dir)
