"""How large bundles of full size become, without their weights: exact arithmetic from shapes and number formats.

    python -m tam_edge.export.full_size_bytes --language 7B --vision-type int4 --language-type Q4_K_M

The language model's types are llama.cpp's own plan for a GGUF of those shapes whose weights are a hole in the file. The
vocabulary's text (some megabytes) and the graphs' nodes (kilobytes) are in both sums or in neither.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from gguf import GGUFWriter, LlamaFileType

from tam_edge.export.full_size_shapes import TEXT_SHAPES, VISION_SHAPES, TextShape, VisionShape, shapes
from tam_edge.export.language import ARCHITECTURE, PRE_TOKENIZER, gguf_name
from tam_edge.quant.graph import SMALLEST
from tam_edge.quant.language import TYPES, LanguageType, planned
from tam_edge.quant.rounding import int4_block

MatrixType = Literal["fp32", "fp16", "int8", "int4"]
"""How a graph's matrices are stored; the rest of it is fp32, or fp16 with them."""

_PREFIX = "language_model."
_ALIGNMENT = 32


def bundle_bytes(
    text: TextShape,
    vision: VisionShape,
    graphs: MatrixType,
    language: LanguageType,
    *,
    experts: int = 1,
    grids: int = 4,
) -> dict[str, int]:
    """Bytes of the encoder, of a projector for each of `grids`, and of the language model."""
    encoder, projector = 0, 0
    for name, shape in shapes(text, vision):
        if name.startswith("vision_tower") and "post_layernorm" not in name:
            copies = experts if ".mlp." in name else 1
            is_table = "position_embedding" in name
            encoder += copies * _array_bytes(shape, graphs if not is_table or graphs == "fp16" else "fp32")
        elif name.startswith("multi_modal_projector"):
            projector += _array_bytes(shape, graphs)
    if experts > 1:
        encoder += vision.layers * experts * vision.width * 4  # gates stay fp32
    return {"vision": encoder, "projectors": grids * projector, "language": language_bytes(text, language)}


def language_bytes(text: TextShape, kind: LanguageType) -> int:
    """Bytes of the arrays of a Qwen2 GGUF of these sizes."""
    with tempfile.TemporaryDirectory(prefix="tam-edge-") as folder:
        path = Path(folder, "hollow.gguf")
        write_hollow(text, path)
        return sum(planned(path, kind).bytes_by_type.values())


def write_hollow(text: TextShape, path: Path) -> None:
    """A GGUF in f16 with every name, shape and offset, and a hole where the weights would be; takes no disk."""
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(32768)
    writer.add_embedding_length(text.width)
    writer.add_block_count(text.layers)
    writer.add_feed_forward_length(text.ffn)
    writer.add_head_count(text.heads)
    writer.add_head_count_kv(text.kv_heads)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    room = 0
    for key, shape in shapes(text, VISION_SHAPES["tiny"]):
        if key.startswith(_PREFIX):
            number = np.dtype(np.float32 if len(shape) == 1 else np.float16)
            size = math.prod(shape) * number.itemsize
            writer.add_tensor_info(gguf_name(key.removeprefix(_PREFIX).removeprefix("model.")), shape, number, size)
            room += -(-size // _ALIGNMENT) * _ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    described = -(-path.stat().st_size // _ALIGNMENT) * _ALIGNMENT
    with path.open("r+b") as file:
        file.truncate(described + room)


def _array_bytes(shape: tuple[int, ...], kind: MatrixType) -> int:
    """Bytes of one array: [out, in] matrices in the type, everything else as the graph's other values are."""
    numbers = math.prod(shape)
    if len(shape) != 2 or numbers < SMALLEST or kind in ("fp32", "fp16"):
        return numbers * (2 if kind == "fp16" else 4)
    out, inputs = shape
    if kind == "int8":
        return numbers + 4 * out  # a scale for every column of the product
    block = int4_block(inputs)
    return out * -(-inputs // block) * (block // 2 + 4)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Sizes of full-size bundles, by arithmetic.")
    parser.add_argument("--language", choices=TEXT_SHAPES, default="7B")
    parser.add_argument("--vision", choices=VISION_SHAPES, default="so400m")
    parser.add_argument("--vision-type", choices=get_args(MatrixType), default="int4")
    parser.add_argument("--language-type", choices=TYPES, default="Q4_K_M")
    parser.add_argument("--experts", type=int, default=1, help="experts per layer; 1 is a dense encoder")
    parser.add_argument("--grids", type=int, default=4)
    asked = parser.parse_args()
    text, vision = TEXT_SHAPES[asked.language], VISION_SHAPES[asked.vision]
    more = {"experts": asked.experts, "grids": asked.grids}
    half = bundle_bytes(text, vision, "fp16", "f16", **more)
    small = bundle_bytes(text, vision, asked.vision_type, asked.language_type, **more)
    smaller = round(sum(half.values()) / sum(small.values()), 3)
    print(json.dumps({"fp16": half, "small": small, "smaller": smaller}, indent=1))


if __name__ == "__main__":
    _main()
