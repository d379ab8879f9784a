"""Take the frames on screen at rising times out of a video file, by presentation time, never by frame number.

Reading through (readthrough.py) decodes everything and decides what is right; seeking (seeking.py) gives the same
frames sooner, and says so where it cannot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from tam_edge.runtime.container import ISO_MEDIA, OpenFile, open_stream
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo
from tam_edge.runtime.probe import Probe, probe
from tam_edge.runtime.readthrough import BEGINNING, ReadThrough, Timed
from tam_edge.runtime.seeking import Astray, Damaged, NoPlace, Seeking
from tam_edge.runtime.upright import UprightRgb

_FAR_SECONDS = 10  # that a clip cannot be sought in is worth a word where frames lie further apart
_MOST_FAILURES = 3  # of seeking in one file, before it is given up


class VideoFile(OpenedVideo):
    """One video file; every call of `frames` opens it anew, so calls may overlap."""

    def __init__(self, path: Path, source: str, threads: int, *, stay_open: bool) -> None:
        """Look at the container and the first frame of `path`; `threads` 0 leaves their number to FFmpeg.

        With `stay_open` an mp4 is not closed before the first call of `frames`: reading the index of a long one twice
        takes longer than finding a frame.

        Raises:
            VideoError: no video file, no video stream, no decoder, no frame, or frames too large.
        """
        self._path = path
        self._threads = threads
        file = open_stream(path, source, threads)
        indexed = len(file.stream.index_entries)
        stay_open = stay_open and file.container.format.name == ISO_MEDIA
        try:
            if not stay_open:
                file.stream.codec_context.thread_count = 1  # more would decode more than the one frame
            self._probe = probe(path, source, file)
            # An index that has grown meanwhile is that of a fragmented file, and may have gaps.
            stay_open = stay_open and len(file.stream.index_entries) == indexed
        except BaseException:
            stay_open = False
            raise
        finally:
            if not stay_open:
                file.container.close()
        self._open_file = file if stay_open else None
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
                access=self._probe.access,
            )
        )

    def decode_with(self, threads: int) -> None:
        """Use so many decoder threads from the next call of `frames` on; each holds pictures of its own.

        A file that is held open with more has to be opened anew: FFmpeg sets their number once.
        """
        if self._open_file is not None and (self._threads == 0 or threads < self._threads):
            self._let_go()
        self._threads = threads

    @property
    def held_bytes(self) -> int:
        """Index and pictures of the file, as long as it is open since it was first looked at."""
        return 0 if self._open_file is None or self._threads == 0 else self._probe.decoder.held_bytes(self._threads)

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the frame on screen at each time; nothing for times past the end of a clip that was cut short."""
        clock, source = self._probe.clock, self.info.source
        to_rgb = UprightRgb(self._probe.orientation)
        picture: Picture | None = None
        with closing(_Frames(self._opened, source, self._probe)) as frames:
            for shown in frames.at([clock.last_tick_at(seconds) for seconds in times]):
                if shown is None:
                    return
                appears = clock.seconds_at(shown.tick)
                if picture is None or picture.timestamp_seconds != appears:
                    picture = Picture(to_rgb(shown.frame), appears, source, frames.read_through)
                yield picture

    def close(self) -> None:
        """Refuse further use, and close the file if no frame was asked for."""
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        if self._open_file is not None:
            self._open_file.container.close()
            self._open_file = None

    def _opened(self) -> OpenFile:
        file, self._open_file = self._open_file, None
        return file or open_stream(self._path, self.info.source, self._threads)


class _Frames:
    """Frames at rising ticks: by seeking as long as that can be trusted, and otherwise by reading through."""

    def __init__(self, opened: Callable[[], OpenFile], source: str, facts: Probe) -> None:
        self._opened, self._source, self._facts = opened, source, facts
        self._seeking: Seeking | None = None
        self._reading: ReadThrough | None = None
        self._found_from = BEGINNING  # where the decoding started that gave the last frame found
        self._failures = 0
        self.read_through: str | None = None
        """Why frames had to be reached by reading through; None as long as nothing more was read than had to be."""

    def at(self, limits: Sequence[int]) -> Iterator[Timed | None]:
        """Yield the frame on screen at each of the rising ticks; None where a clip was cut short before it."""
        left = deque(limits)
        while left and self._may_seek(limits):
            try:
                for shown in self._sought(tuple(left)):
                    left.popleft()
                    yield shown
            except Astray as astray:
                self._lost(astray)
                if not isinstance(astray, NoPlace):
                    yield self._read(left.popleft())
        for limit in left:
            yield self._read(limit)

    def close(self) -> None:
        """Close what was opened."""
        for opened in (self._seeking, self._reading):
            if opened is not None:
                opened.close()

    def _may_seek(self, limits: Sequence[int]) -> bool:
        rules = self._facts.rules
        if self._failures == _MOST_FAILURES:
            return False
        if rules is not None and self._facts.seekable:
            return True
        far = self._facts.clock.ticks(_FAR_SECONDS)
        if max(later - earlier for earlier, later in pairwise((self._facts.clock.origin_tick, *limits))) > far:
            what = "its container" if rules else f"the codec {self._facts.codec}"
            self.read_through = f"{what} does not tell where decoding may start, so all of it was decoded"
        return False

    def _sought(self, limits: Sequence[int]) -> Iterator[Timed | None]:
        if self._seeking is None:
            assert self._facts.rules is not None
            self._seeking = Seeking(self._opened(), self._facts, self._facts.rules, may_seek=self._failures == 0)
        for shown in self._seeking.shown(limits):
            self._found_from = self._seeking.place
            yield shown

    def _lost(self, astray: Astray) -> None:
        self._failures += not isinstance(astray, Damaged)
        self.read_through = f"{astray}, so it was read through"
        if self._seeking is not None:
            self._seeking.close()
            self._seeking = None

    def _read(self, limit: int) -> Timed | None:
        reading, found_from = self._reading, self._found_from.tick
        if reading is not None and reading.tick is not None and found_from is not None and reading.tick < found_from:
            reading.close()
            self._reading = None
        if self._reading is None:
            self._reading = ReadThrough(self._opened(), self._source, self._facts, self._found_from)
        return self._reading.shown_at(limit)
