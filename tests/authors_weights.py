"""The authors' released weights and golden numbers, where they lie beside the project; tests that need them are skipped elsewhere."""

import json
import pickle

import numpy as np
import pytest
from conftest import SHARED

REFERENCE = SHARED / "reference"
NETWORKS = {
    "mnist_smallgap_int_100": ("small", (28, 28, 1)),
    "mnist_smallgap_normal_100": ("small", (28, 28, 1)),
    "mnist_pool_int_100": ("pool", (28, 28, 1)),
    "cifar_smallgap_int_200": ("small", (32, 32, 3)),
    "cifar_wresnet_int_200": ("wresnet", (32, 32, 3)),
}
needed = pytest.mark.skipif(not (REFERENCE / "networks").is_dir(), reason="the authors' released weights are not here")


def parameters(name):
    """List of (kernel, bias), a placeholder of NaN for pooling, last the head: `params` as ours. The files are known and trusted."""
    with (REFERENCE / "networks" / f"{name}.pkl").open("rb") as file:
        *layers, (head,) = pickle.load(file)
    convs = [layer for layer in layers if not np.isnan(np.asarray(layer[0])).all()]
    params = {f"conv_{i}": {"kernel": np.asarray(kernel), "bias": np.asarray(bias)} for i, (kernel, bias) in enumerate(convs)}
    return params | {"head": {"kernel": np.asarray(head)[0, 0]}}


def golden(name):
    """Arrays that the authors' graph computes on a network."""
    with np.load(REFERENCE / "golden" / f"{name}.npz") as stored:
        return dict(stored)


def objectives():
    """Values and gradients of the authors' training objectives."""
    values = json.loads((REFERENCE / "golden" / "objectives_mnist_smallgap_int_100.json").read_text())["values"]
    return values, golden("objectives_mnist_smallgap_int_100")
