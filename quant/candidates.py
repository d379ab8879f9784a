"""Every type of every part, made and measured, for `--target` to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tam_edge.quant.baseline import Reference, divergence_of
from tam_edge.quant.bundle import with_engines
from tam_edge.quant.chain import Chain
from tam_edge.quant.language import TYPES
from tam_edge.quant.parts import Made, Workbench, make_language, make_projectors, make_vision
from tam_edge.quant.target import Choice, Option, choose
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import Manifest

AS_IS = "as it is"
"""The type of a part that is not changed."""
VISION, PROJECTORS, LANGUAGE = "vision", "projectors", "language"


def fitting(
    bench: Workbench,
    stand_in: Bundle,
    made: Sequence[Reference],
    fixed: Mapping[str, Made],
    imatrix: Path | None,
    device_bytes: int,
) -> tuple[Choice, dict[str, Made], list[Option]]:
    """Choose types for the parts that are not in `fixed`; also returns what was made of each, and every option.

    `stand_in` is the bundle that candidates are tried in; its folder is the workbench's.

    Raises:
        MemoryLimitError: nothing fits.
    """
    makers = {part: some for part, some in _makers(bench, imatrix).items() if part not in fixed}
    found: dict[tuple[str, str], Made] = {}
    options: dict[str, list[Option]] = {}
    for part, kinds in makers.items():
        options[part] = [Option(part, AS_IS, peak_bytes(stand_in.manifest, part), 0.0)]
        for kind, make in kinds.items():
            bench.progress(f"trying {part} {kind}")
            try:
                candidate = make()
            except UsageError as reason:  # nothing to make smaller: this part has no such choice
                bench.progress(f"{part} {kind} is no choice: {reason}")
                continue
            found[part, kind] = candidate
            changed = Bundle(stand_in.path, with_engines(stand_in.manifest, candidate.engines))
            with Chain(changed, bench.threads) as chain:
                error = divergence_of(chain, made, part)
            options[part].append(Option(part, kind, peak_bytes(changed.manifest, part), error))
    engines = {role: engine for one in fixed.values() for role, engine in one.engines.items()}
    settled = with_engines(stand_in.manifest, engines)
    other = settled.inductor.engines[0].peak_bytes + sum(peak_bytes(settled, part) for part in fixed)
    choice = choose(options, other, device_bytes)
    taken = {part: found[part, kind] for part, kind in choice.kinds.items() if kind != AS_IS}
    return choice, taken, [option for some in options.values() for option in some]


def _makers(bench: Workbench, imatrix: Path | None) -> dict[str, dict[str, Callable[[], Made]]]:
    makers: dict[str, dict[str, Callable[[], Made]]] = {
        VISION: {
            "int8": lambda: make_vision(bench, "int8", "int8"),
            "int4": lambda: make_vision(bench, "int4", "int4"),
        },
        LANGUAGE: {
            kind: lambda kind=kind: make_language(bench, kind, imatrix)  # type: ignore[misc]
            for kind in TYPES
            if kind != "f16"
        },
    }
    if bench.source.manifest.projectors:
        makers[PROJECTORS] = {"int8": lambda: make_projectors(bench, "int8")}
    return makers


def peak_bytes(manifest: Manifest, part: str) -> int:
    """Memory of a part as the manifest has it; of several projectors one runs at a time."""
    if part == LANGUAGE:
        engine = manifest.language.engines[0]
        return max(engine.peak_bytes, engine.size_bytes)  # every page of the mapped file may count
    specs = manifest.encoders if part == VISION else manifest.projectors
    peaks = [spec.engines[0].peak_bytes for spec in specs.values()]
    return sum(peaks) if part == VISION else max(peaks, default=0)
