"""A bundle's GGUF in fewer bits, made by llama.cpp itself in a process of its own.

    python -m tam_edge.quant.language '{"source": ..., "out": ..., "type": "Q4_K_M", "threads": 1}'

llama.cpp answers no Ctrl-C while it rounds, and ends the whole process where a file contradicts itself; as a child it
can be stopped, and its end is one line. What a row does not fit (896 is no multiple of 256) llama.cpp stores in the
nearest type that it does fit, so the types that are really in the file are read back from it.
"""

from __future__ import annotations

import ctypes
import json
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

from tam_edge.runtime.calibrate.child import run_module
from tam_edge.runtime.errors import EngineError, UsageError
from tam_edge.runtime.natives import import_native

LanguageType = Literal["f16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]
"""Types of a language model, as llama.cpp calls them; Q4_0 is the one with fast Arm kernels."""
TYPES: tuple[LanguageType, ...] = get_args(LanguageType)
BITS = {"f16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.8, "Q4_0": 4.5}
"""Bits per weight where every row fits, in order from fine to coarse."""

_FTYPES = {"f16": 1, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2}
_FULL = {"F32", "F16", "BF16"}
_PLANNED = re.compile(
    r"- \[([\d, ]+)\], type =\s*(\w+), size =[^\n(]*?(?:\((\w+)\)|\n)"
)  # llama.cpp's line of a tensor


@dataclass(frozen=True, slots=True)
class Stored:
    """What a GGUF holds."""

    types: dict[str, int]
    """Matrices by number format."""
    bytes_by_type: dict[str, int]
    """Their bytes, likewise."""
    bits_per_weight: float
    """Bits of all arrays over their numbers."""


def stored(path: Path) -> Stored:
    """Read which formats the arrays of a GGUF really have.

    Raises:
        EngineError: it is no GGUF.
    """
    try:
        tensors = GGUFReader(path).tensors
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise EngineError(f"{path}: this is no readable GGUF file; make the bundle again") from error
    types, sizes = Counter[str](), Counter[str]()
    for tensor in tensors:
        if len(tensor.shape) > 1:
            types[tensor.tensor_type.name] += 1
        sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    numbers = sum(int(tensor.n_elements) for tensor in tensors)
    return Stored(dict(types), dict(sizes), 8 * sum(sizes.values()) / max(1, numbers))


def check_source(path: Path) -> None:
    """Refuse a GGUF that has been rounded already: rounding twice costs more than it saves.

    Raises:
        UsageError: it has been.
        EngineError: it is no GGUF.
    """
    rounded = sorted(set(stored(path).types) - _FULL)
    if rounded:
        raise UsageError(f"{path.name} holds {', '.join(rounded)} already: quantise a bundle with an f16 or f32 GGUF")


def quantise_language(source: Path, out: Path, kind: LanguageType, *, imatrix: Path | None, threads: int) -> Stored:
    """Write the GGUF `source` to `out` as `kind`, with the importance of inputs from `imatrix` if there is one.

    Raises:
        UsageError: `source` has been rounded already.
        EngineError: llama.cpp cannot read it or write `out`.
    """
    check_source(source)
    task = {"source": str(source), "out": str(out), "type": kind, "threads": threads}
    task |= {} if imatrix is None else {"imatrix": str(imatrix)}
    _in_a_child(source, kind, task)
    return stored(out)


def planned(source: Path, kind: LanguageType) -> Stored:
    """What `source` would hold as `kind`, as llama.cpp plans it; its weights are not read, so they need not be there.

    Raises:
        EngineError: llama.cpp cannot read it.
    """
    task = {"source": str(source), "out": f"{source}.planned", "type": kind, "threads": 1, "dry_run": True}
    told = _in_a_child(source, kind, task)
    types, sizes, numbers = Counter[str](), Counter[str](), 0
    for shape, before, after in _PLANNED.findall(told):
        axes = [int(axis) for axis in shape.split(",")]
        name = (after or before).upper()
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        sizes[name] += math.prod(axes) // block * block_bytes
        numbers += math.prod(axes)
        if math.prod(axes[1:]) > 1:
            types[name] += 1
    return Stored(dict(types), dict(sizes), 8 * sum(sizes.values()) / max(1, numbers))


def _in_a_child(source: Path, kind: str, task: dict[str, Any]) -> str:
    done = run_module("tam_edge.quant.language", task)
    if done.returncode == 0:
        return done.stderr
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "failed to quantize" in line or "rror" in line), "")
    raise EngineError(
        f"{source.name} could not be made {kind}: {told or (lines or ['llama.cpp gave no reason'])[-1]}; "
        "look at the free space of the disk, then at the file"
    )


def _quantise(task: dict[str, Any]) -> int:
    from tam_edge.quant.imatrix import Imatrix

    llama = import_native("llama_cpp")
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = _FTYPES[task["type"]], task["threads"]
    params.dry_run = task.get("dry_run", False)
    held: list[Any] = []
    if "imatrix" in task:
        squares = Imatrix.load(Path(task["imatrix"])).squares
        entries = (llama.llama_cpp.llama_model_imatrix_data * (len(squares) + 1))()  # a null name ends the list
        for entry, (name, values) in zip(entries, squares.items(), strict=False):
            array = np.ascontiguousarray(values, np.float32)
            held.append(array)
            entry.name, entry.size = name.encode(), array.size
            entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    return int(
        llama.llama_model_quantize(str(task["source"]).encode(), str(task["out"]).encode(), ctypes.byref(params))
    )


if __name__ == "__main__":
    sys.exit(_quantise(json.loads(sys.argv[1])))
