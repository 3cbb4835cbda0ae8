"""Files of variables: what libraries of the field write is read, and what does not fit is named."""

import pathlib

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from experiments.runtime.checkpoints import checksums, fingerprint
from experiments.runtime.errors import UserError
from experiments.runtime.variables import flat_arrays, read_variables, write_variables

RANDOM = np.random.default_rng(0)
TREE = {
    "params": {"conv": {"kernel": RANDOM.normal(size=(3, 3, 1, 2)).astype(np.float32)}, "head": {"bias": np.arange(2, dtype=np.float32)}},
    "batch_stats": {"norm": {"mean": np.ones(2, np.float32)}},
}
LIKE = jax.tree.map(np.zeros_like, TREE)
FLAT = flax.traverse_util.flatten_dict(TREE, sep="/")


def written(path, kind):
    file = path / f"weights{kind}"
    if kind == ".npz":
        np.savez(file, **FLAT)
    elif kind == ".msgpack":
        file.write_bytes(flax.serialization.to_bytes(TREE))
    elif kind == ".safetensors":
        safetensors.numpy.save_file({key.replace("/", "."): value for key, value in FLAT.items()}, file)
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(file, TREE)
    return str(file)


@pytest.mark.parametrize("kind", [".npz", ".msgpack", ".safetensors", ""])
def test_each_kind_of_file_comes_back_bit_for_bit(tmp_path, kind):
    assert checksums(read_variables(written(tmp_path, kind), LIKE)) == checksums(TREE)


def test_parameters_alone_need_no_level_above(tmp_path):
    np.savez(tmp_path / "bare.npz", **{key.removeprefix("params/"): value.astype(np.float64) for key, value in FLAT.items()})
    found = read_variables(str(tmp_path / "bare.npz"), LIKE)
    assert checksums(found) == checksums(TREE)
    dotted = {key.removeprefix("params/").replace("/", "."): value for key, value in FLAT.items()}
    safetensors.numpy.save_file(dotted, tmp_path / "bare.safetensors")
    assert checksums(read_variables(str(tmp_path / "bare.safetensors"), LIKE)) == checksums(TREE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params/head/bias": None}, r"has no array \['params/head/bias'\] of this network; it has "),
        ({"params/tail/bias": np.ones(1)}, r"has an array \['params/tail/bias'\] that this network does not have"),
        ({"params/head/bias": np.ones(3)}, r"params/head/bias has shape \(3,\), in this network it has \(2,\)"),
        ({"params/head/bias": np.array([np.nan, 1])}, "params/head/bias is not finite"),
        ({"params/head/bias": np.ones(2, jax.numpy.bfloat16)}, "params/head/bias is of the type .*: store float32"),
    ],
)
def test_arrays_of_another_network_are_named(tmp_path, change, message):
    np.savez(tmp_path / "other.npz", **{key: value for key, value in {**FLAT, **change}.items() if value is not None})
    with pytest.raises(UserError, match=message):
        read_variables(str(tmp_path / "other.npz"), LIKE)


@pytest.mark.parametrize("kind", [".npz", ".msgpack", ".safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path, kind):
    file = pathlib.Path(written(tmp_path, kind))
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot be read as variables|has no array"):
            read_variables(str(file), LIKE)


def test_what_is_no_file_of_variables(tmp_path):
    (tmp_path / "weights.txt").write_text("x")
    with pytest.raises(
        UserError, match=r"is no file of variables: it must be one of \.npz, \.safetensors, \.msgpack, \.pt, \.pth, or a folder of orbax"
    ):
        read_variables(str(tmp_path / "weights.txt"), LIKE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be read as variables"):
        read_variables(str(tmp_path / "empty"), LIKE)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_what_is_written_has_a_checksum(tmp_path, ending):
    """An array that another program has altered since is refused; a file without a checksum is read as it is."""
    params = {"conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "head": np.ones(2, np.float32)}
    file = str(tmp_path / f"weights{ending}")
    digest = write_variables(file, params)
    assert digest == fingerprint(flat_arrays(params)) == fingerprint(flat_arrays(read_variables(file, params)))
    altered = {**flat_arrays(params), "head": np.full(2, 2.0, np.float32)}
    if ending == ".npz":
        np.savez(file, sha256=digest, **altered)
    else:
        safetensors.numpy.save_file(altered, file, {"sha256": digest})
    with pytest.raises(UserError, match="is not what was written: its checksum differs"):
        read_variables(file, params)
    if ending == ".npz":
        np.savez(file, **altered)
    else:
        safetensors.numpy.save_file(altered, file)
    assert read_variables(file, params)["head"][0] == 2.0
    with pytest.raises(UserError, match=r"weights are written as \.npz or \.safetensors"):
        write_variables(str(tmp_path / "weights.pkl"), params)
