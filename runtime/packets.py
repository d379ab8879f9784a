"""Where a decoder can start, and what it can leave out, and still give what reading from the beginning gives.

A container marks packets as key frames, but what it marks is not always such a place: H.264 streams without IDR
pictures, intra refresh, files whose every packet is marked. So the packet itself is looked at, by the rules of its
codec; a codec whose rules are not here is read from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

# Their decoders refuse frames whose references they have not seen, so a wrong mark gives no frame, not a wrong one.
_SELF_CHECKING = frozenset({"vp8", "vp9", "av1", "ffv1"})
_MOST_REORDERED = 16  # H.264 and H.265: max_num_reorder_frames
_H264_SLICES, _H264_IDR, _H264_SEI = range(1, 6), 5, 6
_H264_REMARKS = frozenset({_H264_SEI, 9, 12})  # access unit delimiter, filler
_HEVC_PICTURES, _HEVC_IRAP, _HEVC_SPS = frozenset(range(32)), frozenset(range(16, 22)), 33
_HEVC_LEAVES = frozenset(range(0, 16, 2))  # TRAIL_N and its like: sub-layer non-reference pictures
_HEVC_REMARKS = frozenset({35, 38, 39, 40})  # access unit delimiter, filler, SEI before and after
_I_PICTURE, _B_PICTURE = 0, 2
_RECOVERY_POINT = 6  # type of an SEI message (H.264 annex D.1.8)
_EXACT_AT_ONCE = 0b1100_0000  # recovery_frame_cnt 0, exact_match_flag 1
_MPEG4_VOP, _MPEG12_PICTURE = b"\0\0\1\xb6", b"\0\0\1\0"


@dataclass(frozen=True, slots=True)
class PacketRules:
    """What can be told from the packets of one stream."""

    codec: str
    """FFmpeg's name of the format, not of the decoder."""
    nal_length_bytes: int
    """Bytes that say how long the next NAL unit is; 0 where start codes separate them."""
    intra_only: bool
    """Whether every frame stands alone."""
    reordered_frames: int
    """Most frames that are stored before one which is shown earlier."""
    one_layer: bool
    """Whether what says that nothing refers to it means it: in H.265 a higher temporal layer may all the same."""

    def starts(self, packet: bytes) -> bool:
        """Whether decoding may start with a packet that the container marks as a key frame.

        What is shown from its presentation time on is then the same as in a decoder that has read everything before.
        """
        match self.codec:
            case "h264":
                return self._starts_h264(packet)
            case "hevc":
                return self._starts_hevc(packet)
            case "mpeg4" | "mpeg1video" | "mpeg2video":
                return self._picture_type(packet) == _I_PICTURE
            case _:
                return True

    def nothing_refers_to(self, packet: bytes) -> bool:
        """Whether a decoder gives all other frames unchanged if it never gets this packet."""
        match self.codec:
            case "h264":
                kinds = [packet[at] for at in self._nal_units(packet)]  # nal_ref_idc is in bits 5 and 6
                pictures = [kind for kind in kinds if kind & 31 in _H264_SLICES]
                return bool(pictures) and not any(kind >> 5 & 3 for kind in kinds if kind & 31 not in _H264_REMARKS)
            case "hevc":
                kinds = [packet[at] >> 1 & 63 for at in self._nal_units(packet)]
                pictures = [kind for kind in kinds if kind in _HEVC_PICTURES]
                rest = set(kinds) - set(pictures)
                return self.one_layer and bool(pictures) and rest <= _HEVC_REMARKS and set(pictures) <= _HEVC_LEAVES
            case "mpeg4" | "mpeg1video" | "mpeg2video":
                return self._picture_type(packet) == _B_PICTURE and packet.startswith(self._picture_code)
            case _:
                return False

    @property
    def _picture_code(self) -> bytes:
        return _MPEG4_VOP if self.codec == "mpeg4" else _MPEG12_PICTURE

    def _picture_type(self, packet: bytes) -> int | None:
        """Of MPEG-1, -2 and -4, as MPEG-4 counts: 0 is I, 1 P, 2 B; None if there is no picture."""
        at = packet.find(self._picture_code)
        body = packet[at + 4 : at + 6]
        if at < 0 or len(body) < 2:
            return None
        return body[0] >> 6 if self.codec == "mpeg4" else (body[1] >> 3 & 7) - 1

    def _starts_h264(self, packet: bytes) -> bool:
        for at in self._nal_units(packet):
            kind = packet[at] & 31
            if kind == _H264_SEI and _recovers_at_once(packet[at + 1 : at + 257]):
                return True
            if kind in _H264_SLICES:
                return kind == _H264_IDR
        return False

    def _starts_hevc(self, packet: bytes) -> bool:
        for at in self._nal_units(packet):
            kind = packet[at] >> 1 & 63
            if kind == _HEVC_SPS and self.one_layer and not _one_sub_layer(packet, at):
                return False
            if kind in _HEVC_PICTURES:
                return kind in _HEVC_IRAP
        return False

    def _nal_units(self, packet: bytes) -> Iterator[int]:
        """Where NAL units begin."""
        return _prefixed(packet, self.nal_length_bytes) if self.nal_length_bytes else _start_coded(packet)


def packet_rules(decoder: VideoCodecContext) -> PacketRules | None:
    """The rules for a stream, from its header; None if nothing in it says where decoding may start."""
    codec, header = decoder.codec.canonical_name, decoder.extradata or b""
    nal_length, reordered, one_layer = 0, _MOST_REORDERED, True
    if decoder.codec.intra_only or codec in _SELF_CHECKING:
        reordered = 0
    elif codec == "h264":
        nal_length = (header[4] & 3) + 1 if _is_configuration(header, 7) else 0
    elif codec == "hevc":
        configured = _is_configuration(header, 23)
        nal_length = (header[21] & 3) + 1 if configured else 0
        one_layer = header[21] >> 3 & 7 == 1 if configured else _one_layer_throughout(header)
    elif codec not in ("mpeg4", "mpeg1video", "mpeg2video"):
        return None
    return PacketRules(codec, nal_length, decoder.codec.intra_only, reordered, one_layer)


def _is_configuration(header: bytes, least_bytes: int) -> bool:
    """Whether a header is mp4's `avcC` or `hvcC` record, whose version is 1, rather than NAL units."""
    return len(header) >= least_bytes and header[0] == 1


def _prefixed(packet: bytes, length_bytes: int) -> Iterator[int]:
    at = 0
    while at + length_bytes < len(packet):
        size = int.from_bytes(packet[at : at + length_bytes], "big")
        if size:
            yield at + length_bytes
        at += length_bytes + size


def _start_coded(packet: bytes) -> Iterator[int]:
    at = packet.find(b"\0\0\1") + 3
    while 3 <= at < len(packet):
        yield at
        at = packet.find(b"\0\0\1", at) + 3


def _recovers_at_once(sei: bytes) -> bool:
    """Whether SEI messages hold a recovery point from which every frame shown later is exact."""
    at = 0
    while at + 2 < len(sei):
        kind, at = _ff_coded(sei, at)
        size, at = _ff_coded(sei, at)
        if kind == _RECOVERY_POINT:
            return at < len(sei) and sei[at] & _EXACT_AT_ONCE == _EXACT_AT_ONCE
        at += size
    return False


def _ff_coded(sei: bytes, at: int) -> tuple[int, int]:
    """A number written as a run of 255s and a rest, and where the next one begins."""
    full = sum(1 for _ in takewhile(lambda byte: byte == 255, sei[at:]))
    return 255 * full + (sei[at + full] if at + full < len(sei) else 0), at + full + 1


def _one_layer_throughout(header: bytes) -> bool:
    parameters = [at for at in _start_coded(header) if header[at] >> 1 & 63 == _HEVC_SPS]
    return bool(parameters) and all(_one_sub_layer(header, at) for at in parameters)


def _one_sub_layer(data: bytes, at: int) -> bool:
    """Whether the sequence parameter set at `at` says sps_max_sub_layers_minus1 = 0 (H.265 7.3.2.2.1)."""
    return at + 2 < len(data) and data[at + 2] >> 1 & 7 == 0
