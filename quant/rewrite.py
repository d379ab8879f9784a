"""An ONNX graph with chosen nodes in fewer bits; everything else stays bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx

from tam_edge.quant.dense import int4_product, int8_product
from tam_edge.quant.experts import Made, quantised_mixture
from tam_edge.quant.graph import MIXTURE, arrays, gate_nodes, replaced
from tam_edge.quant.graph_file import read_graph, weight_bytes
from tam_edge.quant.rounding import Floats
from tam_edge.runtime.errors import UsageError

Bits = Literal[8, 4]
FILE_LIMIT_BYTES = 2**31 - (1 << 20)
"""Largest graph that holds its own weights, and all that onnxruntime's tools take: protobuf ends at 2 GB."""


def quantised(model: onnx.ModelProto, chosen: Mapping[str, Bits]) -> onnx.ModelProto:
    """A copy of `model` whose chosen nodes, named by their first output, hold their weights in that many bits.

    Raises:
        EngineError: the installed onnxruntime's kernel for quantised experts is not the one that was tried.
    """
    weights, made, rounded = arrays(model), Made(), set[str]()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        bits = chosen.get(node.output[0])
        if bits is None:
            nodes.append(node)
        elif node.op_type == MIXTURE:
            mixture, needed = quantised_mixture(node, weights, bits)
            nodes.append(mixture)
            made |= needed
        elif bits == 8:
            nodes += int8_product(node, weights, made, rounded)
        else:
            nodes += int4_product(node, weights, made)
    return replaced(model, nodes, made)


def statically(
    model: onnx.ModelProto, keys: Sequence[str], inputs: Sequence[Mapping[str, Floats]], path: Path
) -> onnx.ModelProto:
    """`model` with the chosen MatMuls in 8 bits and scales of activations fixed by `inputs`, made in the file `path`.

    onnxruntime's own calibration: quantise and dequantise nodes around each product, one scale per tensor from the
    smallest and largest value seen, one per column of the weights. The kernels are those of any quantised model, also
    where `quantised`'s are missing; outliers beyond the calibration data are cut.

    Raises:
        UsageError: the graph is larger than onnxruntime's calibration reads.
    """
    _fits_one_file(model, "int8-static")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The calibration inputs, once."""

        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, Floats]] = iter(inputs)

        def get_next(self) -> Mapping[str, Floats] | None:
            return next(self._left, None)

    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = node.output[0]  # onnxruntime chooses by name, and names may be missing or given twice
    logging.disable(logging.WARNING)  # it advises a preprocessing that graphs written node by node do not need
    try:
        quantize_static(
            named,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(keys),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},  # a product is summed in float32 anyway
        )
    finally:
        logging.disable(logging.NOTSET)
    return read_graph(path)


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in float16 for a GPU, inputs and outputs float32; products that feed a gate stay float32.

    Raises:
        UsageError: the graph is larger than onnxruntime's conversion reads.
    """
    _fits_one_file(model, "fp16")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = node.output[0]
    blocked = sorted(gate_nodes(named))
    small: onnx.ModelProto = convert_float_to_float16(named, keep_io_types=True, node_block_list=blocked)
    return small


def _fits_one_file(model: onnx.ModelProto, kind: str) -> None:
    size = sum(map(weight_bytes, model.graph.initializer))
    if size > FILE_LIMIT_BYTES:
        raise UsageError(f"{kind} can be made of graphs up to 2.1 GB, this one has {size / 1e9:.1f} GB: choose int8")
