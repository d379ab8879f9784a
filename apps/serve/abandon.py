"""Work that nobody waits for any more stops between frames too."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from tam_edge.apps.web.patience import Patience
from tam_edge.runtime.frames import FrameBatch, Video, VideoInfo


class WatchedVideo:
    """A video whose frames stop coming when nobody waits for them."""

    def __init__(self, video: Video, patience: Patience) -> None:
        self._video = video
        self._patience = patience

    @property
    def info(self) -> VideoInfo:
        """What is known about the source."""
        return self._video.info

    @property
    def held_bytes(self) -> int:
        """What of the decoder is in memory."""
        return self._video.held_bytes

    def frames(self, timestamps_seconds: Sequence[float], chunk_frames: int) -> Generator[FrameBatch, None, None]:
        """Yield the frames on screen at rising times.

        Raises: AbandonedError between two batches; else as the video's own.
        """
        return self._watched(self._video.frames(timestamps_seconds, chunk_frames))

    def decode_with(self, threads: int) -> None:
        """Use no more than so many threads."""
        self._video.decode_with(threads)

    def close(self) -> None:
        """Let go of what the source holds."""
        self._video.close()

    def _watched(self, batches: Generator[FrameBatch, None, None]) -> Generator[FrameBatch, None, None]:
        with closing(batches):
            for batch in batches:
                self._patience.check()
                yield batch
                del batch  # or it would stay in memory while the next one is decoded
