"""Writes a scene as a real video file, so that a model is asked about what a camera would have saved."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from tam_edge.models.street.render import FRAME_PX, render
from tam_edge.models.street.world import Scene

VIDEO_FPS = 4  # slow, as surveillance cameras are; plans look once a second at most


def frame_count(scene: Scene, fps: int = VIDEO_FPS) -> int:
    """Frames of the scene's clip."""
    return max(1, round(scene.duration_seconds * fps))


def write_video(scene: Scene, path: Path, *, fps: int = VIDEO_FPS, size_px: int = FRAME_PX) -> None:
    """Encode the scene as H.264 in `path`, [size_px, size_px] at `fps`; one frame is held at a time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = size_px, size_px, "yuv420p"
        for index in range(frame_count(scene, fps)):
            frame = av.VideoFrame.from_ndarray(render(scene, index / fps, size_px), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
