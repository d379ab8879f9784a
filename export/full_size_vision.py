"""How much faster int8 is than fp32 for an encoder of full width, with random weights: a layer or two tell.

    python -m tam_edge.export.full_size_vision --layers 2 --threads 2

Prints JSON: milliseconds a frame (median of rounds in turns) by wall clock and by CPU time, file sizes and errors.
`--layers 26` is the whole encoder: 1.6 GB in fp32 and, on two cores, seconds a frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from tam_edge.export.full_size_shapes import VISION_SHAPES
from tam_edge.export.vision import vision_graph
from tam_edge.models.config import VisionConfig
from tam_edge.models.vision import VisionTransformer
from tam_edge.quant.encoder import GraphType, shrink
from tam_edge.quant.graph_file import graph_bytes, save_graph
from tam_edge.runtime.engines.onnx import OnnxEngine

EXACT = "fp32"


def bench(
    name: str, layers: int, experts: int, kinds: Sequence[GraphType], rounds: int, threads: int
) -> dict[str, Any]:
    """Time an encoder of the shape `name` with `layers` layers in fp32 and in every type of `kinds`, in turns."""
    with tempfile.TemporaryDirectory(prefix="tam-edge-bench-") as place:
        folder = Path(place)
        files = {EXACT: folder / "vision.onnx"}
        shape = VISION_SHAPES[name]
        save_graph(vision_graph(_encoder(name, layers, experts)), files[EXACT])
        draw = np.random.default_rng(0)
        pixels = draw.uniform(-1, 1, (1, 3, shape.image_px, shape.image_px)).astype(np.float32)
        errors = {EXACT: 0.0}
        for kind in kinds:
            files[kind] = folder / f"vision-{kind}.onnx"
            result = shrink(
                files[EXACT], files[kind], [{"pixels": pixels}], dense=kind, experts=None, error_most=9.0,
                threads=threads, progress=lambda what: print(what, file=sys.stderr, flush=True),
            )  # fmt: skip
            errors[kind] = result.error
        times = _times(files, pixels, rounds, threads)
        exact = times[EXACT]
        return {
            "vision": name,
            "layers": layers,
            "experts": experts,
            "threads": threads,
            "types": {
                kind: {
                    "ms_per_frame": round(wall, 2),
                    "cpu_ms_per_frame": round(cpu, 2),
                    "faster": round(exact[0] / wall, 3),
                    "faster_cpu": round(exact[1] / cpu, 3),
                    "size_bytes": graph_bytes(files[kind]),
                    "error": round(errors[kind], 5),
                }
                for kind, (wall, cpu) in times.items()
            },
        }


def _encoder(name: str, layers: int, experts: int) -> VisionTransformer:
    shape = VISION_SHAPES[name]
    torch.manual_seed(0)
    config = VisionConfig(
        image_px=shape.image_px, patch_px=shape.patch_px, width=shape.width, layers=layers, heads=shape.heads,
        mlp_width=shape.ffn, experts=experts, experts_per_token=min(2, experts),
    )  # fmt: skip
    return VisionTransformer(config).eval()


def _times(
    files: dict[str, Path], pixels: np.ndarray[Any, np.dtype[np.float32]], rounds: int, threads: int
) -> dict[str, tuple[float, float]]:
    """Medians in milliseconds, wall and CPU; the first round is not counted."""
    engines = {kind: OnnxEngine(path, threads=threads, device="cpu") for kind, path in files.items()}
    spent: dict[str, list[tuple[float, float]]] = {kind: [] for kind in files}
    for turn in range(rounds + 1):
        for kind, engine in engines.items():
            wall, cpu = time.perf_counter(), time.process_time()
            engine.run({"pixels": pixels})
            if turn:
                spent[kind].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    for engine in engines.values():
        engine.close()
    return {
        kind: (statistics.median(one[0] for one in some), statistics.median(one[1] for one in some))
        for kind, some in spent.items()
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description="Time an encoder of full width in fewer bits.")
    parser.add_argument("--vision", choices=VISION_SHAPES, default="so400m")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=1, help="1 is a dense encoder")
    parser.add_argument("--types", nargs="+", choices=get_args(GraphType), default=["int8", "int8-static", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    print(
        json.dumps(bench(asked.vision, asked.layers, asked.experts, asked.types, asked.rounds, asked.threads), indent=1)
    )


if __name__ == "__main__":
    _main()
