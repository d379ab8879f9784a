"""Open a video file for reading: only video containers, only this file, one decoder, and a reason when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tam_edge.runtime.errors import TooLargeError, VideoError

if TYPE_CHECKING:
    from av import FFmpegError
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 8192 * 8192
"""Largest frame or image that is decoded: 201 MB as RGB."""
ISO_MEDIA = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name for the family of mp4."""
SEEKABLE = frozenset({ISO_MEDIA, "matroska,webm", "mpegts", "flv"})
"""Containers that store each packet's own presentation time, so that a frame found by seeking can be trusted."""
INDEXED = frozenset({ISO_MEDIA, "matroska,webm"})
"""Containers whose index lists key frames without gaps, as far as it reaches."""
# Playlists and scripts are left out: FFmpeg would open whatever they name. So is text, which it would draw.
CONTAINERS = (
    f"{ISO_MEDIA},matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,gif,apng,nut,mxf,dv,rm,wtv,vob,swf,nsv,"
    "h264,hevc,vvc,av1,obu,ivf,m4v,h263,mpegvideo,vc1,mjpeg,yuv4mpegpipe,mp3,wav,flac,aac,aiff,amr,ac3,w64,caf,au"
)
"""FFmpeg's names of the containers that are read."""
_ISO_MEDIA_BOXES = frozenset({b"ftyp", b"mdat", b"free", b"wide", b"skip", b"moov", b"moof"})


class OpenFile(NamedTuple):
    """A container that is open, and its main video stream."""

    container: InputContainer
    """What was opened."""
    stream: VideoStream
    """The stream that is decoded."""


def open_stream(path: Path, source: str, threads: int) -> OpenFile:
    """Open a file and set up the decoder of its main video stream; `threads` 0 leaves their number to FFmpeg.

    Raises:
        VideoError: no video file, no video stream, no decoder, or frames too large.
    """
    import av

    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(source, _why_unreadable(path, error)) from None
    try:
        stream = _main_stream(container, source)
    except VideoError:
        container.close()
        raise
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return OpenFile(container, stream)


def _main_stream(container: InputContainer, source: str) -> VideoStream:
    from av.stream import Discard, Disposition

    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]  # cover art
    if not videos:
        raise VideoError(source, "has no video stream: name a file with pictures in it")
    stream = max(videos, key=lambda s: bool(s.disposition & Disposition.default))
    if stream.codec_context is None:
        raise VideoError(source, "its video is encrypted or in a codec that is not supported: convert it to H.264 mp4")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise TooLargeError(
            source, f"frames of {stream.width}x{stream.height} pixels are too large: scale the video down"
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _why_unreadable(path: Path, error: FFmpegError) -> str:
    import av

    if isinstance(error, (FileNotFoundError, PermissionError)):
        return f"cannot be read ({error.strerror})"
    if isinstance(error, av.EOFError):
        return "ends before its first frame: record or copy it again"
    if isinstance(error, (av.InvalidDataError, av.ArgumentError)):
        with path.open("rb") as file:
            if file.read(12)[4:8] in _ISO_MEDIA_BOXES:
                return "has no index (moov) that can be read: it was cut off or never finished, copy or record it again"
        return "is no video or image that can be read: convert it to H.264 mp4, or name another file"
    return f"cannot be opened as a video ({error.strerror}): convert it to H.264 mp4"
