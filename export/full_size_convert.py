"""What turning a checkpoint into a bundle takes: `tam-edge export --checkpoint` in this process, its peak of memory.

    python -m tam_edge.export.full_size --out CHECKPOINT --language 7B --layout llava-next
    python -m tam_edge.export.full_size_convert CHECKPOINT BUNDLE

Prints JSON. The memory of the engines is measured in processes of their own and does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.source import ImportOptions
from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes
from tam_edge.runtime.errors import TamEdgeError


def convert(checkpoint: Path, out: Path, grids: tuple[int, ...] | None = None) -> dict[str, float]:
    """Export, and what this process needed at its peak (VmHWM), in bytes.

    Raises:
        TamEdgeError: as `export_checkpoint`.
    """
    before, began = resident_bytes(), time.monotonic()
    export_checkpoint(checkpoint, out, ImportOptions(grids=grids), progress=lambda what: print(what, file=sys.stderr))
    return {
        "vm_hwm_bytes": peak_resident_bytes(),
        "before_bytes": before,
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")),
        "bundle_bytes": sum(path.stat().st_size for path in out.iterdir()),
        "seconds": round(time.monotonic() - began, 1),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description="Turn a checkpoint into a bundle and print the peak of memory.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--grids", type=int, nargs="+", help="tokens per side, largest first")
    asked = parser.parse_args()
    try:
        print(json.dumps(convert(asked.checkpoint, asked.out, tuple(asked.grids) if asked.grids else None)))
    except TamEdgeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
