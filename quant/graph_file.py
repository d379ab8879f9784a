"""ONNX files: a graph that holds its weights, or whose weights lie in a file beside it.

onnx itself refuses weights with a second hard link, as a backup or the stand-in of a bundle has, so they are read here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tam_edge.runtime.errors import EngineError

EXTERNAL_BYTES = 256 * 1024**2
"""A graph with more weights than this keeps them in a file beside it: protobuf ends at 2 GB, and onnxruntime maps such
a file where it would hold a graph's own weights twice while it opens it."""
PAGE_BYTES = 4096
"""Weights in a file of their own start at multiples of this, as mapping needs."""
SMALL_BYTES = 1024
"""Constants up to this size (shapes, biases) stay in the graph."""
WEIGHTS_SUFFIX = ".weights"
"""What the name of that file ends with, after the graph's own name."""


class WeightsFile:
    """A file beside a graph that its large constants are appended to."""

    def __init__(self, path: Path) -> None:
        """Create `path`, empty; an older file may still be mapped, or linked elsewhere, and is left as it is."""
        self.path = path
        """The file."""
        path.unlink(missing_ok=True)
        path.write_bytes(b"")

    def add(self, name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
        """Append `array`; returns the tensor that points at it."""
        with self.path.open("r+b") as stream:
            start = -(-stream.seek(0, 2) // PAGE_BYTES) * PAGE_BYTES
            stream.seek(start)
            np.ascontiguousarray(array).tofile(stream)
        place = {"location": self.path.name, "offset": str(start), "length": str(array.nbytes)}
        tensor = onnx.TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return tensor


def weights_file(graph: Path) -> Path:
    """Where the weights of `graph` lie if they are not in it."""
    return graph.with_name(graph.name + WEIGHTS_SUFFIX)


def graph_bytes(graph: Path) -> int:
    """Size of a graph with its weights."""
    beside = weights_file(graph)
    return graph.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a graph with its weights.

    Raises:
        EngineError: it is no ONNX file, or its weights are not where it says.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.raw_data = _stored(path, tensor)
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
    except (DecodeError, OSError, ValueError, KeyError) as error:
        raise EngineError(f"{path}: this is no readable ONNX file; make the bundle again") from error
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to a new file, weights above EXTERNAL_BYTES in a second one beside it; `model` stays as it is."""
    beside = weights_file(path)
    for old in (path, beside):  # never in place: it may be mapped, or linked elsewhere
        old.unlink(missing_ok=True)
    if sum(map(weight_bytes, model.graph.initializer)) <= EXTERNAL_BYTES:
        onnx.save(model, path)
        return
    weights = WeightsFile(beside)
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        large = weight_bytes(tensor) > SMALL_BYTES
        graph.initializer.append(weights.add(tensor.name, numpy_helper.to_array(tensor)) if large else tensor)
    onnx.save(
        onnx.ModelProto(
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            opset_import=model.opset_import,
            graph=graph,
        ),
        path,
    )


def move_graph(source: Path, target: Path) -> None:
    """Give a graph, and the weights beside it, another name; what was there is replaced and not written into."""
    if not weights_file(source).is_file():
        weights_file(target).unlink(missing_ok=True)
        source.replace(target)
        return
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = weights_file(target).name
    target.unlink(missing_ok=True)
    onnx.save(model, target)
    weights_file(source).replace(weights_file(target))
    source.unlink()


def weight_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a stored array."""
    return int(np.prod(tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _stored(graph: Path, tensor: onnx.TensorProto) -> bytes:
    """The bytes of an array in a file beside `graph`; one in another folder is not read."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    if Path(place["location"]).name != place["location"]:
        raise ValueError(f"{tensor.name} lies in {place['location']!r}")
    wanted = weight_bytes(tensor)
    with graph.with_name(place["location"]).open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        values = stream.read(wanted)
    if len(values) != wanted or int(place.get("length", wanted)) != wanted:
        raise ValueError(f"{tensor.name} is cut short")
    return values
