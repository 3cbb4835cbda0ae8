"""What is measured: a network with its parameters and what is known of them, from a workdir or from a file of released weights."""

import hashlib
import importlib
import pathlib
from typing import Any, NamedTuple

import ml_collections

import irob
from experiments import cli, data, training
from experiments.checkpoints import Checkpoints
from experiments.cli import UserError
from experiments.configs import common
from irob import authors
from irob.arrays import Params
from irob.networks import CAMNetwork


class Subject(NamedTuple):
    """name: of the method or the file. norm, eps, seed: how it is to be attacked unless told otherwise. about: fields of the result."""

    name: str
    network: CAMNetwork
    params: Params
    dataset: str
    norm: str
    eps: tuple[float, ...]
    seed: int
    about: dict[str, Any]

    def ladder(self, eps: tuple[float, ...] | None) -> tuple[float, ...]:
        """The given radii or its own, ascending, 0 among them."""
        ladder = tuple(sorted({0.0, *(self.eps if eps is None else eps)}))
        for radius in ladder:
            if not common.is_radius(radius, self.norm):
                raise UserError(
                    f"--eps: {radius} is no radius; an l-inf eps is in [0, 1], the range of a pixel, any other is finite and not negative"
                )
        return ladder


def from_workdir(workdir: str, step: str = "latest") -> Subject:
    """A checkpoint of a training: "latest", "best" or a step number."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        metadata = checkpoints.metadata(step)
        config = ml_collections.ConfigDict(common.completed(metadata["config"]))
        common.validate(config)
        network, _ = training.build(config)
        restored = checkpoints.restore(step, training.initial_state(config, network))
    checkpoint = {"workdir": str(workdir), "step": restored.step, "sha256": metadata["sha256"], "versions": metadata["versions"]}
    about = {"network": config.network, "checkpoint": checkpoint, "config": metadata["config"]}
    return Subject(
        config.method, network, restored.state.params, config.dataset, config.attack.norm, tuple(config.evaluation.eps), config.seed, about
    )


def from_weights(file: str, dataset: str | None, force: bool = False) -> Subject:
    """A file of weights as the paper's authors released them.

    Args:
      dataset: what it is to be measured on; its own is not in the file.
      force: even if weights are not finite.

    Raises:
      UserError: if it cannot be read, does not fit the data set, or holds weights that are not finite.
    """
    if dataset is None:
        raise UserError(f"--weights {file} needs --dataset, one of {', '.join(data.DATASETS)}")
    shape, classes = data.find(dataset).image_shape, data.find(dataset).classes
    try:
        content = pathlib.Path(file).read_bytes()
        released = authors.loads(content)
    except OSError as error:
        raise UserError(f"--weights {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"--weights {file}: {error}") from error
    if (released.channels, released.num_classes) != (shape[2], len(classes)):
        raise UserError(
            f"--weights {file} is a network for images of {released.channels} colours and {released.num_classes} classes;"
            f" {dataset} has {shape[2]} and {len(classes)}"
        )
    if released.not_finite:
        what = f"--weights {file}: not finite are {', '.join(released.not_finite[:4])}{' ...' if len(released.not_finite) > 4 else ''}"
        if not force:
            raise UserError(f"{what}; such a network predicts nothing (--force measures it all the same)")
        cli.warn(what)
    config = importlib.import_module(f"experiments.configs.{dataset}").get_config("normal")
    network = irob.create(released.network, shape, released.num_classes)
    about = {
        "network": released.network,
        "weights": {
            "file": pathlib.Path(file).name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "not_finite": list(released.not_finite),
        },
        "config": None,
    }
    name = pathlib.Path(file).stem
    return Subject(name, network, released.params, dataset, config.attack.norm, tuple(config.evaluation.eps), config.seed, about)


def from_path(path: str, dataset: str) -> Subject:
    """A workdir or a file of weights, whichever it is."""
    return from_workdir(path) if pathlib.Path(path).is_dir() else from_weights(path, dataset)
