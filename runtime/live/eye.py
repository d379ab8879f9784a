"""The eye: a thread that looks at frames as they come, at the rate that was asked for or the device sustains.

A question goes first: from its turn to its first piece nothing is looked at, while its answer is written a frame now
and then. Nothing is looked at twice, and what was not looked at in time is not looked at later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event, Thread
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.budget import give_back
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.frames import FrameBatch
from tam_edge.runtime.live.events import EventLog
from tam_edge.runtime.live.line import Line
from tam_edge.runtime.live.pictures import small_jpeg
from tam_edge.runtime.live.reader import Reader, Stamped
from tam_edge.runtime.live.window import Window
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.turns import Turns
from tam_edge.runtime.vision import encode

EARLY_SHARE = 0.1
"""A frame may come so much sooner than the next one is due: cameras are not that regular."""
ANSWERING_SHARE = 0.2
"""Most of the time that looking takes while an answer is written."""
SILENT_SECONDS = 10.0
"""Without a frame for so long, the source is given a push."""
_WAIT_SECONDS = 0.1
_QUIET_SECONDS = 0.005
_LATELY = 16
_TRIM_FRAMES = 64  # frames after which freed memory is given back


class Eye:
    """Looks at what a reader reads and fills a window with it."""

    def __init__(
        self, reader: Reader, window: Window, parts: Parts, turns: Turns, log: EventLog, line: Line, rate: float
    ) -> None:
        self.quiet = Event()
        """Set while a question must not be delayed."""
        self.problem: TamEdgeError | None = None
        """Why looking ended, if it did."""
        self.seen = 0
        """Frames looked at."""
        self.idle: Callable[[], None] = lambda: None
        """Called after each frame, where there is time for something else."""
        self._reader, self._window, self._parts, self._turns, self._log = reader, window, parts, turns, log
        self._line, self._rate = line, rate
        self._lately: deque[tuple[float, float]] = deque(maxlen=_LATELY)  # when looking ended, and how long it took
        self._due = 0.0
        self._pushed = False
        self._first_seen = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="tam-edge eye", daemon=True)

    def start(self) -> None:
        """Begin to look, and return when the first frame was looked at.

        Raises: TamEdgeError if that fails.
        """
        self._thread.start()
        self._first_seen.wait()
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def look_ms(self) -> float:
        """What looking at a frame takes: the median of the last."""
        costs = sorted(cost for _, cost in [*self._lately])
        return 1000 * costs[len(costs) // 2] if costs else 0.0

    @property
    def fps(self) -> float:
        """Frames looked at per second, over the last ones."""
        ends = [end for end, _ in [*self._lately]]
        if len(ends) < 2 or perf_counter() - ends[-1] > 3 * (ends[-1] - ends[0]) / (len(ends) - 1) + 1:
            return 0.0
        return (len(ends) - 1) / max(1e-6, ends[-1] - ends[0])

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                if self.quiet.is_set() or not self._rested():
                    self._stopped.wait(_QUIET_SECONDS)
                    continue
                stamped = self._reader.take(self._due, _WAIT_SECONDS)
                if stamped is None:
                    self._push()
                else:
                    self._look_at(stamped)
                self.idle()
        except TamEdgeError as error:
            self.problem = error
        except Exception as error:  # said by `ask`, and not only on a thread's stderr
            self.problem = TamEdgeError(
                f"looking at {self._reader.source.name} failed: {type(error).__name__}: {error}"
            )
        finally:
            if self.problem is not None:
                self._log.add("failed", f"no further frame is looked at: {self.problem}")
            self._first_seen.set()

    def _rested(self) -> bool:
        """While an answer is written, most of the time is the answer's."""
        if not self._line.busy or not self._lately:
            return True
        end, cost = self._lately[-1]
        return perf_counter() - end >= cost * (1 / ANSWERING_SHARE - 1)

    def _look_at(self, stamped: Stamped) -> None:
        self._pushed = False
        pixels = stamped.frame.pixels
        picture = small_jpeg(pixels)
        while not self._stopped.is_set():
            with self._turns:
                if not self.quiet.is_set():  # or a question has come first
                    self._see(stamped, pixels, picture)
                    return
            self._stopped.wait(_QUIET_SECONDS)

    def _see(self, stamped: Stamped, pixels: NDArray[np.uint8], picture: bytes) -> None:
        start = perf_counter()
        encoder = self._parts.encoder_named(self._window.encoder)
        batch = FrameBatch(pixels[None], np.array([stamped.seconds]), (self._reader.source.name,))
        features = encode(batch, encoder)
        self._window.add(stamped.seconds, features.values[0], picture)
        if self.seen % _TRIM_FRAMES == 0:
            give_back(cycles=False)
        end = perf_counter()
        self._lately.append((end, end - start))
        self._due = stamped.seconds + (1 - EARLY_SHARE) / self._rate
        self.seen += 1
        self._first_seen.set()

    def _push(self) -> None:
        """A source that hangs is let go of, so that the reader connects to it anew."""
        reader = self._reader
        may_hang = reader.state == "live" and not (reader.own_clock or self._pushed or reader.source.ends)
        if may_hang and reader.silent_seconds() > SILENT_SECONDS:
            self._pushed = True
            reader.source.interrupt()
