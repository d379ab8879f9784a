"""Clips for the benches, encoded here: a scene of ten seconds, and longer ones that repeat its packets.

Every frame shows its number as a pattern that survives compression, so a wrong frame is seen to be wrong.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.errors import TamEdgeError

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

SCENE_SECONDS = 10
"""Length of what is encoded; everything longer repeats it."""
FPS = 25
"""Frames per second, on average."""
LENGTHS_SECONDS = {"10s": 10, "10min": 600, "2h": 7200}
"""Lengths to choose from."""
Codec = Literal["h264", "h265", "vp9", "av1"]
CODECS: tuple[Codec, ...] = get_args(Codec)
"""Codecs to choose from."""

_CELL_PX = 16  # 4 x 4 cells, black or white: the bits of the frame's number
_TICK = Fraction(1, 1000)
_ENCODERS: dict[Codec, tuple[str, str, dict[str, str]]] = {  # suffix, encoder, options
    "h264": ("mp4", "libx264", {"preset": "veryfast", "crf": "26"}),
    "h265": ("mp4", "libx265", {"preset": "ultrafast", "crf": "28"}),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "400k"}),
    "av1": ("mp4", "libsvtav1", {"preset": "12", "crf": "45"}),
}


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """One clip of the bench."""

    codec: Codec
    """How it is encoded."""
    gop_frames: int
    """Most frames from one key frame to the next."""
    steady: bool
    """Whether frames come at equal distances; if not, at 0.5 to 1.5 times the mean."""
    length: str
    """Key of `LENGTHS_SECONDS`."""
    width_px: int
    height_px: int

    @property
    def name(self) -> str:
        """What the clip is called in tables and in its folder."""
        rate = "cfr" if self.steady else "vfr"
        return f"{self.codec}-gop{self.gop_frames}-{rate}-{self.width_px}x{self.height_px}-{self.length}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One frame that a decoder is asked for: whichever of number and time it goes by."""

    index: int
    """Number of the frame in presentation order."""
    seconds: float
    """When it appears."""
    shows: int
    """Number that is painted into it."""


def wanted_frames(spec: ClipSpec, count: int) -> tuple[Wanted, ...]:
    """`count` frames, spread evenly over the clip as a plan spreads them."""
    times = _scene_ticks(spec.steady)
    length, scene = LENGTHS_SECONDS[spec.length] * 1000, SCENE_SECONDS * 1000
    found = list[Wanted]()
    for i in range(count):
        repeat, tick = divmod((2 * i + 1) * length // (2 * count), scene)
        number = int(np.searchsorted(times, tick, "right")) - 1
        found.append(Wanted(repeat * len(times) + number, (repeat * scene + times[number]) / 1000, number))
    return tuple(found)


def make_clip(spec: ClipSpec, folder: Path) -> Path:
    """Encode a clip, or find it in `folder` from an earlier time.

    Raises:
        TamEdgeError: this build of PyAV lacks the encoder, or the folder cannot be written.
    """
    path = folder / f"{spec.name}.{_ENCODERS[spec.codec][0]}"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_whole(spec, path)
    except OSError as error:
        raise TamEdgeError(f"cannot write clips into {folder}: {error.strerror}; name another folder") from error
    return path


def number_shown(pixels: NDArray[np.uint8]) -> int:
    """The number painted into the top left corner of RGB [H, W, 3]."""
    side = 4 * _CELL_PX
    cells = pixels[:side, :side].reshape(4, _CELL_PX, 4, _CELL_PX, 3).mean(axis=(1, 3, 4))
    return int(((cells.ravel() > 128) << np.arange(16)).sum())


def repeat_scene(scene: Path, path: Path, times: int) -> None:
    """Write the packets of a clip of `SCENE_SECONDS` so many times in a row; the suffix names the container."""
    import av

    with av.open(str(scene)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.size]
        copy = container.add_stream_from_template(stream, opaque=True)
        scene_ticks = round(SCENE_SECONDS / packets[0].time_base)
        for repeat in range(times):
            for packet in packets:
                container.mux_one(_shifted(packet, repeat * scene_ticks, copy))


def _make_whole(spec: ClipSpec, path: Path) -> None:
    draft = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        if spec.length == "10s":
            _encode(spec, draft)
        else:
            repeat_scene(make_clip(_scene_of(spec), path.parent), draft, LENGTHS_SECONDS[spec.length] // SCENE_SECONDS)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _scene_of(spec: ClipSpec) -> ClipSpec:
    return ClipSpec(spec.codec, spec.gop_frames, spec.steady, "10s", spec.width_px, spec.height_px)


def _scene_ticks(steady: bool) -> list[int]:
    """When each frame of the scene appears, in ms."""
    count, mean = SCENE_SECONDS * FPS, 1000 // FPS
    if steady:
        return [i * mean for i in range(count)]
    gaps = np.random.default_rng(0).integers(mean // 2, mean + mean // 2, count)
    starts = np.concatenate(([0], np.cumsum(gaps)[:-1]))
    return [int(tick) for tick in starts * (SCENE_SECONDS * 1000 - mean) // starts[-1]]


def _encode(spec: ClipSpec, path: Path) -> None:
    import av

    _, encoder, options = _ENCODERS[spec.codec]
    if encoder not in av.codecs_available:
        raise TamEdgeError(f"this PyAV cannot encode {spec.codec} ({encoder} is missing): choose other codecs")
    gop = str(spec.gop_frames)
    os.environ.setdefault("SVT_LOG", "-1")  # it would report on stderr
    options = {**options, "g": gop, "keyint_min": gop, "sc_threshold": "0"}
    if spec.codec == "h265":
        options["x265-params"] = f"log-level=none:keyint={gop}:min-keyint={gop}:scenecut=0"
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = cast("VideoStream", container.add_stream(encoder, rate=FPS, options=options))
        stream.width, stream.height, stream.pix_fmt = spec.width_px, spec.height_px, "yuv420p"
        stream.codec_context.time_base = _TICK
        for number, tick in enumerate(_scene_ticks(spec.steady)):
            frame = av.VideoFrame.from_ndarray(_painted(number, spec.height_px, spec.width_px), "rgb24")
            frame.pts, frame.time_base = tick, _TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _painted(number: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """RGB [height, width, 3]: a landscape that a camera pans over, something that crosses it, and the number."""
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32)
    x += 2 * number
    ground = 40 * np.sin(x / 17 + y / 29) + 30 * np.sin(x / 5 - y / 7) + 20 * np.sin(x * y / 900)
    pixels: NDArray[np.uint8] = np.clip(128 + np.stack((ground, ground / 2, -ground), axis=-1), 0, 255).astype(np.uint8)
    side, left = height_px // 4, 5 * number % width_px
    pixels[height_px // 2 : height_px // 2 + side, left : left + side] = (200, 60, 30)
    bits = (number >> np.arange(16)) & 1
    pixels[: 4 * _CELL_PX, : 4 * _CELL_PX] = np.kron(bits.reshape(4, 4) * 255, np.ones((_CELL_PX, _CELL_PX)))[..., None]
    return pixels


def _shifted(packet: Packet[VideoStream], ticks: int, stream: VideoStream) -> Packet[VideoStream]:
    import av

    moved = cast("Packet[VideoStream]", av.Packet(bytes(packet)))
    moved.time_base, moved.stream = packet.time_base, stream
    moved.is_keyframe, moved.duration = packet.is_keyframe, packet.duration
    moved.pts = None if packet.pts is None else packet.pts + ticks
    moved.dts = None if packet.dts is None else packet.dts + ticks
    return moved
