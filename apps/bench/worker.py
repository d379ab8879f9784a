"""One decoder in a process of its own: it decodes when told to, and says how long that took and what it held.

Talks in lines of JSON: a job on stdin, then an empty line for every run; an answer on stdout to each of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tam_edge.apps.bench.clips import Wanted, number_shown
from tam_edge.apps.bench.decoders import DECODERS
from tam_edge.runtime.budget import peak_resident_bytes

MOST_CHARACTERS = 120  # of a library's message


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # libraries print what they like
        os.dup2(nowhere.fileno(), 2)
    job = json.loads(sys.stdin.readline())
    missing = DECODERS[job["decoder"]].missing()
    print(json.dumps({"missing": missing}), file=answers)
    wanted = [Wanted(*frame) for frame in job["wanted"]]
    for _ in sys.stdin:
        print(json.dumps(run(job["decoder"], Path(job["path"]), wanted)), file=answers)


def run(decoder: str, path: Path, wanted: Sequence[Wanted]) -> dict[str, Any]:
    """Decode once: milliseconds by the clock and of CPU time, frames that were not the ones wanted, peak of memory."""
    failed, shown = None, list[int]()
    began, worked = time.perf_counter(), _cpu_seconds()
    try:
        for pixels in DECODERS[decoder].decode(path, wanted):
            shown.append(number_shown(pixels))
    except Exception as error:  # a library's own, of any class
        failed = (str(error).strip() or type(error).__name__).partition("\n")[0][:MOST_CHARACTERS]
    ms, cpu_ms = (time.perf_counter() - began) * 1000, (_cpu_seconds() - worked) * 1000
    wrong = sum(number != frame.shows for number, frame in zip(shown, wanted, strict=False))
    return {
        "ms": ms,
        "cpu_ms": cpu_ms,
        "wrong": wrong + len(wanted) - len(shown),
        "failed": failed,
        "peak_bytes": peak_resident_bytes(),
    }


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    ended = os.times()  # of children in hundredths; of this process `process_time` is finer
    return time.process_time() + ended.children_user + ended.children_system


if __name__ == "__main__":
    main()
