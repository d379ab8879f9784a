"""Find out what a video file is, from its container, its first frame and its last packets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tam_edge.runtime.access import FrameAccess
from tam_edge.runtime.clock import Clock
from tam_edge.runtime.container import INDEXED, ISO_MEDIA, SEEKABLE, OpenFile
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.extent import Extent, clip_extent
from tam_edge.runtime.packets import PacketRules, packet_rules
from tam_edge.runtime.pictures import READ_AHEAD_BYTES, DecoderNeeds, decoder_needs
from tam_edge.runtime.upright import Orientation, orientation

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MOST_PACKETS_BEFORE_A_FRAME = 1000
_MOMENTS = 16  # at which the distance between key frames is looked up
_USUAL_FPS = 25.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first look at a file found."""

    clock: Clock
    """Its times."""
    extent: Extent
    """Its length."""
    seekable: bool
    """Whether frames found after a seek still carry the container's own times."""
    orientation: Orientation
    """How to turn its frames."""
    width_px: int
    """As shown."""
    height_px: int
    """As shown."""
    average_fps: float | None
    """Mean frames per second."""
    codec: str
    """FFmpeg's name of the codec."""
    rules: PacketRules | None
    """How to tell where decoding may start; None if nothing in its codec does."""
    decoder: DecoderNeeds
    """What decoding it takes, in memory."""
    access: FrameAccess
    """How its frames are reached."""


def probe(path: Path, source: str, file: OpenFile) -> Probe:
    """Look at the header, decode the first frame, find the end of the last; moves the read position of `file`.

    Raises:
        VideoError: no frame that can be decoded, or the file cannot be opened a second time where it has no end.
    """
    import av

    container, stream = file
    try:
        first = _first_frame(container, stream)
    except av.FFmpegError as error:
        raise VideoError(source, f"cannot be decoded ({error.strerror}): convert it to H.264 mp4") from None
    if first is None:
        raise VideoError(source, "holds no frame that can be decoded: record or copy it again")
    clock = _clock(container, stream, first)
    turned = orientation(first)
    extent = clip_extent(path, source, container, stream, clock)
    seekable = clock.timed and container.format.name in SEEKABLE
    rules = packet_rules(stream.codec_context)
    read_ahead_bytes = min(READ_AHEAD_BYTES, path.stat().st_size) if seekable and rules is not None else 0
    width, height = (first.height, first.width) if turned.lying else (first.width, first.height)
    return Probe(
        clock=clock,
        extent=extent,
        seekable=seekable,
        orientation=turned,
        width_px=width,
        height_px=height,
        average_fps=_average_fps(extent, stream),
        codec=stream.codec_context.name,
        rules=rules,
        decoder=_decoder_needs(container, stream, first, read_ahead_bytes),
        access=_access(path, file, rules, clock, extent, seekable=seekable),
    )


def _access(
    path: Path, file: OpenFile, rules: PacketRules | None, clock: Clock, extent: Extent, *, seekable: bool
) -> FrameAccess:
    fps = _average_fps(extent, file.stream) or _USUAL_FPS
    indexed = file.container.format.name in INDEXED
    key_seconds = _key_seconds(file.stream, clock, extent) if indexed else None
    if rules is not None and rules.intra_only:
        key_seconds = 1 / fps
    stored = fps * extent.duration_seconds
    return FrameAccess(
        fps=fps,
        frame_bytes=path.stat().st_size / max(1.0, stored),
        key_seconds=key_seconds,
        seekable=seekable and rules is not None,
        indexed=indexed and key_seconds is not None,
    )


def _key_seconds(stream: VideoStream, clock: Clock, extent: Extent) -> float | None:
    """Mean distance between the key frames around some moments, spread evenly over the clip."""
    index, end = stream.index_entries, clock.origin_tick + clock.ticks(extent.duration_seconds)
    if not len(index):
        return None
    apart, last = list[int](), list[int]()
    for i in range(_MOMENTS):
        at = index.search_timestamp(clock.origin_tick + (end - clock.origin_tick) * (2 * i + 1) // (2 * _MOMENTS))
        if at < 0:
            continue
        key = index[at].timestamp
        after = index.search_timestamp(key + 1, backward=False)
        if after >= 0:
            apart.append(index[after].timestamp - key)
        else:
            last.append(end - key)
    found = apart or last  # the clip's end cuts the last distance short
    return max(float(sum(found) * clock.time_base / len(found)), 1 / 1000) if found else None


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    import av

    for count, packet in enumerate(container.demux(stream)):
        try:
            frames = [] if packet.is_corrupt else packet.decode()
        except av.InvalidDataError:
            continue
        if frames:
            return frames[0]
        if count == _MOST_PACKETS_BEFORE_A_FRAME:
            break
    return None


def _decoder_needs(
    container: InputContainer, stream: VideoStream, first: VideoFrame, read_ahead_bytes: int
) -> DecoderNeeds:
    context, bits = stream.codec_context, first.format.padded_bits_per_pixel
    indexed = sum(len(one.index_entries) for one in container.streams) if container.format.name == ISO_MEDIA else 0
    return decoder_needs(
        context.name,
        context.level,
        context.extradata,
        first.width,
        first.height,
        bits,
        indexed,
        reordered=bool(context.has_b_frames),
        read_ahead_bytes=read_ahead_bytes,
    )


def _average_fps(extent: Extent, stream: VideoStream) -> float | None:
    if extent.frame_count and extent.duration_seconds:
        return extent.frame_count / extent.duration_seconds
    return float(stream.average_rate) if stream.average_rate else None


def _clock(container: InputContainer, stream: VideoStream, first: VideoFrame) -> Clock:
    time_base = first.time_base or stream.time_base or Fraction(1, 25)
    rate = stream.average_rate or stream.guessed_rate or 25
    from_dts = container.format.name == "avi"
    stamp = first.dts if from_dts else first.pts
    return Clock(
        time_base=time_base,
        origin_tick=stamp or 0,
        frame_ticks=first.duration or max(1, round(1 / (rate * time_base))),
        from_dts=from_dts,
        timed=stream.start_time is not None,
    )
