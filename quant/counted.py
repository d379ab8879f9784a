"""What a language model needs in memory, counted from its shape where measuring it would take too long."""

from __future__ import annotations

from typing import get_args

from tam_edge.models.config import LanguageConfig
from tam_edge.runtime.calibrate.memory import Figures
from tam_edge.runtime.engines.llamacpp import CELLS_STEP, CHUNK_TOKENS, PLAIN_ATTENTION_BYTES
from tam_edge.runtime.figures import whole_peak
from tam_edge.runtime.schema import Attention, EngineMemory, Sized

LLAMA_BYTES = 24 * 1024**2
"""What llama.cpp holds whatever the model."""


def counted_language_figures(file_bytes: int, config: LanguageConfig, context: int, *, exact: bool = False) -> Figures:
    """What `language_figures` would measure, counted instead: filling the context of a 7B model takes an hour.

    The mapped file, key-value cells (float16, float32 where `exact`), one chunk's activations and attention scores, and
    llama.cpp's own 24 MiB. For small models it is at most half more than the measurement.
    """
    values = 2 * config.layers * config.kv_heads * config.head_width
    each_score = 2 * 4 * CHUNK_TOKENS * config.heads
    most_plain = context if exact else min(context, 2 * PLAIN_ATTENTION_BYTES // each_score // CELLS_STEP * CELLS_STEP)

    def running(way: Attention, cells: int) -> Sized:
        states = 4 * CHUNK_TOKENS * (3 * config.ffn_width + 8 * config.width) + 4 * CHUNK_TOKENS * cells
        return Sized(size=cells, bytes=states + (each_score * cells if way == "plain" else 0))

    curves: dict[str, tuple[Sized, ...]] = {
        way: (running(way, CELLS_STEP), running(way, most))
        for way, most in (("plain", most_plain), *((way, 0 if exact else context) for way in get_args(Attention)[1:]))
        if most > CELLS_STEP
    }
    if config.head_width % 32:
        curves.pop("q8_0", None)
    cell_bytes = {"plain": values * (4 if exact else 2), "flash": values * 2, "q8_0": values * 34 // 32}
    memory = EngineMemory(
        opening_bytes=file_bytes + LLAMA_BYTES,
        open_bytes=file_bytes + 8 * config.vocab_size + LLAMA_BYTES,
        library_bytes=0,
        running=curves,
        cell_bytes={way: cell_bytes[way] for way in curves},
    )
    return {"peak_bytes": whole_peak(memory), "memory": memory}
