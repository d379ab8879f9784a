"""A bundle becomes a smaller one, and what that cost is measured: the stages in order, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tam_edge.quant.agreement import accuracy, agreement
from tam_edge.quant.baseline import Reference, references, stage_errors
from tam_edge.quant.bundle import IMAGES, SCRATCH, building, engine_bytes, fill, stand_in, with_engines
from tam_edge.quant.candidates import LANGUAGE, PROJECTORS, VISION, fitting, peak_bytes
from tam_edge.quant.chain import Chain
from tam_edge.quant.imatrix import Part, measure
from tam_edge.quant.parts import Made, Workbench, make_language, make_projectors, make_vision
from tam_edge.quant.request import Request
from tam_edge.quant.samples import Material, Sample, check_videos, given, limited, samples, street
from tam_edge.quant.speed import compare_speed
from tam_edge.runtime.bundle import Bundle, load_bundle
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import EngineSpec

SCHEMA_VERSION = 1
Progress = Callable[[str], None]
"""Told what is done next, in a few words."""


def quantise(request: Request, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Write the new bundle; returns everything that was measured, as the JSON of the report.

    Raises:
        UsageError: something that cannot be done with this bundle.
        BundleError, EngineError: a file that is not what it says.
        MemoryLimitError: `target_bytes` is too little for the smallest types.
        TamEdgeError: the new bundle cannot be written.
    """
    request.check()
    source = load_bundle(request.bundle)
    with ExitStack() as stack:
        material = stack.enter_context(_material(request))
        compared = limited(given(request.compare, request.ask), request.samples) if request.compare else material
        check_videos(compared)
        with building(source, request.out) as folder:
            found = samples(source, material, threads=request.threads, progress=progress)
            with Chain(source, request.threads) as original:
                made = references(original, found, progress)
                report = _build(request, source, folder, original, made, material.what, progress)
        load_bundle(request.out, verify=True)
        paths = (source.path, request.out)
        report["agreement"] = agreement(*paths, compared, threads=request.threads, progress=progress)
    report["accuracy"] = None
    if request.videos:
        report["accuracy"] = accuracy(
            *paths, videos=request.videos, seed=request.seed, threads=request.threads, progress=progress
        )
    return report


def _build(
    request: Request,
    source: Bundle,
    folder: Path,
    original: Chain,
    made: Sequence[Reference],
    calibrated_on: str,
    progress: Progress,
) -> dict[str, Any]:
    scratch = stand_in(source, folder / SCRATCH)
    bench = Workbench(
        source, scratch.path, [one.sample for one in made], [one.features for one in made],
        request.error_most, request.threads, progress,
    )  # fmt: skip
    imatrix = _importance(request, source, scratch.path, made, progress)
    parts = _asked(request, bench, imatrix)
    target: dict[str, Any] | None = None
    if request.target_bytes is not None:
        choice, taken, options = fitting(bench, scratch, made, parts, imatrix, request.target_bytes)
        parts |= taken
        target = {"device_bytes": request.target_bytes, **asdict(choice), "options": [asdict(one) for one in options]}
    engines = {role: engine for part in parts.values() for role, engine in part.engines.items()}
    manifest = _named(with_engines(source.manifest, engines), source.manifest, parts)
    new = fill(source, folder, manifest)
    progress("comparing the two, stage by stage")
    with Chain(new, request.threads) as chain:
        errors = stage_errors(chain, made)
        speed = compare_speed(original, chain, _fastest_to_time([one.sample for one in made]))
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"name": source.manifest.name, "version": source.manifest.version},
        "out": str(request.out),
        "asked": request.asked,
        "calibrated_on": {"what": calibrated_on, "questions": len(made)},
        "files": list(_files(source.manifest, manifest)),
        "size": _size(source.manifest, manifest),
        "peak": {part: _pair(source.manifest, manifest, part) for part in (VISION, PROJECTORS, LANGUAGE)},
        "details": {role: detail for part in parts.values() for role, detail in part.details.items()},
        "stages": errors,
        "speed": speed,
        "target": target,
    }


def _asked(request: Request, bench: Workbench, imatrix: Path | None) -> dict[str, Made]:
    parts: dict[str, Made] = {}
    if request.vision or request.experts:
        parts[VISION] = make_vision(bench, request.vision, request.experts)
    if request.projectors:
        parts[PROJECTORS] = make_projectors(bench, request.projectors)
    if request.language:
        parts[LANGUAGE] = make_language(bench, request.language, imatrix)
    return parts


def _importance(
    request: Request, source: Bundle, folder: Path, made: Sequence[Reference], progress: Progress
) -> Path | None:
    """The file given, or one measured on the calibration prompts and the original's answers where videos are given."""
    if request.imatrix is not None:
        return request.imatrix
    rounds = request.target_bytes is not None or request.language not in (None, "f16", "Q8_0")
    if not request.calibrate or not rounds:
        return None
    language = source.manifest.language
    prompts: list[list[Part]] = [
        [one.sample.prompt.before, one.tokens, [*one.sample.prompt.after, *one.ids]] for one in made
    ]
    gguf = source.file(language.engines[0])
    words = f"{len(made)} prompts with visual tokens"
    path = folder / "imatrix.gguf"
    longest = -(-max(sum(map(len, prompt)) for prompt in prompts) // 256) * 256
    measure(gguf, prompts, context=longest, threads=request.threads, source=words, progress=progress).save(path)
    return path


@contextmanager
def _material(request: Request) -> Iterator[Material]:
    if request.calibrate:
        yield limited(given(request.calibrate, request.ask), request.samples)
        return
    with street() as material:
        yield limited(material, request.samples)


def _named(manifest: Manifest, old: Manifest, parts: Mapping[str, Made]) -> Manifest:
    """The manifest with a name of its own, and with parity figures only of files that are still there."""
    gone = {VISION: ("vision", "image"), PROJECTORS: ("projector", "image"), LANGUAGE: ("language",)}
    prefixes = tuple(prefix for part in parts for prefix in gone[part])
    if parts:
        prefixes += ("language_answers", "language_questions")  # were answered by all parts together
    parity = {key: value for key, value in old.parity.items() if not (prefixes and key.startswith(prefixes))}
    if parts and "verified" in parity:
        parity["verified"] = f"{parity['verified']}; before it was quantised"
    for part in parts.values():
        for role, detail in part.details.items():
            if "error" in detail:
                parity[f"quantised_{role.replace(' ', '_')}_error"] = round(detail["error"], 6)
    kinds = dict.fromkeys(engine.precision for part in parts.values() for engine in part.engines.values())
    name = f"{old.name}+{'+'.join(kinds)}".replace(", ", "+").replace(" ", "-")
    return manifest.model_copy(update={"name": name[:200], "parity": parity})


def _files(old: Manifest, new: Manifest) -> Iterator[dict[str, Any]]:
    """Every role's first engine in both: what a device opens. Sizes include the weights beside a graph."""
    for role, before, after in _roles(old, new):
        yield {
            "role": role,
            **{
                who: {
                    "file": spec.file,
                    "precision": spec.precision,
                    "size_bytes": engine_bytes(spec),
                    "peak_bytes": spec.peak_bytes,
                }
                for who, spec in (("old", before), ("new", after))
            },
        }


def _roles(old: Manifest, new: Manifest) -> Iterator[tuple[str, EngineSpec, EngineSpec]]:
    yield "inductor", old.inductor.engines[0], new.inductor.engines[0]
    for name, encoder in old.encoders.items():
        yield f"encoder {name}", encoder.engines[0], new.encoders[name].engines[0]
    for grid, projector in old.projectors.items():
        yield f"projector {grid}", projector.engines[0], new.projectors[grid].engines[0]
    if old.images is not None and new.images is not None:
        yield IMAGES, old.images.projector[0], new.images.projector[0]
    yield "language", old.language.engines[0], new.language.engines[0]


def _size(old: Manifest, new: Manifest) -> dict[str, Any]:
    """Of the same files; one that has two roles counts once."""
    before = sum({engine.file: engine_bytes(engine) for _, engine, _ in _roles(old, new)}.values())
    after = sum({engine.file: engine_bytes(engine) for _, _, engine in _roles(old, new)}.values())
    return {"old_bytes": before, "new_bytes": after, "smaller": round(before / after, 3)}


def _pair(old: Manifest, new: Manifest, part: str) -> dict[str, int]:
    return {"old_bytes": peak_bytes(old, part), "new_bytes": peak_bytes(new, part)}


def _fastest_to_time(found: Sequence[Sample]) -> Sample:
    """The sample with the fewest frames, and of those the first: at full size a frame takes seconds."""
    return min(found, key=lambda sample: sample.plan.frames)
