"""Converting needs the memory of a checkpoint's largest tensor, not of all of it; measured in a process of its own.

For the 7B shape, too large for every run: the two commands at the head of export/full_size_convert.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tam_edge.export.full_size import write_checkpoint
from tam_edge.export.full_size_shapes import TextShape, VisionShape
from tam_edge.runtime import load_bundle

MIB = 1024**2
TEXT = TextShape(width=256, layers=40, heads=8, kv_heads=2, ffn=768, merged=4000, rows=4096, tied=False)
VISION = VisionShape(width=64, layers=3, heads=4, ffn=96, image_px=100, patch_px=14)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TEXT, VISION, layout="llava-next")
    module = "tam_edge.export.full_size_convert"
    command = [sys.executable, "-m", module, str(tmp_path / "in"), str(tmp_path / "out"), "--grids", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    grown = figures["vm_hwm_bytes"] - figures["before_bytes"]
    assert figures["checkpoint_bytes"] > 55 * MIB
    assert 0 < grown < 0.8 * figures["checkpoint_bytes"], figures  # read whole, it would be twice that in float32
    assert figures["bundle_bytes"] > figures["checkpoint_bytes"]
    steps = [int(found[1]) for found in re.finditer(r"language model, (\d+)%", done.stderr)]
    assert 15 <= len(steps) <= 21
    assert steps == sorted(steps)
    assert load_bundle(tmp_path / "out").manifest.routing.ladder[0].tokens_per_frame == 56
