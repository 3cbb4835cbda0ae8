"""The authors' released weights and golden numbers, where they lie beside the project; tests that need them are skipped elsewhere."""

import gzip
import json

import numpy as np
import pytest
from conftest import ROOT, SHARED

import irob
from experiments.data.splits import Images
from experiments.runtime.models import EvaluatedModel
from irob import paper

REFERENCE = SHARED / "reference"
NETWORKS = {
    "mnist_smallgap_int_100": ("small", (28, 28, 1)),
    "mnist_smallgap_normal_100": ("small", (28, 28, 1)),
    "mnist_pool_int_100": ("pool", (28, 28, 1)),
    "cifar_smallgap_int_200": ("small", (32, 32, 3)),
    "cifar_wresnet_int_200": ("wresnet", (32, 32, 3)),
}
needed = pytest.mark.skipif(not (REFERENCE / "networks").is_dir(), reason="the authors' released weights are not here")


def file(name):
    """A released file."""
    return REFERENCE / "networks" / f"{name}.pkl"


def parameters(name):
    """Its parameters as ours."""
    return paper.loads(file(name).read_bytes()).params


def model(name):
    """It as a model of MNIST, attacked with seed 99."""
    architecture, shape = NETWORKS[name]
    return EvaluatedModel(name, irob.create(architecture, shape, 10), parameters(name), "mnist", "linf", (0.0, 0.1), 99, {})


def mnist_test_images():
    """The 10,000 MNIST test images from the original files."""
    directory = SHARED / "data" / "mnist"
    read = lambda name, skip: np.frombuffer(gzip.decompress((directory / name).read_bytes()), np.uint8)[skip:]
    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return Images(images, read("t10k-labels-idx1-ubyte.gz", 8).astype(np.int32), {"name": "mnist", "from": "original files"})


def recorded(name, measure, metric, protocol="paper", **fields):
    """`{eps: value}` of the records of `experiments/results/released.json`, from which the tables of the documents are made."""
    networks = json.loads((ROOT / "experiments" / "results" / "released.json").read_text())["networks"]
    found = [
        record for network in networks if (network["network"], network["protocol"]) == (name, protocol) for record in network["records"]
    ]
    wanted = {"measure": measure, "metric": metric, **fields}
    return dict(sorted((record["eps"], record["value"]) for record in found if wanted.items() <= record.items()))


def golden(name):
    """Arrays that the authors' graph computes on a network."""
    with np.load(REFERENCE / "golden" / f"{name}.npz") as stored:
        return dict(stored)


def objectives():
    """Values and gradients of the authors' training objectives."""
    values = json.loads((REFERENCE / "golden" / "objectives_mnist_smallgap_int_100.json").read_text())["values"]
    return values, golden("objectives_mnist_smallgap_int_100")
