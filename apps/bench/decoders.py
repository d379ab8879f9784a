"""The decoders that are compared: each takes frames out of a file in the way its own documentation advises.

Everything is counted from the path to RGB pixels, opening included. What goes by frame numbers is given them, although
finding them out would cost time as well; what goes by times gets those.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tam_edge.apps.bench.clips import Wanted

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB
Decode = Callable[[Path, Sequence[Wanted]], Iterator[Pixels]]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way to get at frames."""

    module: str
    """What it imports."""
    decode: Decode
    """Yields the wanted frames in order."""
    needs_torch: bool = False
    """Whether importing it brings torch; such a one is shown beside the others, not compared with."""

    def missing(self) -> str | None:
        """Why it cannot take part; None if it can. Imports it."""
        try:
            importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec: RuntimeError where it finds no FFmpeg
            return str(error).strip().partition("\n")[0]
        return None


def _tam_edge(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    from tam_edge.runtime.video import open_video
    from tam_edge.runtime.vision import chunk_frames

    video = open_video(path)
    for batch in video.frames([frame.seconds for frame in wanted], chunk_frames(video.info)):
        yield from batch.pixels


def _opencv(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import cv2

    capture, at = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), -1
    for frame in wanted:
        while at < frame.index:
            capture.grab()
            at += 1
        yield _from_bgr(*capture.retrieve())
    capture.release()


def _opencv_seek(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for frame in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, frame.index)
        yield _from_bgr(*capture.read())
    capture.release()


def _from_bgr(found: bool, pixels: Any) -> Pixels:
    import cv2

    if not found:
        raise RuntimeError("gives no frame")
    rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return rgb


def _pyav(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames, at = container.decode(stream), 0
        for frame in wanted:
            yield next(islice(frames, frame.index - at, None)).to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            at = frame.index + 1


def _pyav_seek(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in wanted:
            container.seek(round(frame.seconds * av.time_base))
            near = (found for found in container.decode(stream) if (found.time or 0) > frame.seconds - 0.001)
            yield next(near).to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _decord(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
    yield from reader.get_batch([frame.index for frame in wanted]).asnumpy()


def _imageio(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(path), output_params=["-fps_mode", "passthrough"])
    width, height = next(frames)["size"]
    at = 0
    for frame in wanted:
        data = next(islice(frames, frame.index - at, None))
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        at = frame.index + 1
    frames.close()


def _imageio_seek(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    import imageio_ffmpeg

    for frame in wanted:
        just_before = f"{max(0.0, frame.seconds - 0.001):.6f}"
        frames = imageio_ffmpeg.read_frames(
            str(path), input_params=["-ss", just_before], output_params=["-frames:v", "1", "-fps_mode", "passthrough"]
        )
        width, height = next(frames)["size"]
        yield np.frombuffer(next(frames), np.uint8).reshape(height, width, 3)
        frames.close()


def _torchcodec(path: Path, wanted: Sequence[Wanted]) -> Iterator[Pixels]:
    from torchcodec.decoders import VideoDecoder

    decoder: Any = VideoDecoder(str(path), seek_mode="approximate", dimension_order="NHWC", num_ffmpeg_threads=0)
    yield from decoder.get_frames_played_at([frame.seconds for frame in wanted]).data.numpy()


OURS = "tam-edge"
"""The one that is compared with the best of the others."""
DECODERS: dict[str, Decoder] = {
    OURS: Decoder("av", _tam_edge),
    "opencv": Decoder("cv2", _opencv),
    "opencv-seek": Decoder("cv2", _opencv_seek),
    "pyav": Decoder("av", _pyav),
    "pyav-seek": Decoder("av", _pyav_seek),
    "decord": Decoder("decord", _decord),
    "imageio-ffmpeg": Decoder("imageio_ffmpeg", _imageio),
    "imageio-ffmpeg-seek": Decoder("imageio_ffmpeg", _imageio_seek),
    "torchcodec": Decoder("torchcodec", _torchcodec, needs_torch=True),
}
"""All of them; where a library has two ways, reading on and seeking, both."""
