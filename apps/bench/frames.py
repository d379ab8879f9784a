"""`tam-edge bench frames`: how fast frames are found in a file, and in how much memory, beside other decoders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Any

import typer

from tam_edge.apps.bench.clips import CODECS, LENGTHS_SECONDS, ClipSpec, Wanted, make_clip, wanted_frames
from tam_edge.apps.bench.decoders import DECODERS, OURS
from tam_edge.apps.options import AsJson
from tam_edge.apps.render import print_json, progress
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.device import cache_folder
from tam_edge.runtime.errors import TamEdgeError, UsageError

LEAST_SIDE_PX = 64  # the number painted into a frame


@dataclass(frozen=True, slots=True)
class Measured:
    """One decoder on one clip."""

    decoder: str
    """Its name."""
    failed: str | None
    """Why it took no part, or gave up."""
    wrong: int
    """Frames of a run that were not the ones asked for."""
    ms: tuple[float, ...]
    """Each run."""
    median_ms: float | None
    """Their median."""
    cpu_ms: float | None
    """Median CPU time, of all threads and of processes it started."""
    peak_bytes: int
    """Peak resident set of its process."""

    @property
    def compared(self) -> bool:
        """Whether it counts as a rival: right, and without torch."""
        return not self.failed and not self.wrong and self.decoder != OURS and not DECODERS[self.decoder].needs_torch


def frames(
    codec: Annotated[list[str] | None, typer.Option("--codec", help="h264, h265, vp9 or av1.  [default: all]")] = None,
    gop: Annotated[
        list[int] | None, typer.Option("--gop", min=1, help="Key frame distance.  [default: 12, 250]")
    ] = None,
    length: Annotated[list[str] | None, typer.Option("--length", help="10s, 10min or 2h.  [default: all]")] = None,
    rate: Annotated[list[str] | None, typer.Option("--rate", help="cfr or vfr.  [default: both]")] = None,
    size: Annotated[list[str] | None, typer.Option("--size", help="Of the picture.  [default: 320x240]")] = None,
    count: Annotated[int, typer.Option("--frames", min=1, help="Frames asked for, spread over the clip.")] = 32,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Interleaved runs of each decoder, after one more.")] = 5,
    decoder: Annotated[list[str] | None, typer.Option("--decoder", help="Which to compare.  [default: all]")] = None,
    clips: Annotated[
        Path | None,
        typer.Option("--clips", metavar="FOLDER", help="Where clips are kept.  [default: the cache folder]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time how frames are found in a file, beside other decoders.

    Every decoder has a process of its own; they take turns, so that what else the device does slows all of them. The
    ratio is ours to the fastest that gave the right frames and imports without torch.
    """
    folder = cache_folder() / "clips" if clips is None else clips
    specs = _specs(codec, gop, length, rate, size)
    names = _checked("decoder", decoder, tuple(DECODERS))
    names = names if OURS in names else [OURS, *names]
    cases = list[dict[str, Any]]()
    for spec in specs:
        with progress(f"Making {spec.name}"):
            path = make_clip(spec, folder)
        with progress(f"Decoding {spec.name}"):
            results = measure(path, wanted_frames(spec, count), names, runs)
        ratio = ratio_to_best(results)
        cases.append({"clip": spec.name, "frames": count, "ratio": ratio, "decoders": [asdict(r) for r in results]})
        if not as_json:
            _print_case(spec, results, ratio)
    if as_json:
        print_json({"schema_version": 1, "cases": cases})


def measure(path: Path, wanted: Sequence[Wanted], names: Sequence[str], runs: int) -> list[Measured]:
    """Let decoders take turns on one clip: a first time that is not counted, then `runs` times.

    Raises:
        TamEdgeError: a decoder's process died.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(name, path, wanted)) for name in names]
        for _ in range(1 + runs):
            for worker in workers:
                worker.run()
        return [worker.measured() for worker in workers]


def ratio_to_best(results: Sequence[Measured]) -> float | None:
    """Our median to that of the fastest other that counts; None if there is none, or ours was wrong."""
    [ours] = [result for result in results if result.decoder == OURS]
    others = [result.median_ms for result in results if result.compared and result.median_ms is not None]
    return None if ours.median_ms is None or ours.wrong or not others else ours.median_ms / min(others)


class _Worker:
    """The process of one decoder; see worker.py for what is said."""

    def __init__(self, name: str, path: Path, wanted: Sequence[Wanted]) -> None:
        self._name, self._answers, self._missing = name, list[dict[str, Any]](), None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tam_edge.apps.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        frames = [(frame.index, frame.seconds, frame.shows) for frame in wanted]
        self._missing = self._ask(json.dumps({"decoder": name, "path": str(path), "wanted": frames}))["missing"]

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self) -> None:
        """Decode once, unless that is known to be in vain."""
        if self._missing is None and not (self._answers and self._answers[-1]["failed"]):
            self._answers.append(self._ask(""))

    def measured(self) -> Measured:
        """What came of it; of wrong frames the worst run."""
        if self._missing is not None:
            return Measured(self._name, f"not installed: {self._missing}", 0, (), None, None, 0)
        failed = next((answer["failed"] for answer in self._answers if answer["failed"]), None)
        counted = self._answers[1:]
        ms = tuple(answer["ms"] for answer in counted)
        return Measured(
            self._name,
            failed,
            max(answer["wrong"] for answer in self._answers),
            ms,
            None if failed or not counted else median(ms),
            None if failed or not counted else median(answer["cpu_ms"] for answer in counted),
            max(answer["peak_bytes"] for answer in self._answers),
        )

    def _ask(self, line: str) -> Any:
        said = ""
        if self._process.poll() is None:
            print(line, file=_open(self._process.stdin), flush=True)
            said = _open(self._process.stdout).readline()
        if not said:
            raise TamEdgeError(f"the process of {self._name} died: try it without, with --decoder")
        return json.loads(said)


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _specs(
    codecs: list[str] | None, gops: list[int] | None, lengths: list[str] | None, rates: list[str] | None,
    sizes: list[str] | None,
) -> Iterator[ClipSpec]:  # fmt: skip
    pixels = [_size(size) for size in sizes or ["320x240"]]
    steady = [rate == "cfr" for rate in _checked("rate", rates, ("cfr", "vfr"))]
    chosen = _checked("codec", codecs, CODECS), gops or [12, 250], steady, _checked("length", lengths, LENGTHS_SECONDS)
    return (ClipSpec(*facts, *size) for *facts, size in product(*chosen, pixels))


def _checked(option: str, given: list[str] | None, known: Sequence[str] | dict[str, int]) -> list[Any]:
    for name in given or ():
        if name not in known:
            raise UsageError(f"{option} {name!r} is unknown: choose from {', '.join(known)}")
    return list(given or known)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= LEAST_SIDE_PX):
        raise UsageError(f"size {text!r} makes no sense: write it as 1280x720, no side below {LEAST_SIDE_PX}")
    if int(width) % 2 or int(height) % 2:
        raise UsageError(f"size {text!r} has an odd side, which video codecs do not take: make it even")
    return int(width), int(height)


def _print_case(spec: ClipSpec, results: Sequence[Measured], ratio: float | None) -> None:
    print(f"{spec.name}" + ("" if ratio is None else f"   {ratio:.2f} times the best"))
    for result in results:
        print(f"  {result.decoder:<20}{_figures(result)}", flush=True)


def _figures(result: Measured) -> str:
    if result.median_ms is None:
        return result.failed or "no runs"
    spread = f"{result.median_ms:9.1f} ms  ({min(result.ms):.1f} to {max(result.ms):.1f})"
    cpu = f"CPU {result.cpu_ms:.0f} ms"
    torch = "  needs torch" if DECODERS[result.decoder].needs_torch else ""
    wrong = f"  {result.wrong} frames WRONG" if result.wrong else ""
    return f"{spread:<36}{cpu:<14}{size_text(result.peak_bytes):>12}{torch}{wrong}"
