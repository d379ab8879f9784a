"""How long a clip is, from its last packets rather than from what its header says; nothing is decoded.

A header counts decoding times (seconds off for variable frame rates with B-frames), or the sound, or says nothing. It
is believed where the packets that it promises are missing: then the clip was cut short, and should say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.clock import Clock
from tam_edge.runtime.container import ISO_MEDIA, SEEKABLE, open_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

CUT_SECONDS = 0.5
"""A clip that ends this much before its stated end was cut short."""
_CLAIM_SECONDS = 1  # a container may be off by this much before it is worth a note: it counts the sound too
_TAIL_SECONDS = 2  # the search for the last frame starts this long before the stated end
_TAIL_PACKETS = 32  # or this many packets, where there is an index: more than any encoder reorders
_MOST_PACKETS = 2_000_000  # 18 hours at 30 frames per second; seconds to read


@dataclass(frozen=True, slots=True)
class Extent:
    """Length of a clip."""

    duration_seconds: float
    """From the first frame shown to the end of the last."""
    frame_count: int | None
    """As the container counts them, or as counted while looking for the end; None if neither."""
    notes: tuple[str, ...] = ()
    """What a person should know about it."""


class _End(NamedTuple):
    tick: int  # at which the last frame ends
    packets: int  # read to find it


def clip_extent(path: Path, source: str, container: InputContainer, stream: VideoStream, clock: Clock) -> Extent:
    """Find the end of the last frame; moves the read position of `container`.

    Raises:
        VideoError: the file cannot be opened again.
    """
    stated = stream.duration if clock.timed and stream.duration else None
    claimed_seconds = container.duration / 1_000_000 if clock.timed and container.duration else None
    if container.format.name not in SEEKABLE:
        return (
            Extent(float(stated * clock.time_base), stream.frames or None) if stated else _counted(path, source, clock)
        )
    if stated:
        tail = _tail(container, stream, clock, clock.origin_tick + stated)
        count = _frame_count(container, stream)
        if _cut_short(container, stream, clock, tail, clock.origin_tick + stated):
            return Extent(float(stated * clock.time_base), count)
        return Extent(clock.seconds_at(tail.tick), count)
    if claimed_seconds:
        tail = _tail(container, stream, clock, clock.ticks(claimed_seconds))
        if tail.packets:
            return Extent(clock.seconds_at(tail.tick), None, _notes(claimed_seconds, tail.tick, clock))
    return _counted(path, source, clock, claimed_seconds)


def _tail(container: InputContainer, stream: VideoStream, clock: Clock, stated_end: int) -> _End:
    import av

    index = stream.index_entries
    try:
        if container.format.name == ISO_MEDIA and len(index):
            start = index[max(0, len(index) - _TAIL_PACKETS)].timestamp
            container.seek(start, stream=stream, any_frame=True)
        else:
            container.seek(stated_end - clock.ticks(_TAIL_SECONDS), stream=stream)
    except av.FFmpegError:
        return _End(clock.origin_tick, 0)
    return _end_of(container, stream, clock)


def _cut_short(container: InputContainer, stream: VideoStream, clock: Clock, tail: _End, stated_end: int) -> bool:
    index = stream.index_entries
    if container.format.name == ISO_MEDIA and len(index):
        stated_end = index[-1].timestamp  # a decoding time, so a whole clip ends later
    return not tail.packets or tail.tick + clock.ticks(CUT_SECONDS) < stated_end


def _frame_count(container: InputContainer, stream: VideoStream) -> int | None:
    if container.format.name != ISO_MEDIA:
        return stream.frames or None
    index = stream.index_entries
    if len(index) and index[0].is_discard:  # an edit list hides the beginning
        return sum(not entry.is_discard for entry in index)
    return max(stream.frames, len(index))  # the header of a fragmented file counts its first fragment only


def _counted(path: Path, source: str, clock: Clock, claimed_seconds: float | None = None) -> Extent:
    container, stream = open_stream(path, source, threads=1)
    with container:
        end = _end_of(container, stream, clock)
    seconds = clock.seconds_at(end.tick)
    if end.packets == _MOST_PACKETS:
        return Extent(seconds, end.packets, (f"It does not say how long it is: only {seconds:.0f} s are looked at.",))
    return Extent(seconds, end.packets, _notes(claimed_seconds, end.tick, clock))


def _end_of(container: InputContainer, stream: VideoStream, clock: Clock) -> _End:
    """Read all packets from here on; with B-frames the last one read need not be the last one shown."""
    latest = tick = clock.origin_tick
    count = 0
    for count, packet in enumerate(_packets(container, stream), start=1):
        start = packet.pts if clock.timed and packet.pts is not None else tick
        if start >= latest:
            latest, tick = start, start + clock.lasts(packet)
        if count == _MOST_PACKETS:
            break
    return _End(tick, count)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    import av

    try:
        yield from (packet for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
    except av.FFmpegError:
        return  # what cannot be read ends the clip


def _notes(claimed_seconds: float | None, end: int, clock: Clock) -> tuple[str, ...]:
    seconds = float(end * clock.time_base)
    if claimed_seconds is None or seconds > claimed_seconds - _CLAIM_SECONDS:
        return ()
    return (f"The file says it lasts {claimed_seconds:.1f} s, its pictures end after {seconds:.1f} s.",)
