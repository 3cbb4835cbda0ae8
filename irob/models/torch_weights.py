"""Weights of PyTorch for the networks of `resnets`: a `state_dict` onto our variables.

Names are those of the common implementations (PreActResNet: `conv1`, `layer1.0.bn1`, `layer1.0.shortcut.0`, `bn`, `linear`; WideResNet: `conv1`,
`block1.layer.0.conv1`, `...convShortcut`, `bn1`, `fc`), with or without a leading `module.` or `model.`; statistics that only PyTorch keeps
(`num_batches_tracked`) and the unused `sub_block1` of the TRADES code are left out. Kernels become `[kh, kw, in, out]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from irob.types import Params

LEAVES = {
    "weight": ("params", ""),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
RENAMED = (
    (r"^(module|model)\.", ""),
    (r"\.layer\.(\d+)\.", r"_\1."),
    (r"^(layer\d+)\.(\d+)\.", r"\1_\2."),
    (r"\.(shortcut\.0|convShortcut)\.", ".shortcut."),
    (r"^(linear|fc)\.", "head."),
    (r"^(bn|bn1)\.", "norm."),
)


def is_state_dict(names: Any) -> bool:
    """Whether names of arrays are those of a PyTorch state_dict."""
    return any(str(name).endswith((".running_mean", ".weight")) for name in names)


def path_of(name: str, ndim: int) -> str | None:
    """The path of an array in our variables, by its name there and its number of axes; None for what is left out."""
    if name.endswith("num_batches_tracked") or "sub_block1" in name:
        return None
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    module, _, leaf = name.rpartition(".")
    if leaf not in LEAVES:
        raise ValueError(f"the state_dict has an array {name!r}, which is no weight, bias or running statistic")
    collection, own = LEAVES[leaf]
    return "/".join([collection, *module.split("."), own or ("scale" if ndim == 1 else "kernel")])


def transposed(array: np.ndarray) -> np.ndarray:
    """A kernel `[O, I, kh, kw]` as `[kh, kw, I, O]`, a matrix `[O, I]` as `[I, O]`; the rest as it is."""
    return np.transpose(array, {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def from_state_dict(state: Mapping[str, Any], like: Params) -> Params:
    """The variables of a network of `resnets`, of a PyTorch state_dict of the same architecture.

    Args:
      state: name -> array (NumPy, or anything that `np.asarray` takes: `tensor.numpy()`).
      like: variables of the network, e.g. `model.initial_params()`.

    Returns:
      Variables like these; the logits are PyTorch's up to rounding.

    Raises:
      ValueError: names the first array that is missing, has no place, or has another shape.

    >>> from irob.models.linen_modules import from_linen
    >>> from irob.models.resnets import PreActResNet
    >>> model = from_linen(PreActResNet(3, width=16, blocks=(1, 0, 0, 0), final_norm=False), (8, 8, 3), 3)
    >>> sorted(path_of(name, 4) for name in ("module.conv1.weight", "layer1.0.conv2.weight"))
    ['params/conv1/kernel', 'params/layer1_0/conv2/kernel']
    """
    found = {}
    for name, value in state.items():
        array = np.asarray(value)
        own = path_of(name, array.ndim)
        if own is not None:
            found[own] = (name, transposed(array))
    leaves, values = jax.tree_util.tree_leaves_with_path(like), []
    for path, leaf in leaves:
        key = jax.tree_util.keystr(path, simple=True, separator="/")
        if key not in found:
            raise ValueError(f"the state_dict has no array for {key} of this network")
        name, array = found.pop(key)
        if array.shape != leaf.shape:
            raise ValueError(f"{name} of the state_dict is {array.shape} in our order, {key} of this network is {leaf.shape}")
        values.append(array.astype(leaf.dtype))
    if found:
        raise ValueError(f"the state_dict has an array {next(iter(found.values()))[0]} that this network does not have")
    return jax.tree.unflatten(jax.tree.structure(like), values)
