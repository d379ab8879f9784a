"""Any GStreamer pipeline, Jetson's cameras among them: `gst-launch-1.0 ... ! fdsink` as a child process.

OpenCV's wheel has no GStreamer, and Jetson's elements live in the system's. Raw RGB comes through a pipe; what size it
has is read from the caps that gst-launch prints.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Generator
from threading import Thread
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tam_edge.runtime.container import MAX_FRAME_PIXELS
from tam_edge.runtime.errors import UsageError, VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource

LAUNCH = "gst-launch-1.0"
NO_LAUNCH = f"needs {LAUNCH}, which is not there: install GStreamer's tools (Debian: gstreamer1.0-tools)"
STOP_SECONDS = 2.0
"""How long the child gets to end by itself."""
_CAPS = re.compile(rb"tamsink\.GstPad:sink: caps = video/x-raw.*?width=\(int\)(\d+), height=\(int\)(\d+)")
_APPSINK = re.compile(r"\s*!\s*appsink\b[^!]*$")


def csi_pipeline(address: str) -> str:
    """The pipeline of a Jetson's camera: `csi://0`, the number being that of the sensor.

    Raises: UsageError if there is no such number.
    """
    sensor = address.removeprefix("csi://")
    if not sensor.isdecimal():
        raise UsageError(
            f"{address[:60]!r} names no camera: write csi:// and the number of the sensor, such as csi://0"
        )
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
        "nvvidconv ! video/x-raw,format=BGRx"
    )


class Pipeline(LiveSource):
    """What a GStreamer pipeline gives; its end is added, an `appsink` there is replaced."""

    def __init__(self, description: str, name: str) -> None:
        """Take a pipeline as gst-launch-1.0 does, and what to call it.

        Raises: UsageError if it cannot be cut into words.
        """
        super().__init__(name)
        try:
            self._words = shlex.split(_APPSINK.sub("", description))
        except ValueError as error:
            raise UsageError(f"the pipeline {description[:60]!r} cannot be read: {error}") from None
        self._child: subprocess.Popen[bytes] | None = None

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Start the child and yield its frames until it ends."""
        program = shutil.which(LAUNCH)
        if program is None:
            raise VideoError(self.name, NO_LAUNCH)
        read_end, write_end = os.pipe()
        tail = f"! videoconvert ! video/x-raw,format=RGB ! fdsink name=tamsink sync=false fd={write_end}"
        with os.fdopen(read_end, "rb", buffering=0) as frames:
            try:
                child = subprocess.Popen(
                    [program, "-v", *self._words, *tail.split()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[write_end],
                    start_new_session=True,  # a Ctrl-C is ours to handle
                )
            except OSError as error:
                raise VideoError(self.name, f"{LAUNCH} cannot be started ({error.strerror})") from None
            finally:
                os.close(write_end)
            self._child = child
            try:
                yield from self._read(child, frames)
            finally:
                self._child = None
                _end(child)

    def interrupt(self) -> None:
        """Kill the child: reading its pipe then ends."""
        child = self._child
        if child is not None:
            child.kill()

    def _read(self, child: subprocess.Popen[bytes], frames: IO[bytes]) -> Generator[LiveFrame, None, None]:
        said = _Said(child)
        data, size = bytearray(), None
        while True:
            more = frames.read(1 << 16 if size is None else size[0] * size[1] - len(data))
            if not more:
                raise VideoError(self.name, said.why_it_ended())
            data += more
            stride_rows = said.stride_and_rows()
            if size not in (None, stride_rows):
                raise VideoError(self.name, "its frames have changed their size")
            size = stride_rows
            while len(data) >= size[0] * size[1]:
                picture = bytes(data[: size[0] * size[1]])
                del data[: len(picture)]
                yield _frame(picture, *size, said.width_px)


class _Said:
    """What the child prints: the size of its frames, and why it ended."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.width_px = self._height_px = 0
        self._error = b""
        self._child = child
        self._threads = [
            Thread(target=self._listen_out, args=(child.stdout,), daemon=True),
            Thread(target=self._listen_error, args=(child.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stride_and_rows(self) -> tuple[int, int]:
        """Bytes of a row, which GStreamer rounds up to four, and rows; the caps are printed before the first frame."""
        for _ in range(500):
            if self.width_px:
                break
            self._threads[0].join(0.01)
        if not 0 < self.width_px * self._height_px <= MAX_FRAME_PIXELS:
            raise VideoError("the pipeline", f"{self.width_px}x{self._height_px} pixels is no size of frames")
        return -(-3 * self.width_px // 4) * 4, self._height_px

    def why_it_ended(self) -> str:
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        lines = [line for line in self._error.decode(errors="replace").splitlines() if "rror" in line]
        return f"{LAUNCH} ended" + (f": {lines[0].removeprefix('ERROR: ')[:200]}" if lines else "")

    def _listen_out(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                if found := _CAPS.search(line):
                    self._height_px, self.width_px = int(found[2]), int(found[1])

    def _listen_error(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                if len(self._error) < 1 << 14:
                    self._error += line


def _frame(data: bytes, stride: int, rows: int, width_px: int) -> LiveFrame:
    def make() -> NDArray[np.uint8]:
        return np.frombuffer(data, np.uint8).reshape(rows, stride)[:, : 3 * width_px].reshape(rows, width_px, 3)

    return LiveFrame(make, rows, width_px)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
