"""The weight files that the paper's authors released, and our parameters: one to the other and back.

A file is a pickled list with a tuple per layer and one more: `(kernel [k, k, I, O], bias [O])` of a convolution, `(k x k of NaN, NaN)` of a max-pool,
`(kernel [1, 1, K, C],)` of the head. Nothing in it names the network, so its table of layers is found by the shapes.
"""

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from irob.arrays import Params
from irob.networks import NETWORKS, CAMNetwork, Conv, Layer, MaxPool


class Released(NamedTuple):
    """What a file holds.

    network: its name in `networks.NETWORKS`.
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


def loads(data: bytes) -> Released:
    """Reads a released file. Only NumPy arrays can come of it: whatever else a pickle asks for is refused by name, and nothing of it is run.

    Raises:
      ValueError: if it asks for anything else, is no such list, or fits none of the paper's networks.
    """
    layers, head = _checked(_unpickled(data))
    tables = {name: factory((4, 4, 1), 2).layers for name, factory in NETWORKS.items()}
    fitting = [name for name, table in tables.items() if _fit(table, layers)]
    if not fitting:
        shapes = ", ".join("x".join(map(str, arrays[0].shape)) for arrays in layers)
        raise ValueError(f"its layers ({shapes}) are those of none of the networks {', '.join(NETWORKS)}")
    (name,) = fitting
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
    return Released(name, convs[0][0].shape[2], head.shape[3], params, tuple(broken))


def dumps(network: CAMNetwork, params: Params) -> bytes:
    """Writes parameters in the layout of the released files; `loads` reads them back as they were."""
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
    """Whether arrays have the kernel sides and output channels of a table."""
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
        raise ValueError(f"its layers have {lengths} arrays, not two each and one in the last")
    arrays = [tuple(np.asarray(part) for part in entry) for entry in content]
    for i, entry in enumerate(arrays):
        for array in entry:
            if array.dtype.kind != "f":
                raise ValueError(f"its layer {i} holds {array.dtype}, not floats")
    arrays = [tuple(array.astype(np.float32) for array in entry) for entry in arrays]
    return arrays[:-1], arrays[-1][0]


# What a pickled array names, under the modules of NumPy before and after 2.0. Its class is only ever an argument, so a string stands in for it:
# called directly, with a shape that fills the memory, it fails. `_rebuild` makes an empty array, to be filled from the bytes in the file.
_NDARRAY = "numpy.ndarray"
_rebuild: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
_scalar: Callable[..., Any] = np.float32(0).__reduce__()[0]  # type: ignore[assignment]


def _array(kind: str, shape: Any, code: Any) -> Any:
    if kind != _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError(f"it asks for an array of {kind!r} with shape {shape!r}")
    return _rebuild(np.ndarray, shape, code)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode(encoding)


def _from_buffer(buffer: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and weights are arrays alone")
        return _ALLOWED[module, name]


def _unpickled(data: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:  # a damaged or hostile stream can raise anything
        raise ValueError(f"it is no file of weights: {error or type(error).__name__}") from error
