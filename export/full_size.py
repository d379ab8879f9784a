"""A checkpoint with random weights in the shapes people bring, for measuring speed and memory where none can be had.

    python -m tam_edge.export.full_size --out DIR --language 0.5B --vision so400m

The folder is what `save_pretrained` of LLaVA-OneVision leaves (transformers 4.57), or with `--layout llava-next` a
LLaVA-Video as published: bf16 safetensors in shards with their index, config.json, tokenizer files. Written tensor by
tensor, so that memory is that of the largest one (7B: 1.1 GB). Random weights say nothing about accuracy.
full_size_convert measures what turning it into a bundle takes, full_size_vision times its encoder, full_size_bytes
counts what bundles weigh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file

from tam_edge.export.full_size_files import config, preprocessor, tokenizer, tokenizer_config
from tam_edge.export.full_size_shapes import TEXT_SHAPES, VISION_SHAPES, TextShape, VisionShape, shapes, stored_name
from tam_edge.export.pretrained.sizes import Layout
from tam_edge.quant.place import building
from tam_edge.runtime.errors import TamEdgeError, UsageError

SHARD_BYTES = 1_000_000_000
"""A shard is closed when it has this many bytes."""


def write_checkpoint(
    out: Path,
    text: TextShape,
    vision: VisionShape,
    *,
    layout: Layout = "hugging-face",
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the folder; it appears whole or not at all.

    Raises:
        UsageError: `out` is there already, or there is no room for it.
        TamEdgeError: it cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} is there already: name another folder")
    named = {stored_name(name, layout): shape for name, shape in shapes(text, vision)}
    with building(out, needed_bytes=2 * sum(map(math.prod, named.values()))) as partial:
        _write_json(partial / "config.json", config(text, vision, layout))
        if layout == "hugging-face":
            _write_json(partial / "preprocessor_config.json", preprocessor(vision))
        _write_json(partial / "tokenizer_config.json", tokenizer_config(layout))
        tokenizer(text.merged).save(str(partial / "tokenizer.json"))
        _write_weights(partial, named, seed, progress)


def _write_weights(
    folder: Path, named: Mapping[str, tuple[int, ...]], seed: int, progress: Callable[[str], None]
) -> None:
    """Shards of whole tensors; how many there are is known at the end, so they get their names then."""
    drafts: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    total = 0
    for name, shape in named.items():
        held[name] = _draw(name, shape, seed)
        total += held[name].nbytes
        if sum(tensor.nbytes for tensor in held.values()) >= SHARD_BYTES:
            drafts.append(_write_shard(folder, len(drafts), held, progress))
    if held:
        drafts.append(_write_shard(folder, len(drafts), held, progress))
    weight_map: dict[str, str] = {}
    for index, names in enumerate(drafts):
        file = f"model-{index + 1:05}-of-{len(drafts):05}.safetensors"
        (folder / f"{index}.draft").replace(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index_json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index_json)


def _write_shard(
    folder: Path, number: int, held: dict[str, torch.Tensor], progress: Callable[[str], None]
) -> list[str]:
    progress(f"shard {number + 1}: {sum(tensor.nbytes for tensor in held.values()) / 1e9:.2f} GB")
    save_file(held, folder / f"{number}.draft", metadata={"format": "pt"})
    names = list(held)
    held.clear()
    return names


def _draw(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values that keep activations near a standard deviation of 1; the same for a name whatever comes before it."""
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
    values = torch.empty(shape, dtype=torch.bfloat16)
    values.normal_(generator=torch.Generator().manual_seed(key))
    inputs = values[0].numel() if values.ndim > 1 else 2500  # biases: a fiftieth
    return values.mul_(inputs**-0.5)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights, for measuring.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language", choices=TEXT_SHAPES, default="0.5B")
    parser.add_argument("--vision", choices=VISION_SHAPES, default="so400m")
    parser.add_argument("--layout", choices=get_args(Layout), default="hugging-face", help="whose key names")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        write_checkpoint(
            asked.out, TEXT_SHAPES[asked.language], VISION_SHAPES[asked.vision], layout=asked.layout, seed=asked.seed,
            progress=lambda what: print(what, file=sys.stderr, flush=True),
        )  # fmt: skip
    except TamEdgeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
