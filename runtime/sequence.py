"""Several sources on one timeline, and a part of a source: both change which times mean what, neither decodes."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo
from tam_edge.runtime.pictures import DecoderNeeds

STILL_SECONDS = 1.0
"""How long an image, or any clip without a length, lasts in a sequence."""


class SourceSequence(OpenedVideo):
    """Sources one after the other; times count from the beginning of the first."""

    def __init__(self, parts: Sequence[OpenedVideo]) -> None:
        """Lay out `parts`, at least one, in their order."""
        lengths = [part.info.duration_seconds or STILL_SECONDS for part in parts]
        self._parts = tuple(parts)
        self._starts = [0.0, *accumulate(lengths)][:-1]
        infos = [part.info for part in parts]
        counts = [info.frame_count for info in infos]
        super().__init__(
            VideoInfo(
                source=", ".join(info.source for info in infos),
                kind="sequence",
                duration_seconds=sum(lengths),
                frame_count=None if None in counts else sum(count or 0 for count in counts),
                width_px=max(info.width_px for info in infos),
                height_px=max(info.height_px for info in infos),
                average_fps=None,
                codec=None,
                identity=hashlib.blake2b(repr([info.identity for info in infos]).encode(), digest_size=16).hexdigest(),
                notes=_notes(infos, self._starts),
                still_sizes_px=_still_sizes(infos),
                decoder=max((info.decoder for info in infos if info.decoder), key=_most_bytes, default=None),
            )
        )

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the frame on screen at each time, with its time on the common timeline."""
        for at, group in groupby(times, key=lambda seconds: max(0, bisect_right(self._starts, seconds) - 1)):
            part, start = self._parts[at], self._starts[at]
            shift = start - part.info.start_seconds
            for picture in part.pictures([max(0.0, seconds - shift) for seconds in group]):
                yield replace(picture, timestamp_seconds=picture.timestamp_seconds + shift)

    def decode_with(self, threads: int) -> None:
        """Use so many decoder threads for each part."""
        for part in self._parts:
            part.decode_with(threads)

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()
        super().close()


class Window(OpenedVideo):
    """The part of a source from one time to another; its times stay those of the source."""

    def __init__(self, whole: OpenedVideo, start: float | None, end: float | None) -> None:
        """Cut `whole` down to `start`..`end`, in seconds of its own times; None is its beginning or end.

        Raises:
            UsageError: the window starts beyond the end of the clip.
        """
        info = whole.info
        clip_end = info.start_seconds + info.duration_seconds
        first = info.start_seconds if start is None else max(start, info.start_seconds)
        if first > info.start_seconds and first >= clip_end:
            raise UsageError(f"a start of {first:g} s is beyond the end of {info.source} ({clip_end:.2f} s)")
        last = clip_end if end is None else min(end, clip_end)
        self._whole = whole
        self._first, self._last = first, last
        duration = max(0.0, last - first)
        changed = replace(info, start_seconds=first, duration_seconds=duration, frame_count=None, still_sizes_px=())
        super().__init__(changed)

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Yield the frame on screen at each time.

        Raises:
            UsageError: a time outside the window.
        """
        for seconds in times:
            if not self._first <= seconds <= self._last:
                raise UsageError(f"time {seconds:g} s is outside the window {self._first:g} s to {self._last:g} s")
        yield from self._whole.pictures(times)

    def decode_with(self, threads: int) -> None:
        """Use so many decoder threads for the whole source."""
        self._whole.decode_with(threads)

    @property
    def held_bytes(self) -> int:
        """Index and pictures of the whole source."""
        return self._whole.held_bytes

    def close(self) -> None:
        """Close the whole source."""
        self._whole.close()
        super().close()


def _most_bytes(needs: DecoderNeeds) -> int:
    return needs.total_bytes(1)


def _still_sizes(infos: Sequence[VideoInfo]) -> tuple[tuple[int, int], ...]:
    """Sizes of all images, none where anything else is among them."""
    if not all(info.still_sizes_px for info in infos):
        return ()
    return tuple(size for info in infos for size in info.still_sizes_px)


def _notes(infos: Sequence[VideoInfo], starts: Sequence[float]) -> tuple[str, ...]:
    where = [f"{info.source} begins at {start:.2f} s." for info, start in zip(infos, starts, strict=True)]
    return tuple(where) + tuple(note for info in infos for note in info.notes)
