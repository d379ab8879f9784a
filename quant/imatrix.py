"""Importance of a language model's inputs: the mean square of every matrix's input over calibration prompts.

llama.cpp rounds the columns that matter most most carefully when it is told. It is measured with llama.cpp itself, as
its own `llama-imatrix` does: a callback sees every matrix product of the real computation, visual tokens included,
which a text file for that tool could not hold. Files are in that tool's GGUF format, so either can read the other's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray

from tam_edge.runtime.errors import EngineError, UsageError
from tam_edge.runtime.natives import import_native

Floats = NDArray[np.float32]
SUMS, COUNTS = ".in_sum2", ".counts"
"""Ends of the names of the two arrays a matrix has in the file."""
CHUNK_TOKENS = 256
_LEFT_OUT = ("output.weight", "token_embd.weight")  # llama-imatrix leaves the head out too: it is kept at more bits


@dataclass(frozen=True, slots=True, eq=False)
class Imatrix:
    """Mean squares of the inputs of matrices."""

    squares: dict[str, Floats]
    """[K] of every matrix, by llama.cpp's name of it."""
    tokens: int
    """Tokens they are means of."""
    source: str
    """What was read: a description, or the file."""

    def save(self, path: Path) -> None:
        """Write llama.cpp's GGUF format."""
        writer = GGUFWriter(path, "")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [self.source])
        writer.add_uint32("imatrix.chunk_count", 1)
        writer.add_uint32("imatrix.chunk_size", self.tokens)
        for name, squares in self.squares.items():
            writer.add_tensor(name + SUMS, (squares * self.tokens).reshape(1, -1))
            writer.add_tensor(name + COUNTS, np.array([[self.tokens]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    @classmethod
    def load(cls, path: Path) -> Imatrix:
        """Read llama.cpp's GGUF format.

        Raises:
            UsageError: it is another kind of file, such as the older .dat, or damaged.
        """
        try:
            tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in GGUFReader(path).tensors}
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise UsageError(
                f"{path} is no imatrix in GGUF format: write one with llama-imatrix -o FILE.gguf"
            ) from error
        squares: dict[str, Floats] = {}
        tokens = 0
        for name, sums in tensors.items():
            counts = tensors.get(name.removesuffix(SUMS) + COUNTS)
            if not name.endswith(SUMS) or counts is None:
                continue
            each = np.maximum(counts.reshape(-1, 1), 1)  # one count per expert
            if sums.size % len(each) or not np.isfinite(sums).all():
                raise UsageError(f"{path}: {name} is damaged; measure it again")
            means = sums.reshape(len(each), -1) / each
            squares[name.removesuffix(SUMS)] = means.reshape(-1).astype(np.float32)
            tokens = max(tokens, int(each.max()))
        if not squares:
            raise UsageError(f"{path} is no imatrix: it holds no {SUMS} arrays")
        return cls(squares, tokens, path.name)


Part = Sequence[int] | Floats
"""Token ids, or embeddings [T, d]."""


def measure(
    model: Path,
    prompts: Iterable[Sequence[Part]],
    *,
    context: int,
    threads: int,
    source: str,
    progress: Callable[[str], None],
) -> Imatrix:
    """Run `prompts`, each in parts, through the GGUF `model` and add up the squares of what its matrices are given.

    Raises:
        EngineError: llama.cpp fails, or is another version than the one whose tensors can be read here.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    tokens: dict[str, int] = {}

    def add(name: str, rows: Floats) -> None:
        if name not in _LEFT_OUT:
            sums[name] = sums.get(name, 0) + np.square(rows, dtype=np.float64).sum(0)
            tokens[name] = tokens.get(name, 0) + len(rows)

    with _Watched(model, context, threads, add) as watched:
        for number, prompt in enumerate(prompts, start=1):
            progress(f"importance of inputs: prompt {number}")
            watched.run(prompt)
    if not sums:
        raise EngineError(f"{model.name}: no matrix product was seen; nothing can be said about its inputs")
    squares = {name: (values / tokens[name]).astype(np.float32) for name, values in sums.items()}
    return Imatrix(squares, max(tokens.values()), source)


class _Tensor(ctypes.Structure):
    """ggml's tensor, as far as it is read; checked against ggml's own functions for every tensor."""


_Tensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
]  # fmt: skip


class _Watched:
    """A GGUF model whose matrix products are shown to a function: name of the matrix, inputs [tokens, K]."""

    def __init__(self, model: Path, context: int, threads: int, seen: Callable[[str, Floats], None]) -> None:
        from tam_edge.runtime.engines.llamacpp import LlamaCppEngine

        LlamaCppEngine(model, threads=threads, device="cpu").close()  # silences llama.cpp and refuses a damaged file
        self._llama = import_native("llama_cpp")
        self._ggml = import_native("llama_cpp._ggml").libggml
        self._ggml.ggml_get_name.restype = ctypes.c_char_p
        self._ggml.ggml_op_name.restype = ctypes.c_char_p
        self._ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
        self._seen, self._failure, self._name = seen, "", model.name
        self._callback = self._llama.llama_cpp.ggml_backend_sched_eval_callback(self._on_node)
        self._model = self._llama.llama_model_load_from_file(str(model).encode(), self._model_params())
        params = self._llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, CHUNK_TOKENS, CHUNK_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.cb_eval, params.no_perf = self._callback, True
        self._context = self._llama.llama_init_from_model(self._model, params) if self._model else None
        if not self._context:
            self._close()
            raise EngineError(f"{model.name}: llama.cpp has no memory for {context} tokens")

    def run(self, prompt: Sequence[Part]) -> None:
        """Enter one prompt into an empty context."""
        llama = self._llama
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        for part in prompt:
            for at in range(0, len(part), CHUNK_TOKENS):
                if llama.llama_decode(self._context, self._batch(part[at : at + CHUNK_TOKENS])) != 0 or self._failure:
                    raise EngineError(f"{self._name}: {self._failure or 'llama.cpp failed on a calibration prompt'}")

    def _batch(self, part: Part) -> Any:
        if isinstance(part, np.ndarray):
            self._held = np.ascontiguousarray(part, np.float32)
            pointer = self._held.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            return self._llama.llama_batch(n_tokens=len(part), embd=pointer)
        self._held = np.asarray(part, np.int32)
        return self._llama.llama_batch(
            n_tokens=len(part), token=self._held.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        )

    def _on_node(self, address: int, asked: bool, _: Any) -> bool:
        """Called before a node ("shall I see it?") and after it; an exception must not reach C."""
        try:
            node = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
            if node.name != self._ggml.ggml_get_name(address) or not 0 <= node.op < 1000:
                raise EngineError("this llama.cpp lays its tensors out differently; give --imatrix FILE instead")
            if self._ggml.ggml_op_name(node.op) != b"MUL_MAT":
                return not asked
            weight, inputs = node.src[0].contents, node.src[1].contents
            if not asked and weight.name.endswith(b".weight") and inputs.type == self._llama.GGML_TYPE_F32:
                count = inputs.ne[1] * inputs.ne[2] * inputs.ne[3]
                if inputs.nb[1] != 4 * inputs.ne[0]:
                    raise EngineError("inputs of a matrix do not lie one after the other; give --imatrix FILE instead")
                rows = np.ctypeslib.as_array(
                    ctypes.cast(inputs.data, ctypes.POINTER(ctypes.c_float)), (count, inputs.ne[0])
                )
                self._seen(weight.name.decode(), rows)
        except Exception as error:  # kept for `run`, which raises it where Python can hear it
            self._failure = str(error)
            return False
        return True

    def _model_params(self) -> Any:
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False  # repacked weights would hide behind other names
        return params

    def _close(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
        if self._model:
            self._llama.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
