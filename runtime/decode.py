"""Take the frames on screen at rising times out of a video file, by presentation time, never by frame number.

Reading on and seeking give the same frames; seeking only saves decoding what lies between. A place found by seeking
counts once a frame decoded there, from a key packet on, turns out to appear no later than the time asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.container import INDEXED, open_stream
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.extent import CUT_SECONDS
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo
from tam_edge.runtime.probe import Probe, probe
from tam_edge.runtime.upright import upright_rgb

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_UNINDEXED_GAP_SECONDS = 10  # without an index a seek may land before where we are: only try far ahead
_STEP_SECONDS = 0.5  # a key frame this little ahead is reached sooner by reading on
_BACK_SECONDS = 2  # how much earlier to try when a seek missed; doubles


class VideoFile(OpenedVideo):
    """One video file; every call of `frames` opens it anew, so nothing stays open and calls may overlap."""

    def __init__(self, path: Path, source: str, threads: int) -> None:
        """Look at the container and the first frame of `path`; `threads` 0 leaves their number to FFmpeg.

        Raises:
            VideoError: no video file, no video stream, no decoder, no frame, or frames too large.
        """
        self._path = path
        self._threads = threads
        self._probe = probe(path, source)
        about = path.stat()
        super().__init__(
            VideoInfo(
                source=source,
                kind="video",
                duration_seconds=self._probe.extent.duration_seconds,
                frame_count=self._probe.extent.frame_count,
                width_px=self._probe.width_px,
                height_px=self._probe.height_px,
                average_fps=self._probe.average_fps,
                codec=self._probe.codec,
                identity=f"{path.resolve()}:{about.st_size}:{about.st_mtime_ns}",
                notes=self._probe.extent.notes,
                decoder=self._probe.decoder,
            )
        )

    def decode_with(self, threads: int) -> None:
        """Use so many decoder threads from the next call of `frames` on; each holds pictures of its own."""
        self._threads = threads

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the frame on screen at each time; nothing for times past the end of a clip that was cut short."""
        reader = _ForwardReader(self._path, self.info.source, self._threads, self._probe)
        picture: Picture | None = None
        try:
            for seconds in times:
                shown = reader.shown_at(seconds)
                if shown is None:
                    return
                appears = self._probe.clock.seconds_at(shown.tick)
                if picture is None or picture.timestamp_seconds != appears:
                    picture = Picture(upright_rgb(shown.frame, self._probe.orientation), appears, self.info.source)
                yield picture
        finally:
            reader.close()


class _Timed(NamedTuple):
    tick: int
    frame: VideoFrame


class _ForwardReader:
    """A decoder that only moves forward, by reading on or by jumping to a key frame."""

    def __init__(self, path: Path, source: str, threads: int, facts: Probe) -> None:
        self._path, self._source, self._threads, self._facts = path, source, threads, facts
        self._clock = facts.clock
        self._may_seek = facts.seekable
        self._unindexed_gap = self._clock.ticks(_UNINDEXED_GAP_SECONDS)
        self._shown: _Timed | None = None
        self._next: _Timed | None = None
        self._restart()

    def shown_at(self, seconds: float) -> _Timed | None:
        """Return the last frame that appears by `seconds`, the first frame if none; None past the end of a cut clip."""
        limit = self._clock.last_tick_at(seconds)
        if self._next is not None and self._may_seek and self._jump_pays(self._next.tick, limit):
            self._jump(limit)
        while self._next is not None and (self._shown is None or self._next.tick <= limit):
            self._shown, self._next = self._next, next(self._ahead, None)
        if self._shown is None:
            raise VideoError(self._source, "holds no frame that can be decoded any more: was it changed?")
        return None if self._next is None and self._cut_before(limit) else self._shown

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _restart(self) -> None:
        self._container, self._stream = open_stream(self._path, self._source, self._threads)
        self._indexed = self._container.format.name in INDEXED
        self._ahead = self._decoded(self._packets(), self._clock.origin_tick)
        self._shown, self._next = None, next(self._ahead, None)

    def _cut_before(self, limit: int) -> bool:
        """Tell whether the clip broke off before `limit`, rather than ended with a frame that stays on screen."""
        if self._shown is None:
            return True
        end = self._shown.tick + self._clock.lasts(self._shown.frame)
        stated_end = self._clock.origin_tick + self._clock.ticks(self._facts.extent.duration_seconds)
        return limit >= end and end + self._clock.ticks(CUT_SECONDS) < stated_end

    def _jump_pays(self, position: int, limit: int) -> bool:
        """Tell whether a key frame lies well ahead of `position` and not after `limit`."""
        step = self._clock.ticks(_STEP_SECONDS)
        if limit - position < step:
            return False
        index = self._stream.index_entries
        if self._indexed and 0 <= index.search_timestamp(limit, any_frame=True) < len(index) - 1:  # it reaches beyond
            key = index.search_timestamp(limit)
            return key >= 0 and index[key].timestamp > position + step
        return limit - position > self._unindexed_gap

    def _jump(self, limit: int) -> None:
        """Go to a key frame before `limit`; where none can be found, back to the start, to read on from there."""
        position = self._next.tick if self._next else self._clock.origin_tick
        back = 0
        while limit - back > position:
            if self._land(limit - back, limit):
                return
            back = max(2 * back, self._clock.ticks(_BACK_SECONDS))
        if not self._land(position, limit):
            self.close()
            self._may_seek = False
            self._restart()

    def _land(self, target: int, limit: int) -> bool:
        import av

        position = self._next.tick if self._next else self._clock.origin_tick
        try:
            self._container.seek(target, stream=self._stream)
        except av.FFmpegError:
            return False
        packets = self._packets()
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is None or key.pts is None:
            return False
        if key.pts <= position:
            self._unindexed_gap *= 2
        ahead = self._decoded(chain((key,), packets), key.pts)
        first = next(ahead, None)
        if first is None or first.tick > limit:
            return False
        self._ahead, self._shown, self._next = ahead, first, next(ahead, None)
        return True

    def _packets(self) -> Generator[Packet[VideoStream], None, None]:
        import av

        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError:
            return  # what cannot be read ends the clip

    def _decoded(self, packets: Iterator[Packet[VideoStream]], earliest: int) -> Iterator[_Timed]:
        """Yield frames in rising order; those before `earliest` lean on what was jumped over and are left out."""
        last, due = earliest - 1, earliest
        for packet in packets:
            for frame in self._frames_of(packet):
                stamp = self._clock.stamp(frame)
                tick = due if stamp is None else stamp
                if tick > last:
                    yield _Timed(tick, frame)
                    last, due = tick, tick + self._clock.lasts(frame)

    def _frames_of(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        import av

        if packet.is_corrupt:  # half a packet would decode to half a picture
            return []
        try:
            return packet.decode()
        except av.FFmpegError:
            return []
