import os
import pickle

import numpy as np
import pytest
import released_weights

import irob
from irob import paper

SHAPES = {"small": (28, 28, 1), "pool": (28, 28, 1), "wresnet": (32, 32, 3)}


def initial(name, num_classes=10):
    network = irob.create(name, SHAPES[name], num_classes)
    return network, network.initial_params()


def content(name, num_classes=10):
    return pickle.loads(paper.dumps(*initial(name, num_classes)))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("num_classes", [9, 10])
def test_what_is_written_is_read_back(name, num_classes):
    network, params = initial(name, num_classes)
    released = paper.loads(paper.dumps(network, params))
    assert (released.network, released.channels, released.num_classes, released.not_finite) == (name, SHAPES[name][2], num_classes, ())
    assert released.params.keys() == params.keys()
    for layer, parts in params.items():
        for part, array in parts.items():
            np.testing.assert_array_equal(released.params[layer][part], array)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_any_pickle_of_arrays_is_read(protocol):
    assert paper.loads(pickle.dumps(content("small"), protocol)).network == "small"


@released_weights.needed
@pytest.mark.parametrize("name", released_weights.NETWORKS)
def test_the_released_files(name):
    data = (released_weights.REFERENCE / "networks" / f"{name}.pkl").read_bytes()
    released = paper.loads(data)
    architecture, shape = released_weights.NETWORKS[name]
    assert (released.network, released.channels, released.num_classes) == (architecture, shape[2], 10)
    again = pickle.loads(paper.dumps(irob.create(architecture, shape, 10), released.params))
    for ours, theirs in zip(again, pickle.loads(data), strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype


def test_weights_that_are_not_finite_are_named():
    layers = content("pool")
    layers[2][0][0, 0, 0, 0] = np.nan
    layers[-1][0][...] = np.inf
    assert paper.loads(pickle.dumps(layers)).not_finite == ("conv_1/kernel", "head/kernel")


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "system"), (eval, "builtins.eval"), (getattr, "builtins.getattr"), (np.load, "numpy.load")]
)
def test_a_malicious_file_is_refused_by_name_and_not_run(function, named, tmp_path):
    witness = tmp_path / "ran"
    for hidden in (Evil(function, f"touch {witness}"), [(Evil(function, f"touch {witness}"), np.zeros(3))]):
        with pytest.raises(ValueError, match=rf"it asks for \S*{named}, and weights are arrays alone"):
            paper.loads(pickle.dumps(hidden))
    assert not witness.exists()


class Stated(Evil):
    """Something made, then given a state."""

    def __init__(self, state, function, *arguments):
        super().__init__(function, *arguments)
        self.call = (function, arguments, state)


REBUILD, SCALAR = np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]
OBJECTS_AS_BYTES = Stated(
    (3, "|", None, None, None, -1, -1, 0), np.dtype, "O8", False, True
)  # its elements would be pointers of the file's choice


@pytest.mark.parametrize(
    "hostile",
    [
        Evil(np.ndarray, (10**14,)),  # would fill the memory
        Evil(REBUILD, np.ndarray, (10**14,), b"b"),
        Evil(SCALAR, OBJECTS_AS_BYTES, b"AAAAAAAA"),
        Stated((1, (1,), OBJECTS_AS_BYTES, False, b"AAAAAAAA"), REBUILD, np.ndarray, (0,), b"b"),
        Stated((3, "<", None, ("a",), {"a": 1}, -1, -1, 0), np.dtype, "f4", False, True),
        Stated((1, (10**9,), np.dtype("f4"), False, b"1234"), REBUILD, np.ndarray, (0,), b"b"),
        Stated({"__defaults__": (1,)}, np.dtype, "f4", False, True),
    ],
)
def test_hostile_arrays_are_refused(hostile):
    layers = content("small")
    layers[0] = (hostile, layers[0][1])
    with pytest.raises(ValueError, match=r"no file of weights|something else than arrays"):
        paper.loads(pickle.dumps(layers))


def test_nested_lists_are_no_arrays():
    nested = [0.0] * 100
    for _ in range(8):
        nested = [nested] * 100  # 10^18 elements, if anything asked for them
    layers = content("small")
    layers[0] = (nested, layers[0][1])
    with pytest.raises(ValueError, match="something else than arrays"):
        paper.loads(pickle.dumps(layers))


def altered(change):
    layers = content("small")
    change(layers)
    return pickle.dumps(layers)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no file of weights"),
        (b"\x80\x03garbage", "no file of weights"),
        (pickle.dumps(content("small"))[:5000], "no file of weights: .*truncated"),
        (pickle.dumps({"a": 1}), "no list of layers"),
        (pickle.dumps([(np.zeros(2), np.zeros(2))]), "no list of layers"),
        (altered(lambda layers: layers.pop(1)), "those of none of the networks small, pool, wresnet"),
        (altered(lambda layers: layers.pop()), "not two each and one in the last"),
        (altered(lambda layers: layers.__setitem__(0, (layers[0][0].astype(int), layers[0][1]))), "arrays of type 'i8', not floats"),
        (altered(lambda layers: layers.__setitem__(1, (layers[1][0][:, :, :8], layers[1][1]))), "convolution 1 has kernel"),
        (altered(lambda layers: layers.__setitem__(-1, (layers[-1][0][:, :, :8],))), r"its head has shape \(1, 1, 8, 10\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_released_network_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        paper.loads(data)
