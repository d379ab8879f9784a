"""Converting needs the memory of a checkpoint's largest tensor, not of all of it; measured in a process of its own.

For the 7B shape: `python tests/big_checkpoint.py write 7b FOLDER`, then `convert FOLDER OUT`; too large for every run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import big_checkpoint

from tam_edge.runtime import load_bundle

MIB = 1024**2


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    big_checkpoint.write("ci", tmp_path / "in")
    command = [sys.executable, big_checkpoint.__file__, "convert", str(tmp_path / "in"), str(tmp_path / "out"), "7"]
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
