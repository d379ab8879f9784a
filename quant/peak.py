"""Peak memory of one engine, measured in a process of its own: what ran before would hide in the peak.

    python -m tam_edge.quant.peak '{"path": ..., "backend": "gguf", "context": 2048}'

The library itself is loaded before the count starts; several engines share it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tam_edge.models.config import LanguageConfig
from tam_edge.quant.child import run_module
from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes
from tam_edge.runtime.engines.llamacpp import CHUNK_TOKENS, PLAIN_ATTENTION_BYTES, LlamaCppEngine
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError

Inputs = Mapping[str, tuple[str, tuple[int, ...]]]
"""Number format and shape of each input of a graph."""

LLAMA_BYTES = 24 * 1024**2
"""What llama.cpp holds whatever the model."""
THREADS = 2
"""Threads the engine runs on; each adds a stack of its own."""


def graph_peak_bytes(path: Path, inputs: Inputs) -> int:
    """Growth of the peak resident set, in bytes, by opening the ONNX graph at `path` and running it once.

    Raises:
        EngineError: the graph cannot be opened or run.
    """
    return _in_a_child({"path": str(path), "backend": "onnx", "inputs": dict(inputs)})


def language_peak_bytes(path: Path, context: int) -> int:
    """Growth of the peak resident set, in bytes, by opening the GGUF at `path` and filling `context` tokens.

    Raises:
        EngineError: the model cannot be opened or run.
    """
    return _in_a_child({"path": str(path), "backend": "gguf", "context": context})


def language_bytes(file_bytes: int, config: LanguageConfig, context: int, *, exact: bool = False) -> int:
    """What `language_peak_bytes` would measure, counted instead: filling the context of a 7B model takes an hour.

    The mapped file, key-value cells (float16, float32 where `exact`), one chunk's activations and attention scores, and
    llama.cpp's own 24 MiB. For small models it is at most half more than the measurement.
    """
    cells = 2 * config.layers * config.kv_heads * config.head_width * (4 if exact else 2) * context
    scores = 4 * CHUNK_TOKENS * context * config.heads
    scores = scores if exact else min(PLAIN_ATTENTION_BYTES, scores)
    states = 4 * CHUNK_TOKENS * (3 * config.ffn_width + 8 * config.width) + 4 * CHUNK_TOKENS * context
    return file_bytes + cells + 2 * scores + states + 8 * config.vocab_size + LLAMA_BYTES


def _in_a_child(task: dict[str, Any]) -> int:
    done = run_module("tam_edge.quant.peak", task)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineError(f"{Path(task['path']).name} could not be measured: {last}")
    return int(done.stdout)


def _measure(task: dict[str, Any]) -> int:
    path = Path(task["path"])
    if task["backend"] == "onnx":
        import onnxruntime  # noqa: F401

        values = {name: _values(dtype, shape) for name, (dtype, shape) in task["inputs"].items()}
        before = resident_bytes()
        OnnxEngine(path, threads=THREADS, device="cpu").run(values)
    else:
        import llama_cpp  # noqa: F401

        before = resident_bytes()
        engine = LlamaCppEngine(path, threads=THREADS, device="cpu")
        engine.reserve(task["context"])
        engine.append_embeddings(_values("float32", (task["context"], engine.embedding_width)).astype(np.float32))
        engine.logits()
    return max(0, peak_resident_bytes() - before)


def _values(dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if np.issubdtype(np.dtype(dtype), np.integer):
        return np.ones(shape, dtype)
    values: NDArray[np.generic] = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)
    return values


if __name__ == "__main__":
    print(_measure(json.loads(sys.argv[1])))
