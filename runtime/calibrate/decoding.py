"""What decoding takes, by codec: frames on the way, frames that are shown, packets passed over, a file opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median

from tam_edge.runtime.calibrate.fitting import DecodedSample, decoder_cost, line
from tam_edge.runtime.calibrate.specimen import FRAMES, SIZES_PX, make_specimen, make_still, specimens
from tam_edge.runtime.calibrate.stopwatch import Book, rounds
from tam_edge.runtime.container import open_stream
from tam_edge.runtime.rates import DecoderCost, Line
from tam_edge.runtime.readthrough import BEGINNING, packets_from
from tam_edge.runtime.video import Video, open_video

CHUNK_FRAMES = 4


@dataclass(frozen=True, slots=True)
class DecodingCosts:
    """What was measured."""

    codecs: dict[str, DecoderCost]
    """By FFmpeg's name of the decoder; "image" for still images."""
    converting: Line
    """One frame as RGB, by millions of pixels."""
    file_ms: float
    """Opening a file again."""
    packet_ms: float
    """Reading a packet that is not decoded."""


@dataclass(frozen=True, slots=True)
class _Clip:
    codec: str
    sample: DecodedSample
    measured: list[float]  # of a frame
    shown_ms: float  # of a frame as RGB
    opened_ms: float


def measure_decoding(threads: int, folder: Path, book: Book, progress: Callable[[str], None]) -> DecodingCosts:
    """Encode clips into `folder` and decode them with so many threads."""
    clips, codecs = list[_Clip](), dict[str, DecoderCost]()
    packets = list[float]()
    for encoder, some in groupby(specimens(), key=lambda specimen: specimen.encoder):
        progress(f"decoding what {encoder} has encoded")
        paths = [make_specimen(specimen, folder) for specimen in some]
        found = [_measured(path, threads) for path in paths]
        packets += _packets_ms(paths[0])
        codecs[found[0].codec] = cost = decoder_cost([clip.sample for clip in found])
        for clip in found:
            figure = cost.at(1e6 * clip.sample.megapixels, 1e3 * clip.sample.kilobytes)
            book.note("decode", clip.measured, figure)
        clips += found
    progress("decoding still images")
    codecs["image"] = _still_cost(folder, book)
    converting = line([(clip.sample.megapixels, max(clip.shown_ms, 1e-3)) for clip in clips])
    return DecodingCosts(codecs, converting, median(clip.opened_ms for clip in clips), median(packets))


def _measured(path: Path, threads: int) -> _Clip:
    with closing(open_video(str(path), threads=threads)) as video:
        info = video.info
        first = [0.0]
        last = [(FRAMES - 0.5) / 25]
        every = [(number + 0.5) / 25 for number in range(FRAMES)]
        opened, alone, all_ms = (rounds(partial(_take, video, times)) for times in (first, last, every))
    on_the_way = [max(1e-3, (ms - min(opened)) / (FRAMES - 1)) for ms in alone]
    sample = DecodedSample(info.width_px * info.height_px / 1e6, path.stat().st_size / FRAMES / 1e3, median(on_the_way))
    shown_ms = max(0.0, (median(all_ms) - median(alone)) / (FRAMES - 1))
    assert info.codec is not None
    return _Clip(info.codec, sample, on_the_way, shown_ms, max(0.0, median(opened) - median(on_the_way) - shown_ms))


def _take(video: Video, times: Sequence[float]) -> None:
    for _ in video.frames(times, CHUNK_FRAMES):
        pass


def _packets_ms(path: Path) -> Iterator[float]:
    def read() -> None:
        file = open_stream(path, str(path), 1)
        with file.container:
            for packet in packets_from(file, BEGINNING):
                bytes(packet)

    def opened() -> None:
        open_stream(path, str(path), 1).container.close()

    opening = median(rounds(opened))
    return (max(0.0, ms - opening) / FRAMES for ms in rounds(read))


def _still_cost(folder: Path, book: Book) -> DecoderCost:
    points = list[tuple[float, list[float]]]()
    for size in SIZES_PX:
        with closing(open_video(str(make_still(size, folder)))) as video:
            points.append((size[0] * size[1] / 1e6, rounds(partial(_take, video, [0.0]))))
    found = line([(size, median(took)) for size, took in points])
    for megapixels, took in points:
        book.note("decode", took, found.at(megapixels))
    return DecoderCost(frame_ms=found.fixed_ms, megapixel_ms=found.each_ms, kilobyte_ms=0.0)
