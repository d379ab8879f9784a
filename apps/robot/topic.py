"""A Zenoh topic as a live source: the newest message wins, silence is a loss, and what is no picture is left out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tam_edge.apps.robot.picture import LargerError, PictureError, read_picture
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.container import MAX_FRAME_PIXELS
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource

if TYPE_CHECKING:
    import zenoh

MESSAGE_BYTES = 256 * 1024 * 1024
"""Largest message before the first picture: the largest frame as RGB, and its head."""
PIXEL_BYTES, HEAD_BYTES = 4, 64 * 1024
"""Largest message after it: so many bytes for each of its pixels, and so many beside them; or as many as it had."""
SILENT_SECONDS = 5.0
"""Without a message for so long, the camera counts as lost."""
SHORTEST_SECONDS = 0.1
"""Between two pictures that are decoded: more often nobody looks."""
MOST_COMPLAINTS = 20


def key_expressions(topic: str) -> tuple[str, str]:
    """Where pictures of a topic come from: Zenoh's own key, and rmw_zenoh's `<domain>/<topic>/<type>/<hash>`.

    Raises: UsageError.
    """
    return checked_key(topic, "--topic"), f"*/{checked_key(topic, '--topic')}/*/*"


def checked_key(name: str, option: str) -> str:
    """A key without wildcards and outer slashes.

    Raises: UsageError.
    """
    key = name.strip().strip("/")
    parts = key.split("/")
    if len(key) > 200 or not all(parts) or any(not c.isprintable() or c in "*$?# " for c in key) or key.startswith("@"):
        raise UsageError(f"{option} is {name[:80]!r}: write a name such as camera/front")
    return key


class Topic(LiveSource):
    """What is published on a topic. Once it has been `opened` messages come from Zenoh's threads.

    Memory is planned for the first picture: larger ones are left out.
    """

    def __init__(self, topic: str, say: Callable[[str], None]) -> None:
        """Take a topic; `say` gets one line for each kind of message that cannot be read.

        Raises: UsageError if it is no name.
        """
        self.keys = key_expressions(topic)
        """What to subscribe to."""
        super().__init__(self.keys[0])
        self._say = say
        self._said = set[str]()
        self._message: bytes | None = None
        self._interrupted = False
        self._changed = Condition()
        self._first: tuple[int, int] | None = None
        self._most_bytes = MESSAGE_BYTES

    def put(self, sample: zenoh.Sample) -> None:
        """Take a message; called by Zenoh."""
        if len(sample.payload) > self._most_bytes:
            self._complain(self._too_large())
            return
        message = sample.payload.to_bytes()
        with self._changed:
            self._message = message
            self._changed.notify_all()

    def wait_first(self, timeout_seconds: float) -> bool:
        """Whether a picture has come, waiting so long for one; it is the first of `frames` unless another comes."""
        message = self._next(monotonic() + timeout_seconds, 0.0)
        if message is None or self._read(message) is None:
            return False
        with self._changed:
            self._message = self._message or message
        return True

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield pictures as they come.

        Raises: VideoError where none comes for a while.
        """
        earliest = 0.0
        while (pixels := self._picture(monotonic() + SILENT_SECONDS, earliest)) is not None:
            earliest = monotonic() + SHORTEST_SECONDS
            yield _frame(pixels)

    def interrupt(self) -> None:
        """Make whoever waits for a message return."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def _picture(self, end: float, earliest: float) -> NDArray[np.uint8] | None:
        """The next picture; None after an interruption.

        Raises: VideoError if none comes in time.
        """
        while True:
            message = self._next(end, earliest)
            if self._interrupted:
                self._interrupted = False
                return None
            if message is None:
                raise VideoError(self.name, f"no picture for {SILENT_SECONDS:g} s: does its publisher run?")
            pixels = self._read(message)
            if pixels is not None:
                return pixels

    def _read(self, message: bytes) -> NDArray[np.uint8] | None:
        height_px, width_px = self._first or (1, MAX_FRAME_PIXELS)
        try:
            pixels = read_picture(message, height_px * width_px)
        except LargerError:
            self._complain(self._too_large())
            return None
        except PictureError as error:
            self._complain(str(error))
            return None
        if self._first is None:
            self._first = pixels.shape[0], pixels.shape[1]
            self._most_bytes = max(len(message), HEAD_BYTES + PIXEL_BYTES * self._first[0] * self._first[1])
        return pixels

    def _too_large(self) -> str:
        if self._first is None:
            return f"it has more than {size_text(MESSAGE_BYTES)}"
        return f"it is larger than the first picture, {self._first[1]}x{self._first[0]}: for larger ones start again"

    def _next(self, end: float, earliest: float) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted, max(0.0, earliest - monotonic()))
            there = self._changed.wait_for(self._something, max(0.0, end - monotonic()))
            message, self._message = self._message, None
            return message if there else None

    def _something(self) -> bool:
        return self._interrupted or self._message is not None

    def _complain(self, why: str) -> None:
        if why not in self._said and len(self._said) < MOST_COMPLAINTS:
            self._said.add(why)
            self._say(f"{self.name}: a message is left out: {why}")


def _frame(pixels: NDArray[np.uint8]) -> LiveFrame:
    return LiveFrame(lambda: pixels, pixels.shape[0], pixels.shape[1])
