"""The peak of every stage of an answer, predicted: manifest, this process, the video and the choices -> bytes. Pure.

The resident set has its peak in one stage, so what is counted is what stands in memory then, stage by stage:

* inductor: what the process holds, the Inductor, its activations for a question of the greatest length.
* vision: decoder and index, frames as RGB (a chunk, and three more while one is converted, or a single one and its
  copy; where decoding runs ahead, the next chunk too), the chunk as the encoder's input, the encoder's and the
  projector's activations for that chunk, patch features kept for later, visual tokens. Still images are here too.
* language: visual tokens, the model with every page of its file, key-value cells (exact: layers x heads x widths x
  bytes x cells), llama.cpp's buffers for that many cells.

What an engine holds and how its activations grow with the chunk was measured when the bundle was made, or by a
calibration on this device (figures.py).
Added to what is yet to come are 5% and 4 MiB: the C library keeps some of what is freed, and CPUs differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tam_edge.runtime.budget import MIB
from tam_edge.runtime.engines import choose_engine
from tam_edge.runtime.engines.llamacpp import cells_for
from tam_edge.runtime.figures import code_bytes, memory_of, running_bytes, threads_bytes, ways_to_attend
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.language import room_for
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.schema import Attention, EngineSpec
from tam_edge.runtime.standing import Standing
from tam_edge.runtime.tiles import Way, layout_of
from tam_edge.runtime.vision import CHUNK_FRAMES

SPARE_SHARE = 0.05
SPARE_BYTES = 4 * MIB
"""Added to what a stage is yet to take. Engines pack weights by what the CPU can do: those of the shipped bundle,
measured on an EPYC with VNNI, hold 2 MB more on a Xeon with AMX, as long as nobody has calibrated it."""
RGB_BYTES = 3
CONVERTED_FRAMES = 3
"""Frames as RGB beside the chunk: the last one, the one that is converted, and its copy."""
RESIZING_BYTES, STILL_BYTES = 4, 7
"""Per pixel, while a frame is resized: Pillow's copy; a still image may be put into a square first."""
GPU_CONTEXT_BYTES = 512 * MIB
"""What CUDA and its libraries hold on device and host before the first engine. An assumption: not measured yet."""

Needs = dict[str, dict[str, int]]
"""Of each stage what is in memory at its peak, by name; "spare" is the safety."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question about one video, as far as memory is concerned."""

    visual_tokens: int = 0
    """Visual tokens of the plan."""
    frames: int = 1
    """Frames of the plan."""
    grid: int | None = None
    """Its grid; None: the dearest projector counts."""
    images: Way | None = None
    """How still images are seen."""
    before_tokens: int = 0
    """Text before the visual tokens."""
    room_tokens: int = 1
    """Text after them and the longest answer."""
    seen: bool = False
    """Whether the language model holds these frames from an earlier question: then nothing is looked at."""


@dataclass(frozen=True, slots=True)
class Thrift:
    """What is done to need less memory, or more where that saves time; as it stands here, neither."""

    decode_ahead: bool = False
    """Whether the next chunk is decoded while one is encoded."""
    language_beside: bool = False
    """Whether the language model is opened while vision runs."""
    chunk_frames: int = CHUNK_FRAMES
    """Most frames decoded and encoded at once."""
    decoder_threads: int | None = None
    """Threads of the decoder; None: as many as the engines have."""
    in_turn: bool = False
    """Whether vision is closed before the language model opens, and the other way round."""
    close_inductor: bool = False
    """Whether the Inductor is closed once it has classified."""
    stays_open: bool = False
    """Whether every engine stays open whatever that takes: a live session looks on. Nothing is closed then."""
    features_bytes: int = 64 * MIB
    """Most patch features kept for later questions."""
    attention: int = 0
    """How far down the ways to attend are gone: 0 is what the model does by itself, then flash, then 8-bit cells."""
    no_spare_cells: bool = False
    """Whether there are cells for this question only, so that a longer one looks at the video again."""


def stage_needs(manifest: Manifest, standing: Standing, info: VideoInfo | None, case: Case, thrift: Thrift) -> Needs:
    """What each stage of an answer holds at its peak; `info` None: no video is decoded.

    Raises: EngineError if no engine of a role fits this device.
    """
    stages = {"inductor": dict(_inductor(manifest, standing))}
    if not case.seen:
        stages["vision"] = dict(_vision(manifest, standing, info, case, thrift))
    stages["language"] = dict(_language(manifest, standing, case, thrift))
    return {name: _with_process(parts, standing) for name, parts in stages.items()}


def stage_bytes(needs: Needs) -> dict[str, int]:
    """What must fit under the ceiling at the peak of each stage: the process, and something spare."""
    return {stage: sum(parts.values()) for stage, parts in needs.items()}


def expected_bytes(needs: Needs) -> dict[str, int]:
    """What each stage is expected to reach: the same without what is spared for being wrong."""
    return {stage: sum(size for name, size in parts.items() if name != "spare") for stage, parts in needs.items()}


def attention_of(manifest: Manifest, case: Case, thrift: Thrift) -> tuple[int, Attention]:
    """Key-value cells that are reserved, and how the language model attends to them."""
    prefix = case.before_tokens + case.visual_tokens
    cells = cells_for(room_for(manifest, prefix, case.room_tokens, spare=not thrift.no_spare_cells))
    ways = ways_to_attend(memory_of(_language_engine(manifest)), cells)
    return cells, ways[min(thrift.attention, len(ways) - 1)]


def _with_process(parts: dict[str, int], standing: Standing) -> dict[str, int]:
    """Beside what a stage adds, the rest of the process: what is open and has not been closed is in `parts`."""
    there = {name: size for name, size in parts.items() if name in standing.open_bytes}
    held = sum(standing.open_bytes.values()) + (standing.features_bytes if "features" in parts else 0)
    held += standing.video_bytes if "decoder" in parts else 0
    process = max(0, standing.resident_bytes - held) + standing.to_import_bytes
    to_come = sum(parts.values()) - sum(min(size, standing.open_bytes[name]) for name, size in there.items())
    to_come -= min(standing.features_bytes, parts.get("features", 0))
    to_come -= min(standing.video_bytes, parts.get("index", 0) + parts.get("decoder", 0))
    if standing.gpu:
        parts = parts | {"gpu": GPU_CONTEXT_BYTES}
    return {"process": process, **parts, "spare": round(max(0, to_come) * SPARE_SHARE) + SPARE_BYTES}


def _inductor(manifest: Manifest, standing: Standing) -> Iterator[tuple[str, int]]:
    spec = _inductor_engine(manifest)
    memory = memory_of(spec)
    opened = memory.open_bytes + threads_bytes(standing.threads)
    running = running_bytes(memory, "run", manifest.inductor.max_tokens)
    yield from standing.open_bytes.items()
    if "inductor" in standing.open_bytes:  # it has run: what it took while it did is past
        return
    yield "inductor", max(memory.opening_bytes, opened + running)
    yield "code", _code(standing, spec)


def _vision(
    manifest: Manifest, standing: Standing, info: VideoInfo | None, case: Case, thrift: Thrift
) -> Iterator[tuple[str, int]]:
    chunk = thrift.chunk_frames if case.images else max(1, min(thrift.chunk_frames, case.frames))
    if not thrift.close_inductor:
        yield "inductor", _inductor_open(manifest, standing)
    engines = _vision_engines(manifest, case)
    if "language" in standing.open_bytes and not thrift.in_turn:
        yield "language", standing.open_bytes["language"]
    elif thrift.language_beside and not thrift.in_turn:
        engines.append(_language_engine(manifest))
        yield "language", max(memory_of(engines[-1]).opening_bytes, _language_open(engines[-1], standing))
    yield "vision", _vision_open(manifest, standing, case)
    yield "code", _code(standing, *engines)
    decoder = None if info is None else info.decoder
    threads = _threads(standing, thrift)
    decoding = 0 if decoder is None else decoder.total_bytes(threads)
    index = 0 if decoder is None else decoder.index_bytes
    yield "index", index
    yield "decoder", decoding - index
    stays_open = standing.video_bytes and threads == standing.threads
    opening = 0 if decoder is None or stays_open else decoder.opening_bytes - decoding  # past before there are frames
    following = min(chunk, case.frames - chunk) if thrift.decode_ahead and case.images is None else 0
    closed = decoding if case.images is None and case.frames <= chunk else 0
    yield "frames", max(opening, _frames_bytes(manifest, info, case, chunk, following, closed))
    yield "features", _features(manifest, standing, case, thrift)
    yield "tokens", 2 * _tokens_bytes(manifest, case)


def _frames_bytes(
    manifest: Manifest, info: VideoInfo | None, case: Case, chunk: int, following: int, closed: int
) -> int:
    """The larger of two moments: a chunk's last frame is converted, or the whole chunk runs through the encoder.

    Both may come at once where `following` frames are decoded meanwhile. Where all frames are one chunk the decoder is
    closed before they are encoded, and so many bytes with it.
    """
    encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
    frame_pixels = 0 if info is None else info.width_px * info.height_px
    together, crops = chunk, 0
    if case.images is not None and info is not None:
        together, crops = 1, _crops(manifest, info, case)
        chunk = min(chunk, crops)
    input_bytes = chunk * 3 * encoder.image_px**2 * 4
    encoding = input_bytes + running_bytes(memory_of(_encoders(manifest)[0]), "run", chunk)
    projecting = max((running_bytes(memory_of(spec), "run", 1) for spec in _projectors(manifest, case)), default=0)
    tokens = encoder.grid_side**2 * manifest.language.embedding_width * 4
    still = crops * (RGB_BYTES * encoder.image_px**2 + 2 * tokens)
    rgb, resizing = RGB_BYTES * frame_pixels, (STILL_BYTES if case.images else RESIZING_BYTES) * frame_pixels
    working = max(resizing + input_bytes, encoding, projecting) + still
    alone = case.images is None and case.frames == 1
    converting = 2 if alone else together + CONVERTED_FRAMES  # a single one and its copy
    serial = max(converting * rgb, (together + 1) * rgb + working - closed)
    if not following:
        return serial
    # while the last of those that follow is converted its place is still empty: it has not been written to
    return max(serial, (together + following + CONVERTED_FRAMES - 1) * rgb + working)


def _crops(manifest: Manifest, info: VideoInfo, case: Case) -> int:
    if case.images == "whole":
        return 1
    rows, columns = layout_of(info.still_sizes_px[0], manifest).tiles
    return 1 + rows * columns


def _language(manifest: Manifest, standing: Standing, case: Case, thrift: Thrift) -> Iterator[tuple[str, int]]:
    spec = _language_engine(manifest)
    memory = memory_of(spec)
    if case.seen:
        yield from standing.open_bytes.items()
        return
    # closed after its last frame, unless every frame was among the features kept
    yield "decoder", standing.video_bytes if standing.features_bytes else 0
    cells, way = attention_of(manifest, case, thrift)
    if not thrift.close_inductor:
        yield "inductor", _inductor_open(manifest, standing)
    if not thrift.in_turn:
        yield "vision", _vision_open(manifest, standing, case)
    running = memory.cell_bytes.get(way, 0) * cells + running_bytes(memory, way, cells)
    yield "language", max(memory.opening_bytes, _language_open(spec, standing) + running)
    yield "code", _code(standing, spec, *_vision_engines(manifest, case))
    yield "features", _features(manifest, standing, case, thrift)
    yield "tokens", _tokens_bytes(manifest, case)


def _language_open(spec: EngineSpec, standing: Standing) -> int:
    """The language model before its first token, every page of its file counted."""
    return max(memory_of(spec).open_bytes, spec.size_bytes) + threads_bytes(standing.threads)


def _vision_engines(manifest: Manifest, case: Case) -> list[EngineSpec]:
    return _encoders(manifest) + _projectors(manifest, case)


def _inductor_open(manifest: Manifest, standing: Standing) -> int:
    memory = memory_of(_inductor_engine(manifest))
    return standing.open_bytes.get("inductor", memory.open_bytes + threads_bytes(standing.threads))


def _vision_open(manifest: Manifest, standing: Standing, case: Case) -> int:
    """Encoders and one projector; those of other grids may be open from earlier questions."""
    memories = [memory_of(spec) for spec in _encoders(manifest)]
    projectors = [memory_of(spec) for spec in _projectors(manifest, case)]
    dearest = max(projectors, key=lambda memory: memory.opening_bytes, default=None)
    opened = sum(memory.open_bytes + threads_bytes(standing.threads) for memory in memories)
    opened += 0 if dearest is None else dearest.open_bytes + threads_bytes(standing.threads)
    return max(standing.open_bytes.get("vision", 0), opened, *(memory.opening_bytes for memory in memories))


def _projectors(manifest: Manifest, case: Case) -> list[EngineSpec]:
    if case.images is not None and manifest.images is not None:
        return [_fitting("images.projector", manifest.images.projector)]
    grids = manifest.projectors if case.grid is None else [case.grid]
    known = {grid: manifest.projectors[grid].engines for grid in grids if grid in manifest.projectors}
    return [_fitting(f"projectors.{grid}.engines", engines) for grid, engines in known.items()]


def _encoders(manifest: Manifest) -> list[EngineSpec]:
    """Engines of the encoders that the first strategy names."""
    return [
        _fitting(f"encoders.{name}.engines", manifest.encoders[name].engines)
        for name in manifest.strategies[0].encoders
    ]


def _inductor_engine(manifest: Manifest) -> EngineSpec:
    """The Inductor's engine that is opened here."""
    return _fitting("inductor.engines", manifest.inductor.engines)


def _language_engine(manifest: Manifest) -> EngineSpec:
    """The language model's engine that is opened here."""
    return _fitting("language.engines", manifest.language.engines)


def _fitting(field: str, specs: tuple[EngineSpec, ...]) -> EngineSpec:
    return choose_engine(field, specs).spec


def _features(manifest: Manifest, standing: Standing, case: Case, thrift: Thrift) -> int:
    encoder = manifest.encoders[manifest.strategies[0].encoders[0]]
    new = 0 if case.seen or case.images is not None else case.frames * encoder.grid_side**2 * encoder.width * 4
    return min(thrift.features_bytes, standing.features_bytes + new)


def _tokens_bytes(manifest: Manifest, case: Case) -> int:
    return case.visual_tokens * manifest.language.embedding_width * 4


def _threads(standing: Standing, thrift: Thrift) -> int:
    return standing.threads if thrift.decoder_threads is None else min(thrift.decoder_threads, standing.threads)


def _code(standing: Standing, *specs: EngineSpec) -> int:
    """Code of the libraries that these engines read in and earlier ones have not."""
    return sum(max(0, size - standing.code_bytes.get(backend, 0)) for backend, size in code_bytes(specs).items())
