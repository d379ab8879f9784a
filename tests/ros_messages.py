"""Camera messages of ROS 2, encoded with pycdr2 from the message definitions of sensor_msgs."""

# No `from __future__ import annotations` here: pycdr2 reads the fields' types themselves.
from dataclasses import dataclass

import numpy as np
from pycdr2 import Endianness, IdlStruct
from pycdr2.types import int32, sequence, uint8, uint32


@dataclass
class Time(IdlStruct, typename="builtin_interfaces/Time"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs/Header"):
    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename="sensor_msgs/Image"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class CompressedImage(IdlStruct, typename="sensor_msgs/CompressedImage"):
    header: Header
    format: str
    data: sequence[uint8]


IMAGE_KEY = "0/{}/sensor_msgs::msg::dds_::Image_/RIHS01_0"
COMPRESSED_KEY = "0/{}/sensor_msgs::msg::dds_::CompressedImage_/RIHS01_0"
"""Where rmw_zenoh puts them: domain, topic, type, hash of the type."""


def image_message(pixels, encoding, *, frame_id="camera", big=False, padding=0):
    """[H, W, C] as an Image; each row has `padding` bytes behind it."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, width * channels + padding), np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    header = Header(Time(1, 2), frame_id)
    image = Image(header, height, width, encoding, 0, rows.shape[1], list(rows.tobytes()))
    return image.serialize(endianness=_order(big))


def compressed_message(data, name, *, frame_id="camera", big=False):
    """A file as a CompressedImage."""
    image = CompressedImage(Header(Time(1, 2), frame_id), name, list(data))
    return image.serialize(endianness=_order(big))


def _order(big):
    return Endianness.Big if big else Endianness.Little
