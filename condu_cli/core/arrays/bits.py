"""Pack and unpack mask bits in numpy and torch: bytes in little bit order, and 64-bit words.

Numpy has functions for packing; for torch, on any device, array operations do it. The words of a
working mask are uint64 in numpy and plain bytes in torch, which has almost no operations on uint64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any  # a numpy array or a torch tensor


def as_bytes(words: Array) -> Array:
    """View contiguous mask words, last axis (n,), as bytes (8 * n,); bytes stay bytes."""
    return words.view(np.uint8) if isinstance(words, np.ndarray) else words


def pack_bits(bools: Array) -> Array:
    """Pack the last axis (n,), bool or 0 and 1, into (ceil(n / 8),) uint8, lowest bit first."""
    if isinstance(bools, np.ndarray):
        return np.packbits(bools, axis=-1, bitorder="little")
    xp = array_namespace(bools)
    *rows, size = bools.shape
    count = -(-size // 8)
    bits = xp.astype(bools, xp.uint8)
    if size % 8:
        bits = xp.concat([bits, zero_bits((*rows, count * 8 - size), bits)], axis=-1)
    grouped = xp.reshape(bits, (*rows, count, 8))
    return xp.sum(grouped << _positions(xp, grouped), axis=-1, dtype=xp.uint8)


def unpack_bits(packed: Array, count: int | None = None) -> Array:
    """Unpack the first `count` bits (None: all) of the last axis (n,) uint8, as uint8 0 or 1."""
    if isinstance(packed, np.ndarray):
        return np.unpackbits(packed, axis=-1, count=count, bitorder="little")
    xp = array_namespace(packed)
    *rows, size = packed.shape
    bits = (packed[..., None] >> _positions(xp, packed)) & 1
    return xp.reshape(bits, (*rows, size * 8))[..., :count]


def zero_bits(shape: tuple[int, ...], like: Array) -> Array:
    """Return uint8 zeros on the platform of another array."""
    if isinstance(like, np.ndarray):
        return np.zeros(shape, dtype=np.uint8)
    xp = array_namespace(like)
    return xp.zeros(shape, dtype=xp.uint8, device=like.device)


def _positions(xp: Any, like: Array) -> Array:
    return xp.arange(8, dtype=xp.uint8, device=like.device)
