"""Packed numbers of one or two bits, gathering and scattering mask bits, and byte planes.

Everything is little-endian and lowest bit first, like packed masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.bits import pack_bits, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from condu_cli.core.arrays.layout import Bits

BLOCK_BYTES = 1 << 15  # of packed masks unpacked at a time
BATCH = 1 << 20  # numbers packed at a time

# The four two-bit numbers in each byte value, as bytes in order.
_FOURS = np.array(
    [[byte >> shift & 3 for shift in (0, 2, 4, 6)] for byte in range(256)], dtype=np.uint8
).view(np.uint32)[:, 0]


class Packer:
    """Packs numbers of 1 or 2 bits as they are added, lowest bits first."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._waiting: list[Bits] = []
        self._count = 0
        self._packed: list[Bits] = []

    def add(self, numbers: Bits) -> None:
        """Append uint8 numbers."""
        self._waiting.append(numbers)
        self._count += numbers.size
        if self._count >= BATCH:
            self._pack(self._count // 8 * 8)

    def finish(self) -> Bits:
        """Return all numbers packed, uint8 (ceil(n * width / 8),); unused bits are 0."""
        self._pack(self._count)
        return np.concatenate(self._packed)

    def _pack(self, stop: int) -> None:
        numbers = np.concatenate([np.zeros(0, np.uint8), *self._waiting])
        self._packed.append(_packed(numbers[:stop], self._width))
        self._waiting, self._count = [numbers[stop:]], numbers.size - stop


def _packed(numbers: Bits, width: int) -> Bits:
    if width == 1:
        packed: Bits = pack_bits(numbers)
        return packed
    words = np.pad(numbers, (0, -numbers.size % 4)).view(np.uint32)
    fours: Bits = (words | words >> 6 | words >> 12 | words >> 18).astype(np.uint8)
    return fours


class Unpacker:
    """Reads what a `Packer` wrote, which must be long enough."""

    def __init__(self, packed: Bits, width: int) -> None:
        self._packed = packed
        self._width = width
        self._at = 0

    def take(self, count: int) -> Bits:
        """Return the next `count` numbers."""
        each = 8 // self._width
        first, skipped = divmod(self._at, each)
        self._at += count
        packed = self._packed[first : -(-self._at // each)]
        numbers = unpack_bits(packed) if self._width == 1 else _FOURS[packed].view(np.uint8)
        taken: Bits = numbers[skipped : skipped + count]
        return taken


def gathered(masks: Sequence[tuple[Bits, Bits | None]], within: Bits) -> list[Bits]:
    """Pack the bits of each mask, or of the XOR of two, at the set bits of `within`."""
    packers = [Packer(1) for _ in masks]
    for start in range(0, within.size, BLOCK_BYTES):
        part = slice(start, start + BLOCK_BYTES)
        where = np.flatnonzero(unpack_bits(within[part]).view(np.bool_))
        for (mask, other), packer in zip(masks, packers, strict=True):
            bits = mask[part] if other is None else mask[part] ^ other[part]
            packer.add(unpack_bits(bits).take(where))
    return [packer.finish() for packer in packers]


def scattered(packed: Sequence[Bits], within: Bits) -> list[Bits]:
    """Undo `gathered`: return packed masks with zeros where `within` is 0."""
    readers = [Unpacker(bits, 1) for bits in packed]
    masks = [np.zeros_like(within) for _ in packed]
    for start in range(0, within.size, BLOCK_BYTES):
        part = slice(start, start + BLOCK_BYTES)
        inside = unpack_bits(within[part])
        where = np.flatnonzero(inside.view(np.bool_))
        for reader, mask in zip(readers, masks, strict=True):
            bits = np.zeros_like(inside)
            bits[where] = reader.take(where.size)
            mask[part] = pack_bits(bits)
    return masks


def packed_size(numbers: int, width: int = 1) -> int:
    """Return the bytes that hold this many numbers of `width` bits."""
    return -(-numbers * width // 8)


def planes_of(array: NDArray[Any]) -> Bits:
    """Return the lowest bytes of all numbers, then the second ones and so on."""
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return np.ascontiguousarray(planes).reshape(-1)


def from_planes(planes: Bits, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo `planes_of`; return a flat array."""
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
