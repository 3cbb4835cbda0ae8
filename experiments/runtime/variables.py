"""Files of variables: the arrays of a network by name, written by anybody.

.npz           arrays by path, "params/conv_0/kernel" (`np.savez(file, **flax.traverse_util.flatten_dict(variables, sep="/"))`)
.safetensors   likewise, also with dots
.msgpack       `flax.serialization.to_bytes(variables)`
a folder       an orbax checkpoint of the variables (`StandardCheckpointer`)
    .pt, .pth      a state_dict of PyTorch, where that is installed (`torch.save(model.state_dict(), file)`); also as .npz or .safetensors

State_dicts are read for the networks of `irob.models.resnets`.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.runtime import storage
from experiments.runtime.checkpoints import fingerprint
from experiments.runtime.errors import UserError, one_line, refuse
from irob.models.torch_weights import from_state_dict, is_state_dict


def read_variables(file: str, like: Any) -> Any:
    """The variables in a file, as a tree like another one.

    Args:
      file: its path.
      like: a tree of arrays with the names, shapes and types that are expected. A file of `{"params": ...}` alone, or without that level, will do
        where nothing else is missing.

    Raises:
      UserError: if it cannot be read, or its arrays are others; it names the first.
    """
    path = pathlib.Path(file)
    refuse(not path.exists(), f"there is no file of variables {file}")
    reader = _orbax if path.is_dir() else READERS.get(path.suffix)
    refuse(reader is None, f"{file} is no file of variables: it must be one of {', '.join(READERS)}, or a folder of orbax")
    try:
        found = reader(path, like)  # type: ignore[misc]
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds
        raise UserError(f"{file} cannot be read as variables: {one_line(error, 160)}") from error
    if not is_state_dict(found):
        return in_order_of(found, like, file)
    try:
        return in_order_of(flat_arrays(from_state_dict(found, like)), like, file)
    except ValueError as error:
        raise UserError(f"{file}, a state_dict of PyTorch: {error}") from error


def write_variables(file: str, variables: Any) -> str:
    """Writes variables as .npz or .safetensors, by path, with the SHA-256 of all of them, which `read_variables` compares.

    Returns:
      The SHA-256 (`checkpoints.fingerprint` of the arrays by path).

    Raises:
      UserError: for a name that ends otherwise, types that NumPy does not know, or a place that cannot be written.
    """
    path, arrays = pathlib.Path(file), flat_arrays(variables)
    unknown = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    refuse(bool(unknown), f"{file}: {unknown[:1]} is of a type that NumPy does not know: convert it to float32")
    digest = fingerprint(arrays)
    refuse(path.suffix not in (".npz", ".safetensors"), f"{file}: weights are written as .npz or .safetensors")
    try:
        if path.suffix == ".npz":
            storage.save_arrays(path, {**arrays, CHECKSUM: np.array(digest)})
        else:
            from safetensors.numpy import save

            content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {CHECKSUM: digest})
            storage.save_atomically(path, lambda opened: opened.write(content))
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error
    return digest


CHECKSUM = "sha256"  # member of the .npz, entry of the metadata of .safetensors


def _refuse_altered(file: pathlib.Path, arrays: Mapping[str, np.ndarray], written: str | None) -> None:
    refuse(written not in (None, fingerprint(dict(arrays))), f"{file} is not what was written: its checksum differs; get it again")


def in_order_of(found: Mapping[str, Any], like: Any, file: str) -> Any:
    """Arrays by path as a tree like another one, in its types.

    Raises:
      UserError: if one is missing, has no place, has another shape or is not finite.
    """
    wanted = {by_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    names = {name: next((key for key in (name, name.removeprefix("params/")) if key in found), None) for name in wanted}
    missing = [name for name, key in names.items() if key is None]
    refuse(bool(missing), f"{file} has no array {missing[:1]} of this network; it has {', '.join(list(found)[:4])} ...")
    extra = sorted(set(found) - set(names.values()))
    refuse(bool(extra), f"{file} has an array {extra[:1]} that this network does not have; it has {', '.join(list(wanted)[:4])} ...")
    values = []
    for name, leaf in wanted.items():
        array = np.asarray(found[names[name]])  # type: ignore[index]
        refuse(array.shape != leaf.shape, f"{file}: {name} has shape {array.shape}, in this network it has {leaf.shape}")
        refuse(
            array.dtype.kind not in "fiub", f"{file}: {name} is of the type {array.dtype}, not of numbers that NumPy knows: store float32"
        )
        refuse(not np.isfinite(array).all(), f"{file}: {name} is not finite")
        values.append(array.astype(leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(like), values)


def by_path(path: tuple[Any, ...]) -> str:
    """The path of a leaf with slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flat_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by path."""
    return {by_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _npz(path: pathlib.Path, like: Any) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    _refuse_altered(path, arrays, str(written) if (written := arrays.pop(CHECKSUM, None)) is not None else None)
    return arrays


def _safetensors(path: pathlib.Path, like: Any) -> dict[str, np.ndarray]:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, "np") as file:
        written = (file.metadata() or {}).get(CHECKSUM)
    arrays = load_file(path)
    _refuse_altered(path, arrays, written)
    wanted = flat_arrays(like)
    with_dots = {name.replace("/", "."): name for name in [*wanted, *(name.removeprefix("params/") for name in wanted)]}
    return {with_dots.get(name, name): array for name, array in arrays.items()}


def _msgpack(path: pathlib.Path, like: Any) -> dict[str, np.ndarray]:
    from flax.serialization import msgpack_restore

    return flat_arrays(msgpack_restore(path.read_bytes()))


def _torch(path: pathlib.Path, like: Any) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(f"{path} needs PyTorch to be read: install it, or store the state_dict by safetensors.torch.save_file") from error
    content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    return {name: tensor.numpy() for name, tensor in content.items()}


def _orbax(path: pathlib.Path, like: Any) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return flat_arrays(checkpointer.restore(path.absolute()))


READERS: dict[str, Callable[[pathlib.Path, Any], dict[str, np.ndarray]]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".msgpack": _msgpack,
    ".pt": _torch,
    ".pth": _torch,
}
