"""The same film as another camera, phone or editor would have saved it: decoded, changed, encoded and muxed again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tam_edge.runtime import UsageError
from tam_edge.runtime.video import open_video

TICK = Fraction(1, 1000)  # of every re-encoded file's clock, in seconds
CRF = 23  # as the plain film
ONE = 1 << 16  # of a display matrix, whose last number counts in 1 << 30
QUARTER_TURN = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)  # clockwise
MOST_LEFT_OUT = 3  # frames in a row of a film with a variable frame rate
Shown = tuple[int, VideoFrame]
"""Tick at which a frame appears, and the frame."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to save a film."""

    what: str
    """In a few words, for the table."""
    crf: int = CRF
    """H.264 quality, larger is worse."""
    scale: float = 1.0
    """Of width and height."""
    fps: int | None = None
    """Frames a second, the latest one of the film each; None: the film's own."""
    shape: Fraction | None = None
    """Width over height, reached with black bars; None: the film's own."""
    lying: bool = False
    """Whether the pixels lie on their side and a display matrix turns them upright."""
    irregular: bool = False
    """Whether frames are left out, so that the others stay for different times."""


ENCODINGS: dict[str, Encoding] = {
    "crf35": Encoding("H.264 at crf 35", crf=35),
    "half": Encoding("half the width and height", scale=0.5),
    "5fps": Encoding("5 frames a second", fps=5),
    "letterbox": Encoding("black bars above and below, 3:4", shape=Fraction(3, 4)),
    "pillarbox": Encoding("black bars left and right, 16:9", shape=Fraction(16, 9)),
    "rotated": Encoding("pixels lying on their side, upright by a display matrix", lying=True),
    "vfr": Encoding("variable frame rate, half of the frames left out", irregular=True),
}
"""Every way, by the name `--reencode` knows it by."""


def reencode(source: Path, target: Path, encoding: Encoding) -> None:
    """Write the film in `source` to `target`, an MP4, in another way; what happens when stays as it was."""
    with closing(open_video(source)) as video:
        end = round(video.info.duration_seconds / TICK)
    with av.open(str(source)) as film, av.open(str(target), "w") as container:
        shot = film.streams.video[0]
        options = {"crf": str(encoding.crf), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=shot.average_rate, options=options)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TICK
        if encoding.lying:
            stream.set_display_matrix(list(QUARTER_TURN))
        shown = ((round(float(frame.time or 0) / TICK), frame) for frame in film.decode(shot))
        for index, (appears, frame) in enumerate(_chosen(shown, encoding, end)):
            picture = _changed(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False), encoding)
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            changed = av.VideoFrame.from_ndarray(picture, format="rgb24")
            changed.pts, changed.time_base = appears, TICK
            container.mux(stream.encode(changed))
        container.mux(stream.encode())


def check_encodings(names: Iterable[str]) -> None:
    """Refuse what the installed PyAV cannot write.

    Raises:
        UsageError: it is too old to write a display matrix.
    """
    if any(ENCODINGS[name].lying for name in names) and not hasattr(VideoStream, "set_display_matrix"):
        raise UsageError("--reencode rotated needs PyAV 18 or later: pip install -U av")


def _chosen(shown: Iterator[Shown], encoding: Encoding, end: int) -> Iterator[Shown]:
    if encoding.fps:
        return _at_rate(shown, encoding.fps, end)
    return _thinned(shown, end) if encoding.irregular else shown


def _at_rate(shown: Iterator[Shown], fps: int, end: int) -> Iterator[Shown]:
    """The latest frame at every 1/fps of a second."""
    ticks = (round(index / fps / TICK) for index in range(round(end * TICK * fps)))
    _, latest = next(shown)
    coming = next(shown, None)
    for tick in ticks:
        while coming is not None and coming[0] <= tick:
            latest, coming = coming[1], next(shown, None)
        yield tick, latest


def _thinned(shown: Iterator[Shown], end: int) -> Iterator[Shown]:
    """About half of the frames, the first among them and the last second whole: an MP4 ends by its last frames' rate.

    Which ones is the same every time.
    """
    rng, left_out = random.Random(0), MOST_LEFT_OUT
    for one in shown:
        if left_out == MOST_LEFT_OUT or rng.random() < 0.5 or one[0] > end - 1 / TICK:
            left_out = 0
            yield one
        else:
            left_out += 1


def _changed(picture: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """One frame [H, W, 3] as the new file stores it; H.264 wants even sides."""
    height, width = picture.shape[:2]
    if encoding.scale != 1:
        size = (_even(width * encoding.scale), _even(height * encoding.scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    if encoding.shape is not None:
        tall = max(0, _even(width / encoding.shape) - height)
        wide = max(0, _even(height * encoding.shape) - width)
        above, left = tall // 4 * 2, wide // 4 * 2  # colours are stored for two pixels at once
        picture = np.pad(picture, ((above, tall - above), (left, wide - left), (0, 0)))
    if encoding.lying:
        picture = np.rot90(picture)  # counterclockwise: the matrix turns it back
    return np.ascontiguousarray(picture)


def _even(pixels: float | Fraction) -> int:
    return 2 * round(pixels / 2)
