"""Models: from a config, a workdir or a file of released weights."""

import hashlib
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from flax import nnx

from experiments import data
from experiments.configs import base
from experiments.runtime import storage
from experiments.runtime.checkpoints import Checkpoints, fingerprint
from experiments.runtime.errors import UserError, one_line, refuse, warn
from experiments.runtime.names import find
from experiments.runtime.variables import flat_arrays, in_order_of, read_variables
from irob import paper
from irob.attacks import BALLS
from irob.models import MODELS, create, from_linen, from_nnx
from irob.types import Model, Params


class EvaluatedModel(NamedTuple):
    """A network with its parameters, and how it is attacked unless told otherwise.

    name: of the method, or of the file.
    network, params: the model.
    dataset: a name of `experiments.data`.
    norm, eps, seed: of attacks; eps is the ladder.
    provenance: fields of a result: the network, its checkpoint or weight file, its config.
    """

    name: str
    network: Model
    params: Params
    dataset: str
    norm: str
    eps: tuple[float, ...]
    seed: int
    provenance: dict[str, Any]


def build_network(config: ml_collections.ConfigDict) -> Model:
    """The network of a config: a row of `MODELS`, or what `package.module:make` returns, a `Model` or a linen or nnx module.

    Raises:
      UserError: if it is no network for the data set.
    """
    dataset = data.find_dataset(config.dataset)
    shape, count = dataset.image_shape, len(dataset.classes)
    try:
        made: Any = find(MODELS, config.network, "network")(shape, count)
        if isinstance(made, nn.Module) and not isinstance(made, Model):
            made = from_linen(made, shape, count)
        if isinstance(made, nnx.Module) or (callable(made) and not isinstance(made, Model)):
            made = from_nnx(made, shape, count)  # the latter: a function of nnx.Rngs
    except (ValueError, TypeError, AttributeError) as error:
        hint = "" if config.network in MODELS else "; it must be a function (input_shape, num_classes) that returns a model or a module"
        raise UserError(f"config.network = {config.network!r}: {one_line(error, 500)}{hint}") from error
    what = f"config.network = {config.network!r}"
    refuse(not isinstance(made, Model), f"{what}: it must return an irob.types.Model, or a linen or nnx module")
    return made


def params_from(place: str, like: Params) -> Params:
    """The parameters in a workdir (of its latest checkpoint), in a file of variables, or in a file of released weights.

    Raises:
      UserError: if there are none, or they are of another network.
    """
    if (pathlib.Path(place) / "checkpoints").is_dir():
        with Checkpoints(place, read_only=True) as checkpoints:
            return checkpoints.restore_params("latest", like).state
    if place.endswith(".pkl"):
        return in_order_of(flat_arrays(released_weights(place)[0].params), like, place)
    return read_variables(place, like)


PARTS = {"raw": "params", "averaged": "averaged"}  # of a training state


def from_workdir(workdir: str, step: str = "latest", parameters: str = "raw") -> EvaluatedModel:
    """A checkpoint of a training: "latest", "best" or a step number.

    Only the parameters are read, so it does not matter which optimizer or method trained them. A training that goes on may delete the checkpoint
    while it is read: then the one that is there instead is read. parameters: raw, or averaged, their moving average.
    """
    folder = pathlib.Path(workdir) / "checkpoints"
    for _ in range(20):
        before = {path.name for path in folder.glob("[0-9]*")}
        try:
            return _from_checkpoint(workdir, step, parameters)
        except UserError:
            if {path.name for path in folder.glob("[0-9]*")} == before:
                raise
    raise UserError(f"the checkpoints in {workdir} change faster than they can be read: give --step a number that is kept")


def _from_checkpoint(workdir: str, step: str, parameters: str) -> EvaluatedModel:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        metadata = checkpoints.metadata(step, needs=("config", "versions"))
        config = base.stored_config(metadata["config"], f"the config of the checkpoint in {workdir}")
        network = build_network(config)
        refuse(parameters == "averaged" and not config.ema_decay, f"{workdir} holds no moving average: train with config.ema_decay")
        restored = checkpoints.restore_params(step, network.initial_params(config.seed), PARTS[parameters])
    checkpoint = {"workdir": str(workdir), "step": restored.step, "sha256": metadata["sha256"], "versions": metadata["versions"]}
    provenance = {"network": config.network, "checkpoint": checkpoint, "config": metadata["config"]}
    ladder = _current_ladder(pathlib.Path(workdir), config)
    name = config.method if parameters == "raw" else f"{config.method} ({parameters})"
    provenance |= {} if parameters == "raw" else {"parameters": parameters}
    return EvaluatedModel(name, network, restored.state, config.dataset, config.attack.norm, ladder, config.seed, provenance)


def _current_ladder(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The ladder of config.json, which may have changed since the checkpoint was written."""
    try:
        stored = base.stored_config(storage.read_json(workdir / "config.json"), "config.json")
    except FileNotFoundError:
        return tuple(config.evaluation.eps)
    except (OSError, ValueError, UserError) as error:
        warn(f"{workdir / 'config.json'} cannot be read ({one_line(error, 120)}): the eps ladder is that of the checkpoint")
        return tuple(config.evaluation.eps)
    return tuple((stored if stored.attack.norm == config.attack.norm else config).evaluation.eps)


def from_weights(file: str, dataset: str | None, force: bool = False) -> EvaluatedModel:
    """A file of weights as the paper's authors released them.

    Args:
      file: its path.
      dataset: what it is evaluated on; the file does not name its own.
      force: accept weights that are not finite.

    Raises:
      UserError: if it cannot be read, does not fit the data set, or holds weights that are not finite.
    """
    if dataset is None:
        raise UserError(f"--weights {file} needs --dataset, one of {', '.join(data.DATASETS)}")
    shape, classes = data.find_dataset(dataset).image_shape, data.find_dataset(dataset).classes
    released, digest = released_weights(file)
    refuse(
        (released.channels, released.num_classes) != (shape[2], len(classes)),
        f"--weights {file} is a network for images with {released.channels} channels and {released.num_classes} classes;"
        f" {dataset} has {shape[2]} and {len(classes)}",
    )
    if released.not_finite:
        what = f"--weights {file}: not finite are {', '.join(released.not_finite[:4])}{' ...' if len(released.not_finite) > 4 else ''}"
        refuse(not force, f"{what}; such a network predicts no class (--force evaluates it all the same)")
        warn(what)
    known = dataset in data.DATASETS
    config = base.load_config(f"{dataset}:normal") if known else base.make("normal", {"dataset": dataset})
    weights = {"file": pathlib.Path(file).name, "sha256": digest, "not_finite": list(released.not_finite)}
    provenance = {"network": released.network, "weights": weights, "config": None}
    network, ladder = create(released.network, shape, released.num_classes), tuple(config.evaluation.eps)
    return EvaluatedModel(pathlib.Path(file).stem, network, released.params, dataset, config.attack.norm, ladder, config.seed, provenance)


def from_model(name: str, variables: str | None, dataset: str | None) -> EvaluatedModel:
    """A model of one's own, trained by anybody.

    Args:
      name: package.module:make, as `config.network` takes it, or a row of `MODELS`.
      variables: file of its variables; None for those that its `init` gives.
      dataset: what it is evaluated on.

    Raises:
      UserError: if there is no such model, or the file does not fit it.
    """
    if dataset is None:
        raise UserError(f"--model {name} needs --dataset, one of {', '.join(data.DATASETS)}, or data of your own")
    config = base.load_config(f"{dataset}:normal") if dataset in data.DATASETS else base.make("normal", {"dataset": dataset})
    config.network = name
    network = build_network(config)
    params = network.initial_params(config.seed)
    params = params if variables is None else params_from(variables, params)
    weights = {"file": variables or f"initial parameters of {name}", "sha256": fingerprint(params), "not_finite": []}
    provenance = {"network": name, "weights": weights, "config": None}
    short = name.rpartition(":")[2] if variables is None else pathlib.Path(variables).stem
    return EvaluatedModel(short, network, params, dataset, config.attack.norm, tuple(config.evaluation.eps), config.seed, provenance)


def network_digest(network: Model, params: Params) -> str:
    """A digest of what a network computes, apart from its parameters: another network with the same ones is another."""
    closed = jax.make_jaxpr(lambda params, x: network.explain(params, x))(params, jnp.zeros(network.input_shape))
    hasher = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for constant in closed.consts:
        hasher.update(np.asarray(constant).tobytes())
    return hasher.hexdigest()


def attacked_in(model: EvaluatedModel, norm: str | None, eps_given: bool) -> EvaluatedModel:
    """A model whose perturbations are measured in another norm.

    Raises:
      UserError: for an unknown norm, and for the radii of one norm in another.
    """
    if norm is None or norm == model.norm:
        return model
    find(BALLS, norm, "norm")
    ladder = ", ".join(f"{eps:g}" for eps in model.eps)
    refuse(not eps_given, f"--norm={norm}: the radii of this model, {ladder}, are lengths in {model.norm}: give --eps")
    return model._replace(norm=norm)


def released_weights(file: str) -> tuple[paper.ReleasedWeights, str]:
    """The content of a file of weights as the paper's authors released them, and its SHA-256.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        content = pathlib.Path(file).read_bytes()
        return paper.loads(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise UserError(f"--weights {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"--weights {file}: {error}") from error


def from_path(path: str, dataset: str) -> EvaluatedModel:
    """A workdir or a file of weights, whichever it is.

    Raises:
      UserError: if it is neither, or cannot be read.
    """
    refuse(not pathlib.Path(path).exists(), f"there is no workdir and no file of weights {path}")
    return from_workdir(path) if pathlib.Path(path).is_dir() else from_weights(path, dataset)


def eps_ladder(model: EvaluatedModel, eps: tuple[float, ...] | None) -> tuple[float, ...]:
    """The given radii, or those of the model, ascending, 0 among them.

    Raises:
      UserError: if one is not a radius of the model's norm.
    """
    ladder = tuple(sorted({0.0, *(model.eps if eps is None else eps)}))
    for radius in ladder:
        reason = base.eps_reason(radius, model.norm)
        refuse(reason is not None, f"--eps: {radius} is not a valid eps: {reason}")
    return ladder
