"""Numbers of a bit or two, packed; bits picked out of masks and put back; byte planes.

All of it little-endian and lowest bits first, like packed masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.bits import pack_bits, unpack_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from condu_cli.core.arrays.layout import Bits

BLOCK_BYTES = 1 << 15  # of packed masks that are unpacked in one go
BATCH = 1 << 20  # numbers that wait to be packed

# The four numbers of two bits in a byte, as bytes in order.
_FOURS = np.array(
    [[byte >> shift & 3 for shift in (0, 2, 4, 6)] for byte in range(256)], dtype=np.uint8
).view(np.uint32)[:, 0]


class Packer:
    """Numbers of 1 or 2 bits, packed as they come in; the lowest bits first."""

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
        """All that were added, uint8 (ceil(n * width / 8),); unused bits are 0."""
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
    """Reads what a `Packer` made, of which enough must be there."""

    def __init__(self, packed: Bits, width: int) -> None:
        self._packed = packed
        self._width = width
        self._at = 0

    def take(self, count: int) -> Bits:
        """The next so many numbers."""
        each = 8 // self._width
        first, skipped = divmod(self._at, each)
        self._at += count
        packed = self._packed[first : -(-self._at // each)]
        numbers = unpack_bits(packed) if self._width == 1 else _FOURS[packed].view(np.uint8)
        taken: Bits = numbers[skipped : skipped + count]
        return taken


def gathered(masks: Sequence[tuple[Bits, Bits | None]], within: Bits) -> list[Bits]:
    """Of each packed mask, or of two XORed, the bits at the set bits of `within`, packed."""
    packers = [Packer(1) for _ in masks]
    for start in range(0, within.size, BLOCK_BYTES):
        part = slice(start, start + BLOCK_BYTES)
        where = np.flatnonzero(unpack_bits(within[part]).view(np.bool_))
        for (mask, other), packer in zip(masks, packers, strict=True):
            bits = mask[part] if other is None else mask[part] ^ other[part]
            packer.add(unpack_bits(bits).take(where))
    return [packer.finish() for packer in packers]


def scattered(packed: Sequence[Bits], within: Bits) -> list[Bits]:
    """Undo `gathered`: packed masks with zeros where `within` has one."""
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
    """How many bytes hold so many numbers of `width` bits."""
    return -(-numbers * width // 8)


def planes_of(array: NDArray[Any]) -> Bits:
    """The lowest byte of every number, then the second ones and so on."""
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return np.ascontiguousarray(planes).reshape(-1)


def from_planes(planes: Bits, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo `planes_of`; the array is flat."""
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
