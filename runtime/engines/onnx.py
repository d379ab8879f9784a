"""ONNX Runtime: the backend of encoders and projectors."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.device import has_vnni
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.natives import import_native

if TYPE_CHECKING:
    from tam_edge.runtime.engines import DeviceName

CUDA = "CUDAExecutionProvider"
FATAL_ONLY = 4  # onnxruntime log severity: everything below comes back as an exception, printing it too says it twice


_IDENTITY = bytes.fromhex(  # x -> x, float32 [1], opset 18
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a"
    "02080142040a001012"
)


@functools.cache
def load_library() -> Any:
    """Import onnxruntime, and have it set up what the first session of a process makes for all that follow.

    A megabyte or two, which would count for every engine that is measured by itself.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would call home, and leave files to do so
    onnxruntime = import_native("onnxruntime")
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    onnxruntime.InferenceSession(_IDENTITY, _options(onnxruntime, 1), providers=["CPUExecutionProvider"])
    return onnxruntime


class OnnxEngine:
    """One opened ONNX graph."""

    def __init__(self, path: Path, *, threads: int, device: DeviceName = "auto") -> None:
        """Open the graph on `threads` CPU threads, or on the GPU where `device` allows and there is one.

        Raises: EngineError if it cannot be opened, or if CUDA was asked for by name and is not there.
        """
        onnxruntime = load_library()
        self._name = path.name
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self._session: Any = onnxruntime.InferenceSession(path, _options(onnxruntime, threads), providers=providers)
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise EngineError(f"{path}: onnxruntime cannot open it ({_cause(error)}); make the bundle again") from error
        # Blocks serve again within a run; afterwards the memory ceiling wants them back.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.input_names: tuple[str, ...] = tuple(tensor.name for tensor in self._session.get_inputs())
        """Names of the graph's inputs, in its order."""
        self.on_gpu: bool = self._session.get_providers()[0] == CUDA
        """Whether it runs on a GPU."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Run the graph once; inputs by name, outputs in the graph's order.

        Raises: EngineError if the engine is closed or the graph fails.
        """
        if self._session is None:
            raise EngineError(f"{self._name} is closed; load the bundle again")
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(None, dict(inputs), self._run_options)
        except Exception as error:  # as above
            raise EngineError(f"{self._name} failed while it ran ({_cause(error)})") from error
        return outputs

    def close(self) -> None:
        """Free the session; closing twice is fine."""
        self._session = None


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    # Waiting threads that spin would slow the decoder and the language model down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not has_vnni():
        # Without these instructions fast 8-bit products overflow; with them the exact ones would cost half the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _providers(device: DeviceName, available: list[str]) -> list[str]:
    if device == "cuda" and CUDA not in available:
        raise EngineError("this onnxruntime has no CUDA; install onnxruntime-gpu, or use --device cpu")
    return [CUDA, "CPUExecutionProvider"] if device != "cpu" and CUDA in available else ["CPUExecutionProvider"]


def _cause(error: Exception) -> str:
    # what stands before is an error code twice: as a number and as a name
    return str(error).rpartition(" : ")[2].strip().rstrip(".")[:300] or type(error).__name__
