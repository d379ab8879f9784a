"""Start a live session: connect, predict its memory, take it, open every engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tam_edge.runtime.budget import MemoryLimit
from tam_edge.runtime.duration import duration_seconds
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.live.events import EventLog
from tam_edge.runtime.live.eye import Eye
from tam_edge.runtime.live.line import Line
from tam_edge.runtime.live.reader import Reader
from tam_edge.runtime.live.room import WindowRoom, window_room
from tam_edge.runtime.live.sources import LiveInput, open_source
from tam_edge.runtime.live.window import Window
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.turns import Turns

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 7 * 24 * 3600.0
"""Horizons there can be."""
MOST_RATE = 60.0
"""Most frames per second that can be asked for."""
RECENT_SECONDS = 10.0
"""More frames per second than plans look at are kept for so long."""
PATIENCE_SECONDS = 60.0
"""How long a question waits for others."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What a live session is started with."""

    horizon: float | str = "10min"
    """How far back can be asked, in seconds or as text."""
    rate: float | None = None
    """Most frames per second that are looked at; None: what the bundle's plans look at."""
    queue: int = 8
    """Questions that may wait."""
    every_frame: bool = False
    """Whether a program's frames wait to be looked at, where otherwise the newest would win."""
    keep_ready: bool = True
    """Whether what most questions look at is kept in the language model."""


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """What a live session is made of."""

    reader: Reader
    """Reads; it has its first frame."""
    eye: Eye
    """Looks; not started yet."""
    window: Window
    """Keeps."""
    log: EventLog
    """Remembers what happened."""
    line: Line
    """Where questions wait."""
    room: WindowRoom
    """What was predicted."""
    rate: float
    """Most frames per second that are looked at."""
    keep_ready: bool
    """As in `LiveOptions`."""


def start(source: LiveInput, options: LiveOptions, parts: Parts, limit: MemoryLimit, turns: Turns) -> Inside:
    """Connect to a source and set everything up for it.

    Raises: UsageError, VideoError, MemoryLimitError, EngineError, BundleError.
    """
    usual_rate = parts.bundle.manifest.routing.frames_per_second
    horizon_seconds, rate = _checked(options, usual_rate)
    log = EventLog()
    reader = Reader(open_source(source), log, waits=options.every_frame)
    frame = reader.start().frame
    try:
        name = parts.bundle.manifest.strategies[0].encoders[0]
        encoder = parts.bundle.manifest.encoders[name]
        info = _info(reader.source.name, frame.height_px, frame.width_px)
        with turns:
            room = window_room(parts, limit, info, _frames_wanted(horizon_seconds, rate, usual_rate))
            window = Window(room.frames, horizon_seconds, (encoder.grid_side**2, encoder.width), name)
            parts.inductor()
            parts.encoder_named(name)
            parts.language()
    except BaseException:
        reader.close()
        raise
    for given in room.given_up:
        log.add("memory", f"{given.what}: {given.reason}")
    line = Line(options.queue, PATIENCE_SECONDS)
    eye = Eye(reader, window, parts, turns, log, line, rate)
    return Inside(reader, eye, window, log, line, room, rate, options.keep_ready)


def _frames_wanted(horizon_seconds: float, rate: float, usual_rate: float) -> int:
    """All that plans may look at, and what is beyond that for the last seconds: the window thins the rest."""
    beyond = max(0.0, rate - usual_rate) * min(horizon_seconds, RECENT_SECONDS)
    return math.ceil(horizon_seconds * min(rate, usual_rate) + beyond) + 2


def checked_horizon(horizon: float | str, name: str = "horizon") -> float:
    """How far back can be asked, in seconds; `name` is what a person calls it.

    Raises: UsageError.
    """
    seconds = duration_seconds(horizon, name)
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise UsageError(f"{name} is {seconds:g} s: take 1 s to 7 days")
    return seconds


def _checked(options: LiveOptions, usual_rate: float) -> tuple[float, float]:
    """Horizon in seconds, and frames per second."""
    horizon = checked_horizon(options.horizon)
    rate = usual_rate if options.rate is None else options.rate
    if not 0 < rate <= MOST_RATE:
        raise UsageError(f"rate is {rate:g} frames per second: take more than 0, at most {MOST_RATE:g}")
    if options.queue < 0:
        raise UsageError(f"queue is {options.queue} questions: take 0 or more")
    return horizon, rate


def _info(name: str, height_px: int, width_px: int) -> VideoInfo:
    return VideoInfo(name, "frames", 0.0, None, width_px, height_px, None, None, name)
