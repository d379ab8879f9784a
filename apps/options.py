"""Options that several commands share: the words of their `--help`, and what they mean."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Annotated, cast

import typer

from tam_edge.apps.render import print_notes
from tam_edge.runtime.budget import memory_limit, size_text
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.engines import DeviceName
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.inductor import check_question
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.video import Video

Videos = Annotated[
    list[str],
    typer.Option("--video", metavar="FILE", help="Video or image; several make one question about all of them."),
]
Questions = Annotated[
    list[str],
    typer.Option("--ask", metavar="TEXT", help="Question; several are answered in turn about the same video."),
]
Model = Annotated[
    Path | None,
    typer.Option("--model", metavar="FOLDER", help="Bundle to use.  [default: the one that is installed]"),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Memory ceiling, such as 900MiB.  [default: 80% of what is free]"),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="Most time from a question to the first word of its answer, such as 3s.  [default: as long as it takes]",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="How frames become tokens.  [default: the bundle's first]"),
]
Start = Annotated[
    float | None, typer.Option("--start", metavar="SECONDS", help="Look at nothing before this time of the file.")
]
End = Annotated[
    float | None, typer.Option("--end", metavar="SECONDS", help="Look at nothing after this time of the file.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.  [default: as many as there are CPUs]")
]
Frames = Annotated[
    int | None, typer.Option("--frames", metavar="N", min=1, help="Look at N frames, whatever the rules say.")
]
Grid = Annotated[
    int | None, typer.Option("--grid", metavar="G", min=1, help="Look at each in G x G tokens, whatever the rules say.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show the log on stderr, with what FFmpeg, ggml and onnxruntime have to say.")
]


def checked_questions(questions: list[str]) -> list[str]:
    """The questions without surrounding white space, refused before anything is loaded.

    Raises:
        QuestionError: one is empty, too long or not valid text.
    """
    return [check_question(_as_utf8(question)) for question in questions]


def load(
    model: Path | None,
    memory: str | None,
    device: str,
    threads: int | None,
    *,
    reserve_bytes: int = 0,
    instead: str = "",
) -> VideoQA:
    """Check the bundle and the ceiling; engines open when they are needed.

    `reserve_bytes` of the ceiling are left to what arrives at a server; `instead` names what would lower them.

    Raises:
        BundleError, MemoryLimitError, UsageError, TamEdgeError.
    """
    left: str | int | None = memory
    if reserve_bytes:
        whole = memory_limit(memory, probe_device())
        left = whole.limit_bytes - reserve_bytes
        if left <= 0:
            either = f", or lower {instead}" if instead else ""
            text = (
                f"{whole.source} leaves no room beside {size_text(reserve_bytes)} of requests: raise --memory{either}"
            )
            raise TamEdgeError(text)
    qa = VideoQA.load(model, memory=left, device=cast(DeviceName, device), threads=threads)
    if qa.calibrated.problem is not None:
        print_notes([qa.calibrated.problem])
    return qa


def opened(qa: VideoQA, videos: list[str], start: float | None, end: float | None) -> AbstractContextManager[Video]:
    """Open one video, or several as one timeline.

    Raises:
        VideoError, UsageError.
    """
    return closing(qa.open(videos[0] if len(videos) == 1 else videos, start=start, end=end))


def show_log(wanted: bool) -> None:
    """Send this package's log to stderr; the engines silence their libraries unless it is on."""
    if not wanted:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    log = logging.getLogger("tam_edge")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)


def _as_utf8(argument: str) -> str:
    # Under an ASCII locale Python keeps bytes it cannot read as surrogates; terminals send UTF-8 all the same.
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return argument
