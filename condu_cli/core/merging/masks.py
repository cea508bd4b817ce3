"""Masks as packed bits: one bit per parameter, little bit order, each tensor 64-bit aligned.

Numpy packs and unpacks; bitarray counts and compares, several times faster than numpy.
Padding bits between tensors are always 0, so counts need no layout.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from bitarray import bitarray
from bitarray.util import count_and, count_or

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.bits import pack_bits as pack_bits
from condu_cli.core.arrays.bits import unpack_bits as unpack_bits
from condu_cli.core.arrays.layout import Bits, Bools, InvalidStateError, ParameterLayout
from condu_cli.core.arrays.platform import Platform
from condu_cli.core.arrays.platforms import NUMPY


class MaskBytes(Protocol):
    """A packed mask: uint8 (layout.mask_bytes,), in memory or expanded slice by slice."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(layout.mask_bytes,)."""

    def __getitem__(self, part: slice, /) -> Bits:
        """Return the bytes of a slice with step 1."""


class Overlap(NamedTuple):
    """The number of parameters in both masks, and in either."""

    both: int
    either: int

    @property
    def jaccard(self) -> float:
        """both / either, in 0..1; 1 for two empty masks."""
        return self.both / self.either if self.either else 1.0


def tensor_mask(packed: MaskBytes, layout: ParameterLayout, name: str) -> Bools:
    """Return one parameter's mask as a bool array of its shape, reading only its bytes.

    Raises KeyError for an unknown name.
    """
    tensor = layout.index(name)
    size, first = layout.sizes[tensor], layout.mask_offsets[tensor] // 8
    bits = unpack_bits(packed[first : first + (size + 7) // 8], size)
    mask: Bools = bits.view(np.bool_).reshape(layout.shapes[tensor])
    return mask


def count(packed: MaskBytes) -> int:
    """Return the number of set bits."""
    return _bitarray(packed).count()


def overlap(first: Bits, second: Bits) -> Overlap:
    """Compare two packed masks of the same layout.

    Raises ValueError if their lengths differ.
    """
    if first.size != second.size:
        raise ValueError(f"masks of {first.size} and {second.size} bytes cannot be compared")
    one, other = _bitarray(first), _bitarray(second)
    return Overlap(both=count_and(one, other), either=count_or(one, other))


def check_mask(
    packed: MaskBytes | Array,
    layout: ParameterLayout,
    label: str = "mask",
    platform: Platform = NUMPY,
) -> None:
    """Check a stored packed mask: dtype, length, and padding bits all 0.

    Raises InvalidStateError naming `label`.
    """
    expected = (layout.mask_bytes,)
    if not platform.holds(packed, np.dtype(np.uint8)) or tuple(packed.shape) != expected:
        found = f"{packed.dtype} {tuple(packed.shape)}"
        raise InvalidStateError(label, f"is {found}, not uint8 {expected}")
    starts = zip(layout.mask_offsets, layout.sizes, strict=True)
    ends = (*layout.mask_offsets, layout.mask_bytes * 8)[1:]
    tails = [
        slice((first + size) // 8, end // 8)
        for (first, size), end in zip(starts, ends, strict=True)
    ]
    for name, size, tail in zip(
        layout.names, layout.sizes, platform.parts_of(packed, tails), strict=True
    ):
        if int.from_bytes(tail, "little") >> (size % 8):
            raise InvalidStateError(label, f"has padding bits set after parameter {name!r}")


def _bitarray(packed: MaskBytes) -> bitarray:
    return bitarray(buffer=np.ascontiguousarray(packed), endian="little")
