"""`tam-edge quantize`: a smaller bundle, and what it lost."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tam_edge.runtime.budget import parse_size
from tam_edge.runtime.device import probe_device

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle to read; it is not changed.")]
Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder of the new bundle; an older one is replaced.")
]
Vision = Annotated[
    str | None,
    typer.Option("--vision", metavar="TYPE", help="Encoders: fp16 (for GPUs), int8, int8-static or int4."),
]
Experts = Annotated[
    str | None,
    typer.Option("--experts", metavar="TYPE", help="Experts of encoders: int8 or int4. [default: as --vision]"),
]
Language = Annotated[
    str | None,
    typer.Option("--language", metavar="TYPE", help="Language model: f16, Q8_0, Q6_K, Q5_K_M, Q4_K_M or Q4_0."),
]
Projectors = Annotated[
    str | None, typer.Option("--projectors", metavar="TYPE", help="Projectors: fp16, int8, int8-static or int4.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="SIZE", help="Choose the types not named for a device of this memory: 8GiB."),
]
Calibrate = Annotated[
    list[Path] | None,
    typer.Option("--calibrate", metavar="VIDEO", help="Video, or folder of videos, to calibrate and compare on."),
]
Compare = Annotated[
    list[Path] | None,
    typer.Option("--compare", metavar="VIDEO", help="Other videos to ask both bundles about."),
]
Ask = Annotated[
    list[str] | None, typer.Option("--ask", metavar="TEXT", help="Question about given videos; several are taken.")
]
ImatrixFile = Annotated[
    Path | None,
    typer.Option("--imatrix", metavar="FILE", help="Importance matrix. [default: measured, with --calibrate]"),
]
ErrorMost = Annotated[
    float | None,
    typer.Option(
        "--error-most",
        metavar="SHARE",
        help="Largest error of a graph's output; layers get more bits until it is kept. [default: 0.05, of int4 0.2]",
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", metavar="N", min=1, help="Most questions to calibrate and compare on; few at full size."),
]
Videos = Annotated[
    int, typer.Option("--videos", metavar="N", min=0, help="Unseen street scenes to compare accuracy on.")
]


def quantize(
    bundle: Folder,
    out: Out,
    vision: Vision = None,
    experts: Experts = None,
    language: Language = None,
    projectors: Projectors = None,
    target: Target = None,
    calibrate: Calibrate = None,
    compare: Compare = None,
    ask: Ask = None,
    samples: Samples = 32,
    imatrix: ImatrixFile = None,
    error_most: ErrorMost = None,
    videos: Videos = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which scenes; 900000 or above.")] = 990_001,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write everything measured as one HTML page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")] = False,
) -> None:
    """Write a smaller copy of a bundle and measure what it lost: size, speed, error layer by layer, answers.

    Parts without a type stay as they are. Which layers keep more bits is decided by measured error, and said.
    """
    # Waiting threads of several libraries would spin against each other: minutes instead of seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tam_edge.quant.quantise import quantise
    from tam_edge.quant.report import lines, write_report
    from tam_edge.quant.request import Request

    request = Request(
        bundle=bundle, out=out, vision=vision, experts=experts, projectors=projectors, language=language,  # type: ignore[arg-type]
        target_bytes=None if target is None else parse_size(target), calibrate=tuple(calibrate or ()),
        compare=tuple(compare or ()), ask=tuple(ask or ()), samples=samples, imatrix=imatrix, error_most=error_most,
        videos=videos, seed=seed, threads=threads or probe_device().cpu_count, report=report,
    )  # fmt: skip
    measured = quantise(request, lambda what: print(what, file=sys.stderr, flush=True))
    if report is not None:
        write_report(measured, report)
    print(json.dumps(measured) if as_json else "\n".join([f"wrote {out}", *lines(measured)]))
