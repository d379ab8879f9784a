"""What a video decoder holds in memory: the pictures its codec may refer back to, and the container's index. Pure.

H.264 says how many pictures it refers to (7.3.2.1.1, max_num_ref_frames). Where that cannot be read, and for H.265,
the level says how many of a size a decoder must be able to keep (H.264 table A-1, H.265 A.4.2). Beside these a decoder
holds what it works on, what waits to be shown, and tables per block: counted in pictures too, as measured with FFmpeg.
"""

from __future__ import annotations

from dataclasses import dataclass

INDEX_BYTES, INDEXING_BYTES = 42, 80
"""FFmpeg's index of an mp4, per sample: while the file is open, and while it is opened (measured)."""
REORDERED_BYTES, REORDERING_BYTES = 50, 97
"""The same where frames are not stored in the order they are shown in."""
READ_AHEAD_BYTES = 4 * 1024**2
"""Most packets read ahead; more are decoded although a key frame might make that needless."""
FIXED_BYTES = 3 * 1024**2
"""What a decoder holds of any size: contexts, packets, code that is read in for it."""
_H264_BLOCKS = {10: 396, 11: 900, 12: 2376, 13: 2376, 20: 2376, 21: 4752, 22: 8100, 30: 8100, 31: 18000, 32: 20480}
_H264_BLOCKS |= {40: 32768, 41: 32768, 42: 34816, 50: 110400, 51: 184320, 52: 184320}
_H265_PIXELS = {30: 36864, 60: 122880, 63: 245760, 90: 552960, 93: 983040, 120: 2228224, 123: 2228224}
_H265_PIXELS |= {150: 8912896, 153: 8912896, 156: 8912896, 180: 35651584, 183: 35651584, 186: 35651584}
_REFERENCES = {"vp8": 3, "vp9": 5, "av1": 7, "mjpeg": 0, "png": 0, "gif": 1, "mpeg4": 2, "mpeg2video": 2}
_MOST_REFERENCES = 16
_H264_PARAMETERS = 7  # type of a sequence parameter set
_H264_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_H264_FOUR_FOUR_FOUR = 3
_WORKING = 4  # pictures in work, waiting and shown, and tables
_THREAD_PICTURES = 2  # a second thread's; more threads add less, as they wait for each other


@dataclass(frozen=True, slots=True)
class DecoderNeeds:
    """What decoding one video takes, beside the RGB frames that come of it."""

    picture_bytes: int
    """One decoded picture."""
    pictures: int
    """Pictures held by a decoder with one thread."""
    index_bytes: int
    """The container's index, held while the file is open."""
    opening_bytes: int = 0
    """What reading that index takes, before a picture is decoded."""
    read_ahead_bytes: int = 0
    """Packets held to find out which need not be decoded."""

    def total_bytes(self, threads: int) -> int:
        """All of it, with this many decoder threads."""
        working = _THREAD_PICTURES * max(0, threads - 1)
        return FIXED_BYTES + self.read_ahead_bytes + self.index_bytes + (self.pictures + working) * self.picture_bytes

    def held_bytes(self, threads: int) -> int:
        """What of that there is once the first frame was decoded, at least: each thread has begun with a picture.

        Of what any size takes some is read in later.
        """
        held = min(self.pictures, threads + 1)
        return self.index_bytes + held * self.picture_bytes


def decoder_needs(
    codec: str,
    level: int | None,
    header: bytes | None,
    width_px: int,
    height_px: int,
    bits_per_pixel: int,
    index_entries: int,
    reordered: bool = False,
    read_ahead_bytes: int = 0,
) -> DecoderNeeds:
    """Needs of a stream by FFmpeg's name of its codec, the level it states and its header (`extradata`).

    What is missing or makes no sense counts as the most there is.
    """
    held = _references(codec, level or 0, width_px, height_px) + _WORKING
    stated = h264_references(header or b"") if codec == "h264" else None
    if stated is not None:
        held = min(held, stated + _WORKING)
    each, opening = (REORDERED_BYTES, REORDERING_BYTES) if reordered else (INDEX_BYTES, INDEXING_BYTES)
    picture_bytes = width_px * height_px * bits_per_pixel // 8
    return DecoderNeeds(picture_bytes, held, each * index_entries, opening * index_entries, read_ahead_bytes)


def _references(codec: str, level: int, width_px: int, height_px: int) -> int:
    if codec == "h264":
        blocks = -(-width_px // 16) * -(-height_px // 16)
        return min(_MOST_REFERENCES, _H264_BLOCKS.get(level, _MOST_REFERENCES * blocks) // blocks)
    if codec == "hevc":
        most, pixels = _H265_PIXELS.get(level, 0), width_px * height_px
        return next((held for part, held in ((4, 16), (2, 12), (4 / 3, 8)) if pixels * part <= most), 6)
    return _REFERENCES.get(codec, _MOST_REFERENCES)


def h264_references(header: bytes) -> int | None:
    """Pictures an H.264 stream refers to, from its header as mp4 and mkv store it (avcC); None where it is another."""
    if len(header) < 12 or header[0] != 1:
        return None
    bits = _Bits(header[8:].replace(b"\0\0\3", b"\0\0"))  # the first parameter set, after its length
    try:
        return _references_stated(bits)
    except IndexError:
        return None


def _references_stated(bits: _Bits) -> int | None:
    if bits.take(8) & 31 != _H264_PARAMETERS:
        return None
    profile = bits.take(8)
    bits.take(16)
    bits.count()
    if profile in _H264_HIGH_PROFILES:
        if bits.count() == _H264_FOUR_FOUR_FOUR:
            bits.take(1)
        bits.count(), bits.count(), bits.take(1)
        if bits.take(1):
            return None  # scaling matrices: rare, and long to read over
    bits.count()
    order = bits.count()
    if order == 1:
        return None  # as rare
    if order == 0:
        bits.count()
    references = bits.count()
    return references if references <= _MOST_REFERENCES else None


class _Bits:
    """Reads bit by bit, and numbers in Exp-Golomb code (H.264, 9.1)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, bits: int) -> int:
        value = 0
        for at in range(self._at, self._at + bits):
            value = 2 * value + (self._data[at // 8] >> (7 - at % 8) & 1)
        self._at += bits
        return value

    def count(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
