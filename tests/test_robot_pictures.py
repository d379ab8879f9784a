"""Camera messages: JPEG bytes and ROS 2 images in CDR become frames; what lies or is damaged is refused by name."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from ros_messages import compressed_message, image_message

from tam_edge.apps.robot.picture import PictureError, read_picture
from tam_edge.apps.robot.topic import key_expressions
from tam_edge.runtime import UsageError

PIXELS = np.random.default_rng(1).integers(0, 255, (5, 7, 3), dtype=np.uint8)


def jpeg(pixels=PIXELS, kind="JPEG"):
    out = io.BytesIO()
    Pillow.fromarray(pixels).save(out, kind, quality=95)
    return out.getvalue()


def test_jpeg_bytes_are_a_picture():
    assert read_picture(jpeg()).shape == (5, 7, 3)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("frame_id", ["", "a", "camera_frame", "optisch\u00e9"])
@pytest.mark.parametrize("padding", [0, 5])
def test_images_in_cdr(big, frame_id, padding):
    def read(pixels, encoding):
        return read_picture(image_message(pixels, encoding, frame_id=frame_id, big=big, padding=padding))

    assert np.array_equal(read(PIXELS, "rgb8"), PIXELS)
    assert np.array_equal(read(PIXELS[..., ::-1], "bgr8"), PIXELS)
    assert np.array_equal(read(PIXELS[..., :1], "mono8"), np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("name", "kind"), [("jpeg", "JPEG"), ("rgb8; jpeg compressed bgr8", "JPEG"), ("png", "PNG")])
def test_compressed_images_in_cdr(name, kind, big):
    data = jpeg(kind=kind)
    with Pillow.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    assert np.array_equal(read_picture(compressed_message(data, name, big=big)), expected)


@pytest.mark.parametrize("encoding", ["yuv422", "16UC1", "rgba8", "bayer_rggb8"])
def test_other_encodings_are_refused_by_name(encoding):
    with pytest.raises(PictureError, match=f"'{encoding}': rgb8, bgr8, mono8"):
        read_picture(image_message(PIXELS, encoding))


def test_other_formats_are_refused_by_name():
    with pytest.raises(PictureError, match="'h264'"):
        read_picture(compressed_message(b"\0\0\0\1abc", "h264"))


def lie(message, height=None, width=None, step=None, count=None):
    """The message with other numbers in the places of the right ones; `frame_id` is empty."""
    changed = bytearray(message)
    for at, value in ((20, height), (24, width), (40, step), (44, count)):
        if value is not None:
            struct.pack_into("<I", changed, at, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 6},
        {"height": 2**32 - 1},
        {"width": 2**31},
        {"width": 8},
        {"step": 1},
        {"step": 2**32 - 1},
        {"count": 2**32 - 1},
        {"count": 0},
        {"height": 2**30, "width": 2**30, "step": 0, "count": 0},
        {"height": 0, "count": 0},
        {"height": 2**31, "step": 2**31},
    ],
)
def test_numbers_that_lie_are_refused_before_memory_is_taken(wrong):
    message = image_message(PIXELS, "rgb8", frame_id="")
    assert np.array_equal(read_picture(lie(message, 5, 7, 21, 105)), PIXELS)
    tracemalloc.start()
    try:
        with pytest.raises(PictureError):
            read_picture(lie(message, **wrong))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_bombs_and_damaged_files_are_refused():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(PictureError):
        read_picture(compressed_message(bomb, "png"))
    with pytest.raises(PictureError):
        read_picture(jpeg()[:200])
    with pytest.raises(PictureError):
        read_picture(b"\xff\xd8\xff")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_refused(data):
    for message in (data, b"\0\1\0\0" + data, b"\0\0\0\0" + data):
        with pytest.raises(PictureError):
            read_picture(message)


@given(st.integers(0, 160), st.integers(0, 255))
def test_a_message_with_one_wrong_byte_is_a_picture_or_refused(at, value):
    message = bytearray(image_message(PIXELS, "rgb8"))
    message[min(at, len(message) - 1)] = value
    try:
        assert read_picture(bytes(message)).dtype == np.uint8
    except PictureError as error:
        assert str(error)


def test_where_pictures_of_a_topic_come_from():
    assert key_expressions("/camera/front/") == ("camera/front", "*/camera/front/*/*")
    for name in ("", "/", "a//b", "a/**", "a b", "$*", "a?b", "@/a"):
        with pytest.raises(UsageError, match="--topic"):
            key_expressions(name)
