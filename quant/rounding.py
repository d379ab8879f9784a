"""The number formats: what is stored for a matrix, and what it stands for. The only file that rounds a weight.

Every format has its inverse here, so that a kernel can be compared with what its weights say, and not with a hope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INT8_MOST = 127
"""Largest whole number of a symmetric int8 row; -128 is left unused, so that a row and its negative round alike."""
WIDE = 1024
"""Rows of this many inputs average more errors, so their 4-bit blocks may be larger: 4.5 bits a weight, not 5."""
_SHRUNK = np.linspace(1.0, 0.7, 7, dtype=np.float32)  # scales tried for a 4-bit block; clipping its ends often pays


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A matrix in 4 or 8 bits, `block` neighbouring inputs of a row under one scale.

    What onnxruntime's MatMulNBits and QMoE store without zero points: unsigned numbers around 2^(bits-1), and of two
    4-bit numbers the earlier in the low half of the byte.
    """

    packed: NDArray[np.uint8]
    """[..., N, K / block, block * bits / 8]"""
    scales: Floats
    """[..., N, K / block]"""
    bits: int
    """4 or 8."""

    def restored(self) -> Floats:
        """The matrix [..., N, K] that is stored."""
        numbers = self.packed
        if self.bits == 4:
            numbers = np.stack([numbers & 15, numbers >> 4], -1).reshape(*numbers.shape[:-1], -1)
        middle = 1 << (self.bits - 1)
        values = (numbers.astype(np.float32) - middle) * self.scales[..., None]
        return values.reshape(*values.shape[:-2], -1)


def int4_block(inputs: int) -> int:
    """How many inputs of a row of `inputs` share a scale in 4 bits."""
    return 64 if inputs >= WIDE else 32


def to_int8(rows: Floats) -> tuple[Floats, NDArray[np.int8]]:
    """Scales [..., 1] and whole numbers -127..127 [..., n] of rows [..., n]; scale times number is the value."""
    scales = np.abs(rows).max(axis=-1, keepdims=True) / INT8_MOST
    scales[scales == 0] = 1.0
    numbers = np.clip(np.round(rows / scales), -INT8_MOST, INT8_MOST)
    return scales.astype(np.float32), numbers.astype(np.int8)


def to_blocks(matrix: Floats, bits: int, block: int) -> Blocks:
    """Round a matrix [..., N, K], K a multiple of `block`, to 4 or 8 bits.

    The number of the largest magnitude becomes the lowest that can be stored, which has one more step than the
    highest. In 4 bits smaller scales are tried as well, block by block, and the one with the least squared error taken.
    """
    rows = matrix.reshape(*matrix.shape[:-1], -1, block)  # [..., N, K / block, block]
    middle = 1 << (bits - 1)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(-1, keepdims=True), -1)
    widest = (largest / -middle).astype(np.float32)
    widest[widest == 0] = 1.0
    scales = widest
    numbers: NDArray[np.uint8] = _numbers(rows, widest, middle)
    if bits == 4:
        least = _squared_error(rows, numbers, scales, middle)
        for factor in _SHRUNK[1:]:
            tried = widest * factor
            other = _numbers(rows, tried, middle)
            error = _squared_error(rows, other, tried, middle)
            better = error < least
            numbers, scales = np.where(better, other, numbers), np.where(better, tried, scales)
            least = np.where(better, error, least)
        numbers = (numbers[..., 0::2] | (numbers[..., 1::2] << 4)).astype(np.uint8)
    return Blocks(np.ascontiguousarray(numbers), np.ascontiguousarray(scales[..., 0]), bits)


def _numbers(rows: Floats, scales: Floats, middle: int) -> NDArray[np.uint8]:
    numbers: NDArray[np.uint8] = np.clip(np.round(rows / scales) + middle, 0, 2 * middle - 1).astype(np.uint8)
    return numbers


def _squared_error(rows: Floats, numbers: NDArray[np.uint8], scales: Floats, middle: int) -> Floats:
    errors: Floats = ((numbers.astype(np.float32) - middle) * scales - rows) ** 2
    summed: Floats = errors.sum(-1, keepdims=True)
    return summed
