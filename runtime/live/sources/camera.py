"""A camera at this device, by its number or /dev/video0, through OpenCV."""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path

from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource
from tam_edge.runtime.natives import import_native


class Camera(LiveSource):
    """A camera that OpenCV opens: V4L2 on Linux, what the system has elsewhere."""

    def __init__(self, device: str) -> None:
        """Take a number, or a device file's path."""
        super().__init__(f"camera {device}" if device.isdecimal() else device)
        self._device = device

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield frames until the camera gives none, as when it is unplugged."""
        self._check_there()
        cv2 = import_native("cv2")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it writes to stderr what we raise
        capture = cv2.VideoCapture(int(self._device) if self._device.isdecimal() else self._device)
        try:
            if not capture.isOpened():
                raise VideoError(self.name, "cannot be opened: is it a camera, and not in use by another program?")
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # old frames are of no use
            while True:
                there, bgr = capture.read()
                if not there:
                    raise VideoError(self.name, "gives no picture any more: is it plugged in?")
                height, width = bgr.shape[:2]
                yield LiveFrame(partial(cv2.cvtColor, bgr, cv2.COLOR_BGR2RGB), height, width)
        finally:
            capture.release()

    def _check_there(self) -> None:
        """Look before OpenCV does, which tries every backend it has."""
        path = Path(f"/dev/video{self._device}" if self._device.isdecimal() else self._device)
        if sys.platform == "linux" and not path.exists():
            there = ", ".join(sorted(str(found) for found in Path("/dev").glob("video*"))) or "none at all"
            raise VideoError(self.name, f"there is no {path}; of these there are: {there}")
