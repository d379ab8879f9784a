"""llama.cpp: the backend of language models, through its low-level interface.

The high-level `Llama` class takes no embeddings. Here visual tokens enter through `llama_batch.embd`, positions are
given by llama.cpp itself (one after another), and the sequence is cut with `llama_memory_seq_rm`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.natives import import_native

if TYPE_CHECKING:
    from tam_edge.runtime.engines import DeviceName
    from tam_edge.runtime.schema import Attention

CHUNK_TOKENS = 256  # entered per call: small enough that Ctrl-C is heard soon and the compute buffer stays small
CELLS_STEP = 256  # llama.cpp rounds the number of key-value cells up to this
BYTES_PER_THREAD = 32 * 1024**2  # one token of a smaller model is done before a second thread has woken up
PLAIN_ATTENTION_BYTES = 64 * 1024**2  # float32 scores of one chunk over all cells and heads; more is left to flash
ALL_F32 = b"0"  # general.file_type of a model whose every weight is float32: its cells are float32 too
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp draws a seed of its own for this one
Q8_BLOCK = 32  # values that share a scale in q8_0: 34 bytes


def cells_for(tokens: int) -> int:
    """Key-value cells that llama.cpp allocates for so many tokens."""
    return -(-tokens // CELLS_STEP) * CELLS_STEP


class LlamaCppEngine:
    """One GGUF model and one sequence of key-value cells, allocated when `reserve` is called."""

    def __init__(self, path: Path, *, threads: int, device: DeviceName = "auto") -> None:
        """Map the model; layers go to the GPU where `device` allows and llama.cpp was built for one.

        Raises: EngineError if it cannot be opened, or if CUDA was asked for by name and is not there.
        """
        self._llama = load_library()
        self._name = path.name
        self._threads = threads
        self._context: Any = None
        self._cells = self._block = self._length = 0
        self._way: Attention | None = None
        params = self._llama.llama_model_default_params()
        self.on_gpu: bool = self._offload(device)
        """Whether its layers are on a GPU."""
        params.n_gpu_layers = -1 if self.on_gpu else 0
        params.use_extra_bufts = not _has_tiles(self._llama)
        self._model: Any = self._llama.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise EngineError(f"{path}: llama.cpp cannot open it; the file is damaged or memory is short")
        self._vocabulary: Any = self._llama.llama_model_get_vocab(self._model)
        self._exact = self._meta(b"general.file_type") == ALL_F32

    @property
    def embedding_width(self) -> int:
        """Numbers per embedding."""
        return int(self._llama.llama_model_n_embd(self._model))

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    @property
    def rope(self) -> Literal["1d", "mrope"]:
        """Position encoding."""
        multi = (self._llama.LLAMA_ROPE_TYPE_MROPE, self._llama.LLAMA_ROPE_TYPE_IMROPE)
        return "mrope" if self._llama.llama_model_rope_type(self._model) in multi else "1d"

    @property
    def length(self) -> int:
        """Tokens held in the sequence."""
        return self._length

    @property
    def capacity(self) -> int:
        """Tokens there is room for; 0 before `reserve`."""
        return self._cells

    @property
    def way(self) -> Attention | None:
        """How it attends; None before `reserve`."""
        return self._way

    def way_for(self, tokens: int, block: int = 1) -> Attention:
        """How it attends by itself with room for so many tokens."""
        return "plain" if self._scores_fit(max(CHUNK_TOKENS, block) * cells_for(tokens)) else "flash"

    def cell_bytes(self, way: Attention) -> int:
        """Bytes of the key and the value of one token in all layers.

        Raises: EngineError if this model's values cannot be stored in that way.
        """
        llama = self._llama
        head = llama.llama_model_n_embd(self._model) // llama.llama_model_n_head(self._model)
        architecture = self._meta(b"general.architecture")
        widths = [
            int(self._meta(architecture + b".attention." + part) or head) for part in (b"key_length", b"value_length")
        ]
        values = llama.llama_model_n_head_kv(self._model) * sum(widths)
        if way == "q8_0" and (self._exact or any(width % Q8_BLOCK for width in widths)):
            raise EngineError(f"{self._name}: 8-bit cells are not for this model")
        each = Fraction(34, 32) if way == "q8_0" else 4 if self._exact else 2
        return int(llama.llama_model_n_layer(self._model) * values * each)

    def reserve(self, tokens: int, *, block: int = 1, way: Attention | None = None) -> None:
        """Make room for `tokens`, and for `block` of them entered at once; what was held is dropped if it must grow.

        `way` says how it attends and what its cells are; None leaves that to the engine, or to what is there.

        Raises: EngineError if the cells cannot be allocated.
        """
        if self._cells >= tokens and self._block >= block and way in (None, self._way):
            return
        self._free_context()
        way = way or self.way_for(tokens, block)
        params = self._llama.llama_context_default_params()
        params.n_ctx = cells_for(tokens)
        params.n_batch = params.n_ubatch = max(CHUNK_TOKENS, block)
        params.n_outputs_max = 1  # only a chunk's last token is scored: no buffer of chunk x vocabulary
        params.n_threads, params.n_threads_batch = self._generation_threads(), self._threads
        params.no_perf = True
        if self._exact:
            params.type_k = params.type_v = self._llama.GGML_TYPE_F32
        elif way == "q8_0":
            params.type_k = params.type_v = self._llama.GGML_TYPE_Q8_0
        if way == "plain":
            params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        elif not self.on_gpu:  # there llama.cpp knows best
            params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            self._context = None
            raise EngineError(f"{self._name}: llama.cpp has no memory for {tokens} tokens; ask for fewer frames")
        self._cells, self._block, self._way = int(params.n_ctx), int(params.n_batch), way

    def _scores_fit(self, scores: int) -> bool:
        """Whether plain attention is affordable: on a CPU it is as fast and three times as exact as flash attention.

        A float32 model pays for it whatever it costs: flash attention moves its logits by a hundredth of their spread.
        """
        heads = self._llama.llama_model_n_head(self._model)
        return not self.on_gpu and (self._exact or scores * heads * 4 <= PLAIN_ATTENTION_BYTES)

    def append_tokens(self, ids: Sequence[int]) -> None:
        """Enter token ids after what is held.

        Raises: EngineError if there is no room or llama.cpp fails.
        """
        for start in range(0, len(ids), CHUNK_TOKENS):
            chunk = np.asarray(ids[start : start + CHUNK_TOKENS], np.int32)
            self._decode(len(chunk), token=chunk.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)))

    def append_embeddings(self, embeddings: NDArray[np.float32], *, causal: bool = True) -> None:
        """Enter embeddings [T, d] after what is held; not causal: each of them sees all of them.

        Raises: EngineError if there is no room or llama.cpp fails.
        """
        rows = np.ascontiguousarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_width:
            raise EngineError(f"{self._name} takes embeddings [T, {self.embedding_width}], not {list(rows.shape)}")
        if not causal and len(rows) > self._block:
            raise EngineError(
                f"{self._name}: {len(rows)} embeddings see each other, but only {self._block} are reserved"
            )
        step = CHUNK_TOKENS if causal else max(1, len(rows))
        self._llama.llama_set_causal_attn(self._context, causal)
        try:
            for start in range(0, len(rows), step):
                chunk = rows[start : start + step]
                self._decode(len(chunk), embd=chunk.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        finally:
            self._llama.llama_set_causal_attn(self._context, True)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens.

        Raises: EngineError if the model's memory cannot be cut there (recurrent models).
        """
        if length >= self._length:
            return
        if not self._llama.llama_memory_seq_rm(self._memory(), 0, length, -1):
            raise EngineError(f"{self._name}: this model's memory cannot be cut; it cannot be used here")
        self._length = length

    def logits(self) -> NDArray[np.float32]:
        """Scores [vocabulary] of the token that would come next, a copy."""
        scores = self._llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(scores, (self.vocabulary_size,)).copy()

    def sample(self, temperature: float, seed: int) -> Generator[int, None, None]:
        """Yield token after token, each entered when the next one is asked for; temperature 0 is greedy."""
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        try:
            if temperature > 0:
                llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(temperature))
                llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed % RANDOM_SEED))
            else:
                llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
            while True:
                token = int(llama.llama_sampler_sample(chain, self._context, -1))
                yield token
                self.append_tokens([token])
        finally:
            llama.llama_sampler_free(chain)

    def is_end(self, token: int) -> bool:
        """Whether the model itself calls this token an end of text."""
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def release(self) -> None:
        """Free the cells and the buffers that go with them; what was held is dropped."""
        self._free_context()

    def close(self) -> None:
        """Free the cells and the model; closing twice is fine."""
        self._free_context()
        if self._model:
            self._llama.llama_model_free(self._model)
        self._model = self._vocabulary = None

    def _decode(self, count: int, *, token: Any = None, embd: Any = None) -> None:
        """Enter one chunk. Null positions and sequence ids mean "next" and "the only one"; the last row is scored."""
        if self._length + count > self._cells:
            raise EngineError(f"{self._name}: {self._length + count} tokens do not fit the {self._cells} reserved")
        code = self._llama.llama_decode(self._context, self._llama.llama_batch(n_tokens=count, token=token, embd=embd))
        if code != 0:
            raise EngineError(f"{self._name}: llama.cpp failed with code {code} after {self._length} tokens")
        self._length += count

    def _generation_threads(self) -> int:
        return max(1, min(self._threads, int(self._llama.llama_model_size(self._model)) // BYTES_PER_THREAD))

    def _meta(self, key: bytes) -> bytes:
        """What the file says under `key`, as text; empty where it says nothing."""
        text = ctypes.create_string_buffer(64)
        self._llama.llama_model_meta_val_str(self._model, key, text, len(text))
        return text.value

    def _memory(self) -> Any:
        return self._llama.llama_get_memory(self._context)

    def _free_context(self) -> None:
        if self._context is not None:
            self._llama.llama_free(self._context)
        self._context = None
        self._cells = self._block = self._length = 0
        self._way = None

    def _offload(self, device: DeviceName) -> bool:
        possible = bool(self._llama.llama_supports_gpu_offload())
        if device == "cuda" and not possible:
            raise EngineError("this llama.cpp has no CUDA; build it with CUDA, or use --device cpu")
        return possible and device != "cpu"


@functools.cache
def load_library() -> Any:
    """Import llama.cpp once and silence it before it prints anything, unless this logger is at DEBUG."""
    with _waiting_asleep():
        llama_cpp = import_native("llama_cpp")
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        # Any C function that does nothing will do; one written in Python would swallow a Ctrl-C that arrives in it.
        nothing = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, llama_cpp.llama_log_callback)
        llama_cpp.llama_log_set(nothing, None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def _has_tiles(llama: Any) -> bool:
    """Whether llama.cpp would multiply 8- and 4-bit weights with AMX: that keeps a second copy of them, beside the
    mapped file, and dies of an illegal instruction where GCC 12 has built it, as Debian 12's does."""
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


@contextmanager
def _waiting_asleep() -> Iterator[None]:
    """Let OpenMP threads, if llama.cpp brings any, wait asleep; OpenMP reads the variable while it is loaded.

    Threads that spin starve each other where another program uses the cores too: 600 tokens of a small model took
    5.7 s instead of 0.2 s on two busy cores.
    """
    chosen = os.environ.get("OMP_WAIT_POLICY")
    if chosen is None:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["OMP_WAIT_POLICY"]
