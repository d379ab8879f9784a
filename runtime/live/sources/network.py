"""A network camera: RTSP, or MJPEG and other streams over HTTP, through PyAV."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tam_edge.runtime.container import CONTAINERS, MAX_FRAME_PIXELS
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.live.sources import LiveFrame, LiveSource
from tam_edge.runtime.live.sources.decoded import decoded
from tam_edge.runtime.natives import import_native

if TYPE_CHECKING:
    from av.container import InputContainer

SCHEMES = ("rtsp", "rtsps", "http", "https")
"""Schemes of addresses that are connected to."""
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 5.0
"""How long connecting may take, and how long a stream may be silent before it counts as lost."""
_OPTIONS = {
    "rtsp_transport": "tcp",  # over UDP a lost packet spoils pictures, and firewalls are in the way
    "fflags": "nobuffer",
    # playlists are left out: they name other addresses, and FFmpeg would connect to those
    "format_whitelist": f"{CONTAINERS},mpjpeg,rtsp,sdp,rtp",
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,http,https,tcp,tls,udp",
    "reconnect": "0",
}


class NetworkStream(LiveSource):
    """Pictures from an address."""

    def __init__(self, address: str) -> None:
        super().__init__(without_password(address))
        self._address = address

    def frames(self) -> Generator[LiveFrame, None, None]:
        """Yield frames until the stream ends or is silent for too long."""
        av = import_native("av")
        try:
            container = av.open(
                self._address, options=_OPTIONS, timeout=(CONNECT_SECONDS, SILENT_SECONDS), metadata_errors="replace"
            )
            with container:
                yield from self._decoded(container)
        except (av.FFmpegError, OSError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise VideoError(self.name, f"cannot be read ({why}): is it there, and may this user see it?") from None

    def _decoded(self, container: InputContainer) -> Generator[LiveFrame, None, None]:
        if not container.streams.video:
            raise VideoError(self.name, "carries no pictures")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(self.name, "its pictures are in a codec that is not supported")
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1  # threads by frame would show them later
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        for _, frame in decoded(container.decode(stream)):
            yield frame


def without_password(address: str) -> str:
    """An address that may be shown: what stands before the host's @ is left out."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address"
    before, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}", query="")) if at or before else address
