"""What a video decoder holds in memory: the pictures its codec may refer back to, and the container's index. Pure.

H.264 and H.265 say in their level how many pictures of a size a decoder must be able to keep (H.264 table A-1, H.265
A.4.2); encoders choose the lowest level that does. Beside these a decoder holds what it works on, what waits to be
shown, and tables per block: counted in pictures too, as measured with FFmpeg's decoders.
"""

from __future__ import annotations

from dataclasses import dataclass

INDEX_BYTES = 80
"""FFmpeg's index of an mp4, per sample (measured: 75)."""
FIXED_BYTES = 3 * 1024**2
"""What a decoder holds of any size: contexts, packets, code that is read in for it."""
_H264_BLOCKS = {10: 396, 11: 900, 12: 2376, 13: 2376, 20: 2376, 21: 4752, 22: 8100, 30: 8100, 31: 18000, 32: 20480}
_H264_BLOCKS |= {40: 32768, 41: 32768, 42: 34816, 50: 110400, 51: 184320, 52: 184320}
_H265_PIXELS = {30: 36864, 60: 122880, 63: 245760, 90: 552960, 93: 983040, 120: 2228224, 123: 2228224}
_H265_PIXELS |= {150: 8912896, 153: 8912896, 156: 8912896, 180: 35651584, 183: 35651584, 186: 35651584}
_REFERENCES = {"vp8": 3, "vp9": 5, "av1": 7, "mjpeg": 0, "png": 0, "gif": 1, "mpeg4": 2, "mpeg2video": 2}
_MOST_REFERENCES = 16
_WORKING = 4  # pictures in work, waiting and shown, and tables
_THREAD_PICTURES = 3  # a second thread's; more threads add less, as they wait for each other


@dataclass(frozen=True, slots=True)
class DecoderNeeds:
    """What decoding one video takes, beside the RGB frames that come of it."""

    picture_bytes: int
    """One decoded picture."""
    pictures: int
    """Pictures held by a decoder with one thread."""
    index_bytes: int
    """The container's index, read in while the file is open."""

    def total_bytes(self, threads: int) -> int:
        """All of it, with this many decoder threads."""
        working = _THREAD_PICTURES * max(0, threads - 1)
        return FIXED_BYTES + self.index_bytes + (self.pictures + working) * self.picture_bytes


def decoder_needs(
    codec: str, level: int | None, width_px: int, height_px: int, bits_per_pixel: int, index_entries: int
) -> DecoderNeeds:
    """Needs of a stream by FFmpeg's name of its codec and the level it states; None or nonsense: the most there is."""
    held = _references(codec, level or 0, width_px, height_px) + _WORKING
    return DecoderNeeds(width_px * height_px * bits_per_pixel // 8, held, INDEX_BYTES * index_entries)


def _references(codec: str, level: int, width_px: int, height_px: int) -> int:
    if codec == "h264":
        blocks = -(-width_px // 16) * -(-height_px // 16)
        return min(_MOST_REFERENCES, _H264_BLOCKS.get(level, _MOST_REFERENCES * blocks) // blocks)
    if codec == "hevc":
        most, pixels = _H265_PIXELS.get(level, 0), width_px * height_px
        return next((held for part, held in ((4, 16), (2, 12), (4 / 3, 8)) if pixels * part <= most), 6)
    return _REFERENCES.get(codec, _MOST_REFERENCES)
