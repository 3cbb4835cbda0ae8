"""Weight files as the paper's authors released them, converted to our parameters and back.

A file is a pickled list with a tuple per layer and one more: `(kernel [k, k, I, O], bias [O])` of a convolution, `(k x k of NaN, NaN)` of a max-pool,
`(kernel [1, 1, K, C],)` of the head. Nothing in it names the network: it is the first row of `models.NETWORKS` whose layers have these shapes.
"""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from irob.models.cam_network import NETWORKS, CAMNetwork, Conv, Layer, MaxPool
from irob.types import Params


class ReleasedWeights(NamedTuple):
    """The content of a file.

    network: its name in `models.NETWORKS`.
    channels: of the images. (Their size is not in the file: the layers fit any.)
    num_classes: C.
    params: as `CAMNetwork` takes them.
    not_finite: paths of the tensors with NaN or infinite entries. Two of the released files have them.
    """

    network: str
    channels: int
    num_classes: int
    params: Params
    not_finite: tuple[str, ...]


def loads(data: bytes) -> ReleasedWeights:
    """Reads a released file, through an unpickler that can make NumPy arrays and nothing else.

    Args:
      data: the bytes of the file.

    Raises:
      ValueError: if the pickle asks for anything but arrays (it is named, and not run), or if the content does not fit a network of the paper.
    """
    layers, head = _checked(_unpickled(data))
    tables = {name: factory((4, 4, 1), 2).layers for name, factory in NETWORKS.items()}
    fitting = [name for name, table in tables.items() if _fit(table, layers)]
    if not fitting:
        shapes = ", ".join("x".join(map(str, arrays[0].shape)) for arrays in layers[:40])
        raise ValueError(f"its layers ({shapes}) are those of none of the networks {', '.join(NETWORKS)}")
    name = fitting[0]
    table = tables[name]
    convs = [arrays for layer, arrays in zip(table, layers, strict=True) if isinstance(layer, Conv)]
    features = convs[-1][0].shape[-1]
    inputs = [convs[0][0].shape[2], *(kernel.shape[-1] for kernel, _ in convs)]
    for i, (kernel, bias) in enumerate(convs):
        if kernel.shape[2] != inputs[i] or bias.shape != (kernel.shape[3],):
            raise ValueError(f"its convolution {i} has kernel {kernel.shape} and bias {bias.shape}: they do not follow one another")
    if head.ndim != 4 or head.shape[:3] != (1, 1, features):
        raise ValueError(f"its head has shape {head.shape}, not (1, 1, {features}, classes)")
    params: dict[str, dict[str, np.ndarray]] = {f"conv_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(convs)}
    params["head"] = {"kernel": head[0, 0]}
    broken = [f"{layer}/{part}" for layer, parts in params.items() for part, array in parts.items() if not np.isfinite(array).all()]
    return ReleasedWeights(name, convs[0][0].shape[2], head.shape[3], params, tuple(broken))


def dumps(network: CAMNetwork, params: Params) -> bytes:
    """Parameters in the layout of the released files; `loads` reads them back unchanged."""
    convs = iter([params[f"conv_{i}"] for i in range(sum(isinstance(layer, Conv) for layer in network.layers))])
    layers: list[tuple[Any, ...]] = []
    for layer in network.layers:
        if isinstance(layer, MaxPool):
            layers.append((np.full((layer.width, layer.width), np.nan, np.float32), np.float32(np.nan)))
        else:
            conv = next(convs)
            layers.append((np.asarray(conv["kernel"], np.float32), np.asarray(conv["bias"], np.float32)))
    head = np.asarray(params["head"]["kernel"], np.float32)
    return pickle.dumps([*layers, (head[None, None],)], protocol=3)


def _fit(table: Sequence[Layer], layers: Sequence[tuple[np.ndarray, ...]]) -> bool:
    """Whether the arrays have the kernel sizes and output channels of a table."""
    return len(table) == len(layers) and all(
        kernel.shape == (layer.width, layer.width)
        if isinstance(layer, MaxPool)
        else kernel.ndim == 4 and (*kernel.shape[:2], kernel.shape[3]) == (layer.width, layer.width, layer.channels)
        for layer, (kernel, _) in zip(table, layers, strict=True)
    )


def _checked(content: Any) -> tuple[list[tuple[np.ndarray, ...]], np.ndarray]:
    """The layers and the head, if the content is a list of tuples of float arrays of the right lengths."""
    if not isinstance(content, list) or len(content) < 2 or not all(isinstance(entry, tuple) for entry in content):
        raise ValueError("it holds no list of layers")
    lengths = [len(entry) for entry in content]
    if lengths != [2] * (len(content) - 1) + [1]:
        raise ValueError(f"its layers have {str(lengths)[:60]} arrays, not two each and one in the last")
    if not all(isinstance(part, _Array) and part.array is not None for entry in content for part in entry):
        raise ValueError("its layers hold something else than arrays")
    arrays = [tuple(part.array.astype(np.float32) for part in entry) for entry in content]
    return arrays[:-1], arrays[-1][0]


# Stand-ins for what a pickled array names. NumPy's own constructors take states from the stream that they do not check, pointers among them;
# these hold nothing but bytes, a type of three and a shape, and, being slotted, have nothing else that a stream could set.


class _Type:
    """A float type: made by its code, completed by the state of `numpy.dtype`."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any):
        if code not in ("f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"it holds arrays of type {code!r}, not floats")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if len(state) < 8 or state[1] not in ("<", ">", "=", "|") or tuple(state[2:8]) != (None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError("it holds a float type with parts of its own")
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype


class _Array:
    """An array: empty until its state has come."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def fill(self, dtype: Any, shape: Any, columns_first: bool, data: Any) -> _Array:
        """Itself, with an array of this type and shape made of the bytes."""
        if not isinstance(dtype, _Type) or not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("it holds an array that is not made of bytes")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if columns_first else "C")
        return self

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, data = state
        self.fill(dtype, shape, bool(columns_first), data)


class _Call:
    """A function as an object without attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it alters a function")


_NDARRAY = "numpy.ndarray"  # only ever an argument
_new_type = _Call(_Type)
_new_array = _Call(lambda *_: _Array())
_new_scalar = _Call(lambda dtype, data: _Array().fill(dtype, (), False, data))
_from_buffer = _Call(lambda data, dtype, shape, order: _Array().fill(dtype, shape, order == "F", data))
_latin1 = _Call(lambda text, encoding: text.encode({"latin1": "latin1"}[encoding]))

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _new_type,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},  # before and after NumPy 2
    **{(f"numpy.{core}.multiarray", "scalar"): _new_scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and weights are arrays alone")
        return _ALLOWED[module, name]


MOST_OPERATIONS = 100_000  # in a file of weights; the released ones have a few hundred


def _bounded(data: bytes) -> None:
    """Refuses a stream that would take much more memory than it has bytes: each operation makes an object, and the unpickler's memo is an array as
    long as the largest index that the stream names.
    """
    try:
        operations = list(itertools.islice(pickletools.genops(data), MOST_OPERATIONS + 2))
    except ValueError as error:
        raise pickle.UnpicklingError(f"it is truncated or damaged ({error})") from error
    for count, (operation, argument, _) in enumerate(operations):
        too_far = operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data)
        if too_far or count >= MOST_OPERATIONS:
            raise pickle.UnpicklingError("it would take more memory than weights do")


def _unpickled(data: bytes) -> Any:
    try:
        _bounded(data)
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:  # a damaged or hostile stream can raise anything
        raise ValueError(f"it is no file of weights: {str(error)[:200] or type(error).__name__}") from error
