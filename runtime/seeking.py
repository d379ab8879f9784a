"""Frames with as little decoding as possible: from key frames that are near, without the frames nobody refers to.

Packets are read ahead of the decoder until it is certain which of them is on screen at the time asked for. What is
then left out changes no other frame: whatever lies before a key frame that decoding may start with, and frames that
nothing refers to and nobody asked for. Each answer is checked by its time stamp; where one does not come out as it
must, `Astray` says so, and the frame has to be found by reading through.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.access import RESTART_FRAMES, SEEK_PACKETS, UNINDEXED_GAP_SECONDS
from tam_edge.runtime.container import INDEXED, ISO_MEDIA, OpenFile
from tam_edge.runtime.packets import PacketRules
from tam_edge.runtime.pictures import READ_AHEAD_BYTES
from tam_edge.runtime.probe import Probe
from tam_edge.runtime.readthrough import BEGINNING, Place, Timed, broke_off, packets_from

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MOST_HELD_PACKETS = 1024
_BACK_SECONDS = 2  # how much before a time to look for a key frame, while the distance between them is not known
_MOST_TRIES = 6
_USUAL_FPS = 25


class Astray(Exception):  # noqa: N818 - no error, but the signal to read through
    """Seeking, or leaving frames out, did not lead to the frame that was asked for; the message says why."""


class Damaged(Astray):
    """What was read on the way is damaged; that does not speak against seeking elsewhere in the file."""


class NoPlace(Astray):
    """Seeking led to no packet that decoding may start with; packets can still be read from the beginning."""


class _Due(NamedTuple):
    tick: int  # of the frame that will be shown
    limit: int  # the tick asked for
    last: bool  # no packet comes after it


class Seeking:
    """A decoder that moves forward and leaves out what it can."""

    def __init__(self, file: OpenFile, facts: Probe, rules: PacketRules, *, may_seek: bool = True) -> None:
        """Take over an open file whose packets obey `rules`; without `may_seek` they are read one after the other."""
        self._facts, self._clock, self._rules, self._may_seek = facts, facts.clock, rules, may_seek
        self._file, self._stream = file, file.stream
        container = file.container.format.name
        self._indexed = container in INDEXED
        self._dts_lead = container == ISO_MEDIA  # by its tables no frame is shown before it is decoded
        self._seek_ticks = self._clock.ticks(SEEK_PACKETS / (facts.average_fps or _USUAL_FPS))
        self._unindexed_gap = self._clock.ticks(UNINDEXED_GAP_SECONDS)
        self._key_distance, self._last_key = 0, self._clock.origin_tick  # the largest seen; where to measure from
        self._newest = self._clock.origin_tick  # tick up to which packets were read
        self._due = deque[_Due]()  # frames that the decoder was given and has not returned
        self._early = deque[Timed]()  # frames that came out before they were asked for, as they may be
        self._shown: Timed | None = None
        self._decoding = False  # whether the decoder was given anything since it was last made ready
        self._begin(BEGINNING, packets_from(self._file, BEGINNING))

    def shown(self, limits: Sequence[int]) -> Iterator[Timed | None]:
        """Yield, for each of the rising ticks, the last frame that appears by it; None past the end of a cut clip.

        Raises:
            Astray: before the first limit whose frame was not found.
        """
        for limit in limits:
            if ticks := self._worth_seeking(limit):
                yield from self._finish()
                self._seek(ticks, limit)
            yield from self._read_to(limit)
            yield from self._answer(limit)
        yield from self._finish()

    def close(self) -> None:
        """Close the file."""
        self._file.container.close()

    def _begin(self, place: Place, packets: Iterator[Packet[VideoStream]]) -> None:
        self.place = place
        """Where what is being decoded starts."""
        self._packets = packets
        self._ahead: deque[Packet[VideoStream]] = deque()  # packets read, not decoded yet
        self._held_bytes = 0  # by those
        self._times: list[int] = []  # in order: when frames of packets read appear, from the last one asked for on
        self._decoding_tick = -math.inf  # of the last packet read
        self._ended = self._damaged = False

    def _worth_seeking(self, limit: int) -> list[int]:
        """Ticks to try, best first, where seeking saves more than reading packets on costs."""
        if not self._may_seek or limit - self._newest <= self._seek_ticks:
            return []
        index = self._stream.index_entries
        if self._indexed and 0 <= index.search_timestamp(limit, any_frame=True) < len(index) - 1:  # it reaches beyond
            keys = list(self._indexed_keys(limit))
            return keys if keys and keys[0] - self._newest > self._seek_ticks else []
        if limit - self._newest <= self._unindexed_gap:
            return []
        back = self._key_distance or self._clock.ticks(_BACK_SECONDS)
        return [limit - back * 2**i for i in range(_MOST_TRIES) if limit - back * 2**i > self._clock.origin_tick]

    def _indexed_keys(self, limit: int) -> Iterator[int]:
        """The nearest key frames by the index; its times may be decoding times, so the nearest may be too late."""
        index, tick = self._stream.index_entries, limit
        for _ in range(_MOST_TRIES):
            at = index.search_timestamp(tick)
            if at < 0:
                return
            yield index[at].timestamp
            tick = index[at].timestamp - 1

    def _seek(self, ticks: Sequence[int], limit: int) -> None:
        for tick in ticks:
            packets = packets_from(self._file, Place(tick, None))
            key = next((packet for packet in packets if packet.is_keyframe and packet.pts is not None), None)
            if key is None or key.pts is None or key.pts > limit or not self._starts(key):
                continue
            if key.pts <= self._newest:
                self._unindexed_gap *= 2
            self._last_key = key.pts
            self._begin(Place(tick, key.pts), packets)
            self._take(key)
            return
        raise NoPlace("seeking led to no place that decoding may start from")

    def _starts(self, packet: Packet[VideoStream]) -> bool:
        return not packet.is_corrupt and not packet.is_discard and self._rules.starts(bytes(packet))

    def _read_to(self, limit: int) -> Iterator[Timed | None]:
        """Read packets until none can come that is shown by `limit`; yield what comes out of the decoder meanwhile."""
        yield from self._leave_out(limit)
        while not self._is_certain(limit):
            packet = next(self._packets, None)
            if packet is None or not packet.size:
                self._ended = True
                return
            self._take(packet)
            if packet.is_keyframe:
                yield from self._leave_out(limit)
            self._forget_before(limit)
            while self._held_bytes > READ_AHEAD_BYTES or len(self._ahead) > _MOST_HELD_PACKETS:
                yield from self._decode_next(limit)

    def _forget_before(self, limit: int) -> None:
        """Drop the times of frames that are off screen by `limit`."""
        del self._times[: max(0, bisect_right(self._times, limit) - 1)]

    def _is_certain(self, limit: int) -> bool:
        """Whether no packet can come any more whose frame is shown by `limit`."""
        if self._ended or (self._dts_lead and self._decoding_tick > limit):
            return True
        return len(self._times) - bisect_right(self._times, limit) > self._rules.reordered_frames

    def _take(self, packet: Packet[VideoStream]) -> None:
        if packet.pts is None:
            raise Astray("some of its packets carry no presentation time")
        self._ahead.append(packet)
        self._held_bytes += packet.size
        self._newest = max(self._newest, packet.pts)
        if packet.dts is not None:
            self._decoding_tick = packet.dts
        if packet.is_keyframe:
            self._key_distance = max(self._key_distance, packet.pts - self._last_key)
            self._last_key = packet.pts
        if not packet.is_discard and (self.place.tick is None or packet.pts >= self.place.tick):
            insort(self._times, packet.pts)

    def _leave_out(self, limit: int) -> Iterator[Timed | None]:
        """Start anew from the last key frame that was read and is shown by `limit`, if that spares enough decoding."""
        ahead = self._ahead
        least = 0 if self._rules.intra_only else RESTART_FRAMES
        at = len(ahead) - 1
        while at > least and not (ahead[at].is_keyframe and (ahead[at].pts or 0) <= limit and self._starts(ahead[at])):
            at -= 1
        if at <= least:
            return
        yield from self._finish()
        for _ in range(at):
            self._held_bytes -= ahead.popleft().size
        tick = ahead[0].pts
        assert tick is not None
        self.place, self._damaged = Place(self.place.seek_tick, tick), False
        del self._times[: bisect_left(self._times, tick)]

    def _answer(self, limit: int) -> Iterator[Timed | None]:
        """Decode until the frame on screen at `limit` is on its way; yield what comes out of the decoder meanwhile."""
        self._forget_before(limit)
        if not self._times or self._times[0] > limit:
            raise Astray("its packets do not come in the order of their times")
        tick = self._times[0]
        due = _Due(tick, limit, self._ended and len(self._times) == 1)
        while self._early and self._early[0].tick < tick:
            self._early.popleft()
        if self._early and self._early[0].tick == tick:
            self._shown = self._early.popleft()
        if self._shown is not None and self._shown.tick == tick and not self._due:
            yield self._unless_cut(self._shown, due)
            return
        self._due.append(due)
        for _ in range(max((i for i, packet in enumerate(self._ahead, 1) if packet.pts == tick), default=0)):
            yield from self._decode_next(limit)

    def _decode_next(self, limit: int) -> Iterator[Timed | None]:
        packet = self._ahead.popleft()
        self._held_bytes -= packet.size
        assert packet.pts is not None
        on_screen = self._times[max(0, bisect_right(self._times, limit) - 1)] if self._times else packet.pts
        if packet.pts < on_screen and self._rules.nothing_refers_to(bytes(packet)):
            return
        self._decoding = True
        for frame in self._decoded(packet):
            yield from self._came_out(frame, on_screen)

    def _decoded(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Frames that a packet, or the end of them, brings out of the decoder."""
        import av

        # Before the key frame that decoding started with, references may be lacking: those frames count for nothing.
        counts = packet is None or packet.pts is None or self.place.tick is None or packet.pts >= self.place.tick
        if packet is not None and packet.is_corrupt:  # half a packet would decode to half a picture
            self._damaged = self._damaged or counts
            return []
        try:
            return self._stream.decode(None) if packet is None else packet.decode()
        except av.FFmpegError:
            self._damaged = self._damaged or counts
            return []

    def _came_out(self, frame: VideoFrame, on_screen: float) -> Iterator[Timed | None]:
        """Answer what was waiting for a frame; keep it if it may be asked for later."""
        tick = self._clock.stamp(frame)
        if tick is None or (self.place.tick is not None and tick < self.place.tick):
            return
        self._damaged = self._damaged or frame.is_corrupt
        if self._due and self._due[0].tick < tick:
            raise self._missed()
        if not self._due and not self._damaged and tick >= on_screen:
            self._early.append(Timed(tick, frame))
        while self._due and self._due[0].tick == tick:
            if self._damaged:
                raise self._missed()
            self._shown = Timed(tick, frame)
            yield self._unless_cut(self._shown, self._due.popleft())

    def _missed(self) -> Astray:
        if self._damaged:
            return Damaged("some of it is damaged")
        return Astray("its frames do not come out at the times of its packets")

    def _unless_cut(self, shown: Timed, due: _Due) -> Timed | None:
        return None if due.last and broke_off(shown, due.limit, self._facts) else shown

    def _finish(self) -> Iterator[Timed | None]:
        """Take the frames that are due out of the decoder, and make it ready for another place."""
        if self._due:
            for frame in self._decoded(None):
                yield from self._came_out(frame, math.inf)
        if self._due:
            raise self._missed()
        self._early.clear()
        if self._decoding:
            self._stream.codec_context.flush_buffers()
            self._decoding = False
