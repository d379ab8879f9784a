"""Frames by reading on: every packet is decoded, in order. What any faster way finds has to be what this one finds."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.beside import check_wanted
from tam_edge.runtime.container import ISO_MEDIA, OpenFile
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.extent import CUT_SECONDS
from tam_edge.runtime.probe import Probe

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class Timed(NamedTuple):
    """A decoded frame and when it appears, in ticks of its container."""

    tick: int
    """When it appears."""
    frame: VideoFrame
    """The frame, as it was stored."""


class Place(NamedTuple):
    """A packet that decoding may start with, and the way to it."""

    seek_tick: int | None
    """What to ask the container for; None is the beginning of the file."""
    tick: int | None
    """When its frame appears; None is the first packet there, whatever it is."""


BEGINNING = Place(None, None)
"""Where every file can be read from."""


class ReadThrough:
    """A decoder that only moves forward, through every packet."""

    def __init__(self, file: OpenFile, source: str, facts: Probe, place: Place = BEGINNING) -> None:
        """Take over an open file and go to `place`."""
        self._file, self._source, self._facts, self._clock = file, source, facts, facts.clock
        self._ahead = self._decoded(place)
        self._shown: Timed | None = None
        self._next = next(self._ahead, None)

    def shown_at(self, limit: int) -> Timed | None:
        """Return the last frame that appears by tick `limit`, the first frame if none; None past the end of a cut clip.

        Raises:
            VideoError: no frame can be decoded any more.
        """
        while self._next is not None and (self._shown is None or self._next.tick <= limit):
            self._shown, self._next = self._next, next(self._ahead, None)
        if self._shown is None:
            raise VideoError(self._source, "holds no frame that can be decoded any more: was it changed?")
        return None if self._next is None and broke_off(self._shown, limit, self._facts) else self._shown

    @property
    def tick(self) -> int | None:
        """When the next frame appears; None at the end."""
        return None if self._next is None else self._next.tick

    def close(self) -> None:
        """Close the file."""
        self._file.container.close()

    def _decoded(self, place: Place) -> Iterator[Timed]:
        """Yield frames in rising order; those before the place lean on what comes before it and are left out."""
        due = self._clock.origin_tick if place.tick is None else place.tick
        last = due - 1
        for packet in packets_from(self._file, place):
            for frame in _frames_of(packet):
                stamp = self._clock.stamp(frame)
                tick = due if stamp is None else stamp
                if tick > last:
                    yield Timed(tick, frame)
                    last, due = tick, tick + self._clock.lasts(frame)


def broke_off(last: Timed, limit: int, facts: Probe) -> bool:
    """Whether a clip whose last frame is given broke off before `limit`, rather than ended with it on screen."""
    end = last.tick + facts.clock.lasts(last.frame)
    stated_end = facts.clock.origin_tick + facts.clock.ticks(facts.extent.duration_seconds)
    return limit >= end and end + facts.clock.ticks(CUT_SECONDS) < stated_end


def packets_from(file: OpenFile, place: Place) -> Generator[Packet[VideoStream], None, None]:
    """Yield the packets of a stream from a place on, the last one empty; what cannot be read ends the clip."""
    import av

    container, stream = file
    try:
        if place.seek_tick is not None:
            container.seek(place.seek_tick, stream=stream)
        elif container.format.name == ISO_MEDIA and len(stream.index_entries):  # it may have been read from before
            # Just before it: of packets with the same time the last one would be found.
            container.seek(stream.index_entries[0].timestamp - 1, stream=stream, any_frame=True)
        found = place.tick is None
        for packet in container.demux(stream):
            check_wanted()
            found = found or (packet.pts == place.tick and packet.is_keyframe)
            if found:
                yield packet
    except av.FFmpegError:
        return


def _frames_of(packet: Packet[VideoStream]) -> list[VideoFrame]:
    import av

    if packet.is_corrupt:  # half a packet would decode to half a picture
        return []
    try:
        return packet.decode()
    except av.FFmpegError:
        return []
