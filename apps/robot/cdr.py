"""sensor_msgs/Image and CompressedImage as rmw_zenoh sends them: a CDR message, told from its bytes alone.

pycdr2 reads what stands before the pixels and their number. The pixels themselves stay where they are in the message:
as a sequence of Python numbers they would take thirty times the memory. Nothing that a message says about its size is
believed before it agrees with the message's length.
"""

# No `from __future__ import annotations` here: pycdr2 reads the fields' types themselves.
import struct
from dataclasses import dataclass
from typing import Any, TypeVar

from pycdr2 import IdlStruct
from pycdr2.types import int32, uint8, uint32

HEAD_BYTES = 4096
"""Most that may stand before the pixels."""
CDR_BYTES = 4
"""What says in which order bytes are: before everything else."""
_PADDING_BYTES = 3
_ORDERS = (0x0000, 0x0001)  # plain CDR, big and little endian


Head = TypeVar("Head", bound=IdlStruct)


class NotThisError(Exception):
    """The bytes are no such message."""


@dataclass
class _ImageHead(IdlStruct):
    sec: int32
    nanosec: uint32
    frame_id: str
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data_bytes: uint32


@dataclass
class _CompressedHead(IdlStruct):
    sec: int32
    nanosec: uint32
    frame_id: str
    format: str
    data_bytes: uint32


@dataclass(frozen=True, slots=True)
class RosImage:
    """A sensor_msgs/Image."""

    height_px: int
    """Rows."""
    width_px: int
    """Pixels a row."""
    encoding: str
    """Such as "rgb8"."""
    step_bytes: int
    """Bytes from one row to the next."""
    data: memoryview
    """[height * step] bytes."""


@dataclass(frozen=True, slots=True)
class RosCompressedImage:
    """A sensor_msgs/CompressedImage."""

    format: str
    """Such as "jpeg"."""
    data: memoryview
    """A whole file."""


def is_cdr(message: bytes) -> bool:
    """Whether a message begins as CDR does."""
    return len(message) > CDR_BYTES and int.from_bytes(message[:2], "big") in _ORDERS


def read_message(message: bytes) -> RosImage | RosCompressedImage:
    """Read either message.

    Raises: NotThisError.
    """
    try:
        head, data = _parts(_ImageHead, message)
        if head.height * head.step == head.data_bytes and _is_word(head.encoding):
            return RosImage(head.height, head.width, head.encoding, head.step, data)
    except NotThisError:
        pass
    compressed, data = _parts(_CompressedHead, message)
    if not _is_word(compressed.format):
        raise NotThisError
    return RosCompressedImage(compressed.format, data)


def _parts(kind: type[Head], message: bytes) -> tuple[Head, memoryview]:
    """What stands before the pixels, and the pixels.

    Raises: NotThisError.
    """
    try:
        head: Any = kind.deserialize(message[:HEAD_BYTES])
        start = len(head.serialize())  # as long as it was: the same fields, aligned in the same way
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError):
        raise NotThisError from None
    count: int = head.data_bytes
    if start > HEAD_BYTES or not 0 <= len(message) - start - count <= _PADDING_BYTES:
        raise NotThisError
    return head, memoryview(message)[start : start + count]


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable()
