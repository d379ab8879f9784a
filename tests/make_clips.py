"""Real clips for the tests, encoded here: every frame carries its number as a pattern that survives compression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SIZE_PX = 64
_CELL_PX = 16  # 4 x 4 cells, black or white: the bits of the frame's number
_MILLISECOND = Fraction(1, 1000)
_QUIET = {"libx265": {"x265-params": "log-level=none"}}


def paint(number: int, height_px: int = SIZE_PX, width_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """Return RGB [height, width, 3] that shows `number` (below 65536) in its top left corner."""
    bits = (number >> np.arange(16)) & 1
    pixels = np.full((height_px, width_px, 3), 128, np.uint8)
    pattern = np.kron(bits.reshape(4, 4) * 255, np.ones((_CELL_PX, _CELL_PX)))
    pixels[:SIZE_PX, :SIZE_PX] = pattern[..., None]
    return pixels


def paint_moving(number: int, height_px: int = SIZE_PX, width_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """Return what `paint` does, over a ground that moves: a decoder that lacks a reference shows something else."""
    y, x = np.mgrid[:height_px, :width_px]
    ground = 128 + 60 * np.sin((x + 3 * number) / 6) * np.cos((y - 2 * number) / 9)
    pixels = np.repeat(ground.astype(np.uint8)[..., None], 3, axis=2)
    pixels[: SIZE_PX // 2] = paint(number, height_px, width_px)[: SIZE_PX // 2]
    return pixels


def read(pixels: NDArray[np.uint8]) -> int:
    """Return the number that `paint` put into a frame."""
    cells = pixels[:SIZE_PX, :SIZE_PX].reshape(4, _CELL_PX, 4, _CELL_PX, 3).mean(axis=(1, 3, 4))
    return int(((cells.ravel() > 128) << np.arange(16)).sum())


def write_clip(
    path: Path,
    times_ms: Sequence[int],
    codec: str = "libx264",
    *,
    fmt: str | None = None,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    size_px: tuple[int, int] = (SIZE_PX, SIZE_PX),
    matrix: Sequence[int] | None = None,
    time_base: Fraction = _MILLISECOND,
    audio_seconds: float = 0.0,
    painter: Callable[[int, int, int], NDArray[np.uint8]] = paint,
) -> Path:
    """Encode frames 0, 1, 2.. that appear at `times_ms`; size is (width, height)."""
    with av.open(str(path), "w", format=fmt, options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=25, options={**_QUIET.get(codec, {}), **(options or {})})
        stream.width, stream.height = size_px
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        if matrix is not None:
            stream.set_display_matrix(matrix)
        sound = container.add_stream("aac", rate=16000) if audio_seconds else None
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(painter(number, size_px[1], size_px[0]), "rgb24")
            frame.pts, frame.time_base = round(Fraction(time_ms, 1000) / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for at in range(round(audio_seconds * 16000 / 1024)):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 16000, at * 1024
                container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def steady(frames: int, every_ms: int = 40, first_ms: int = 0) -> list[int]:
    """Return the times in ms of a clip with a constant frame rate."""
    return [first_ms + i * every_ms for i in range(frames)]
