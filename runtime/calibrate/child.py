"""A step in a Python process of its own: its peak of memory can be measured, and it can be stopped at any time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

# `-m` and `-c` put the working folder before everything else, and that may be a checkpoint with a numpy.py in it.
_START = """
import sys
if sys.path[0] == "":
    del sys.path[0]
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run_module(module: str, task: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run `module` with `task` as its one argument, in JSON; what it printed and how it ended.

    Nothing is imported from the working folder.
    """
    command = [sys.executable, "-c", _START, module, json.dumps(task)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
