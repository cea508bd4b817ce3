"""Masks bit by bit, for numpy and for torch: packed bytes, little bit order, and 64-bit words.

Numpy has functions for packing; torch, on whatever device, gets them from array operations. The
words of a working mask are uint64 in numpy and plain bytes in torch, which has next to no
operations on uint64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any  # a numpy array or a torch tensor


def as_bytes(words: Array) -> Array:
    """The memory of contiguous mask words, last axis (n,), as bytes (8 * n,); bytes stay bytes."""
    return words.view(np.uint8) if isinstance(words, np.ndarray) else words


def pack_bits(bools: Array) -> Array:
    """Last axis (n,) bool or 0 and 1 -> (ceil(n / 8),) uint8, first element in the lowest bit."""
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
    """Last axis (n,) uint8 -> its first `count` bits, all of them for None, as uint8 0 or 1."""
    if isinstance(packed, np.ndarray):
        return np.unpackbits(packed, axis=-1, count=count, bitorder="little")
    xp = array_namespace(packed)
    *rows, size = packed.shape
    bits = (packed[..., None] >> _positions(xp, packed)) & 1
    return xp.reshape(bits, (*rows, size * 8))[..., :count]


def zero_bits(shape: tuple[int, ...], like: Array) -> Array:
    """uint8 zeros beside another array."""
    if isinstance(like, np.ndarray):
        return np.zeros(shape, dtype=np.uint8)
    xp = array_namespace(like)
    return xp.zeros(shape, dtype=xp.uint8, device=like.device)


def _positions(xp: Any, like: Array) -> Array:
    return xp.arange(8, dtype=xp.uint8, device=like.device)
