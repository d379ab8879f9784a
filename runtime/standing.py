"""What this process holds before a question is answered: the one part of the prediction that is looked at, not counted.

Python, the host program and the imported libraries are in the resident set, to the byte, once everything that a plan
needs is imported; so it is imported before a question is admitted, as long as the ceiling has room for that at all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tam_edge.runtime.budget import MIB, give_back, peak_resident_bytes, resident_bytes
from tam_edge.runtime.natives import import_native

LIBRARY_BYTES = {
    "onnxruntime": 26 * MIB,
    "av": 17 * MIB,
    "llama_cpp": 9 * MIB,
    "tokenizers": 3 * MIB,
    "PIL.Image": 4 * MIB,
}
"""Growth of the resident set by importing what runs the stages, at most, as measured on Linux x86-64."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What this process holds now, in bytes."""

    resident_bytes: int
    """Its resident set, with everything below that is there already."""
    peak_bytes: int = 0
    """Largest resident set it ever had: no plan can stay below that."""
    to_import_bytes: int = 0
    """What libraries and tokenizers will add that are not there yet."""
    open_bytes: Mapping[str, int] = field(default_factory=dict)
    """Opened engines by stage ("inductor", "vision", "language"), with what closing them gives back."""
    code_bytes: Mapping[str, int] = field(default_factory=dict)
    """Code of each backend's library that earlier work has read in."""
    features_bytes: int = 0
    """Patch features held for later questions."""
    video_bytes: int = 0
    """Index and pictures of the video, at least, where its file has been open since it was first looked at."""
    threads: int = 1
    """Threads of every engine, and the most of the decoder."""
    gpu: bool = False
    """Whether engines run on a GPU, whose memory counts too."""

    @property
    def imported_bytes(self) -> int:
        """Resident set once libraries and tokenizers are there."""
        return self.resident_bytes + self.to_import_bytes


def import_libraries() -> None:
    """Import everything that answering needs, so that what it takes is known and not guessed."""
    from tam_edge.runtime.engines import llamacpp, onnx

    for name in LIBRARY_BYTES:
        import_native(name)
    onnx.load_library()
    llamacpp.load_library()


def unimported_bytes() -> int:
    """What `import_libraries` would add to the resident set."""
    return sum(size for name, size in LIBRARY_BYTES.items() if name not in sys.modules)


def held_now(
    open_bytes: Mapping[str, int],
    code_bytes: Mapping[str, int],
    features_bytes: int,
    video_bytes: int,
    to_load_bytes: int,
    threads: int,
    gpu: bool,
) -> Standing:
    """Look at this process, freed memory given back first."""
    give_back(cycles=False)
    return Standing(
        resident_bytes=resident_bytes(),
        peak_bytes=peak_resident_bytes(),
        to_import_bytes=unimported_bytes() + to_load_bytes,
        open_bytes=dict(open_bytes),
        code_bytes=dict(code_bytes),
        features_bytes=features_bytes,
        video_bytes=video_bytes,
        threads=threads,
        gpu=gpu,
    )
