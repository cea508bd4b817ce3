"""The inner loops of unify and decouple as array operations, for numpy and for torch.

Written against the array API standard, so the same code runs on numpy arrays, if numba is not
installed, and on torch tensors on any device. `compiled` has the same functions as loops.

Working arrays have the shape (segments, padded) of `segments.Chunk`; masks are 64-bit words of
shape (tasks, segments, padded / 64) or, as bytes, (tasks, segments, padded / 8). Notation of
ConDU (arXiv 2503.10705): delta_i, unified delta u, mask M_i, rescaler l_i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace

from condu_cli.core.arrays.bits import as_bytes, pack_bits, unpack_bits
from condu_cli.core.arrays.layout import Extremes

if TYPE_CHECKING:
    from condu_cli.core.arrays.bits import Array

LANES = 64


def extremes(values: Array) -> Extremes:
    """Return the smallest nonzero and largest magnitude as bit patterns; `values` contiguous."""
    magnitudes = _magnitudes(values)
    if isinstance(values, np.ndarray):
        return Extremes(int((magnitudes - np.uint32(1)).min()), int(magnitudes.max()))
    xp = array_namespace(values)
    below = xp.where(magnitudes == 0, 0x7FFFFFFF, magnitudes - 1)
    smallest, largest = xp.stack([xp.min(below), xp.max(magnitudes)]).tolist()  # one transfer
    return Extremes(smallest, largest)


def drop_underflow(old: Array, masks: Array, rescalers: Array) -> None:
    """Clear, in place, the mask bits of experts whose element underflows to 0.

    `old`: float32 (segments, padded); `masks`: words (tasks, segments, padded / 64); `rescalers`:
    float64 (tasks, segments). Rarely needed, so there is no compiled version: `unify` checks first.
    """
    xp = array_namespace(old)
    bits = as_bytes(masks)
    for task in range(len(bits)):
        expert = _expert(xp, old, bits[task, ...], rescalers[task, ...])
        bits[task, ...] = pack_bits(expert != 0)


def drop_smallest(rows: Array, count: int) -> None:
    """Set the `count` smallest magnitudes of each row to 0, in place: float32 (rows, n), finite.

    Of equal magnitudes the first in the row go first, so the result depends on nothing but the
    row. Zeros are the smallest; none stays negative. Numpy selects as fast as compiled loops would,
    so there are none.
    """
    if not count:
        return
    xp = array_namespace(rows)
    magnitudes = _magnitudes(rows)
    if isinstance(rows, np.ndarray):
        last = np.partition(magnitudes, count - 1, axis=1)[:, count - 1 : count]
    else:
        last = xp.kthvalue(magnitudes, count, dim=1, keepdim=True).values
    dropped = magnitudes <= last
    tied = xp.sum(xp.astype(dropped, xp.int32), axis=1)[:, None] > count
    if bool(xp.any(tied & (last > 0))):  # more zeros than `count` need no choice
        below = magnitudes < last
        equal = xp.astype(magnitudes == last, xp.int32)
        missing = count - xp.sum(xp.astype(below, xp.int32), axis=1)[:, None]
        first = (xp.cumulative_sum(equal, axis=1) <= missing) | (last == 0)
        dropped = below | ((equal > 0) & first)
    rows[...] = xp.where(dropped, xp.zeros_like(rows), rows)


def elect(
    old: Array, new: Array, masks: Array, rescalers: Array, merged: Array, out: Array
) -> None:
    """Elect one chunk: the largest value on the side of S = old * sum_i(l_i M_i) + new.

    `old` and `new`: float32 (segments, padded), the old unified delta and the new task's delta.
    `masks`: (tasks, segments, words). `rescalers`: float64 (tasks, segments), float32 values.
    Writes `merged`, float32 (segments, padded), the new unified delta, and `out`, the new masks of
    the old tasks and, if it has room for one more, of the new task.

    A rescaler is a float32 value, so l_i * u is exact in float64. The sum of rescalers is split
    into two parts whose products with old are exact too; `new` is added to the first. Where they
    cancel, that sum has no error; elsewhere the second part is too small to matter. So the sign of
    S is exact. S = 0 elects the negative side. No result is -0.
    """
    xp = array_namespace(old)
    total, largest = _sum_and_largest(xp, masks, rescalers, old)
    wide, added = xp.astype(old, xp.float64), xp.astype(new, xp.float64)
    upper = xp.astype(xp.astype(total, xp.float32), xp.float64)
    positive = (wide * upper + added) + wide * (total - upper) > 0
    side = old * largest
    merged[...] = xp.where(positive, xp.maximum(side, new), xp.minimum(side, new)) + 0.0
    kept = pack_bits(xp.where(positive, old > 0, old < 0))
    old_bytes, new_bytes = as_bytes(masks), as_bytes(out)
    for task in range(old_bytes.shape[0]):
        new_bytes[task, ...] = old_bytes[task, ...] & kept
    if new_bytes.shape[0] > old_bytes.shape[0]:
        new_bytes[-1, ...] = pack_bits(xp.where(positive, new > 0, new < 0))


def norms(values: Array, masks: Array, out: Array) -> None:
    """Write ||M_i * values||_1 per task and segment, float64 (tasks, segments), to `out`."""
    xp = array_namespace(values)
    magnitudes = xp.astype(xp.abs(values), xp.float64)
    zero = xp.zeros_like(magnitudes)
    bits = as_bytes(masks)
    for task in range(bits.shape[0]):
        out[task, ...] = _total(xp, xp.where(_unpacked(xp, bits[task, ...]), magnitudes, zero))


def moved(
    old: Array,
    new: Array,
    masks_before: Array,
    masks_after: Array,
    before: Array,
    after: Array,
    out: Array,
) -> None:
    """Write ||l'_i M'_i * new - l_i M_i * old||_1 per task, float64 (tasks, segments), to `out`.

    `old` and `new` are two unified deltas, `before` and `after` rescalers (tasks, segments).
    """
    xp = array_namespace(old)
    first, second = as_bytes(masks_before), as_bytes(masks_after)
    for task in range(first.shape[0]):
        was = _expert(xp, old, first[task, ...], before[task, ...])
        now = _expert(xp, new, second[task, ...], after[task, ...])
        difference = xp.astype(now, xp.float64) - xp.astype(was, xp.float64)
        out[task, ...] = _total(xp, xp.abs(difference))


def largest(masks: Array, rescalers: Array, out: Array) -> None:
    """Write max{l_i : M_i = 1} of every element, 0 if none is set, float32 (segments, padded).

    `masks`: (tasks, segments, words). `rescalers`: float64 (tasks, segments), float32 values.
    """
    xp = array_namespace(out)
    out[...] = 0
    bits = as_bytes(masks)
    for task in range(bits.shape[0]):
        short = xp.astype(rescalers[task, ...], xp.float32)[:, None]
        owned = xp.where(_unpacked(xp, bits[task, ...]), short, xp.zeros_like(short))
        out[...] = xp.maximum(out, owned)


def add_expert(base: Array, unified: Array, mask: Array, rescalers: Array, out: Array) -> None:
    """Write base + l M * unified to `out`, all float32 (segments, padded).

    `mask`: (segments, words). `rescalers`: float64 (segments,).
    """
    xp = array_namespace(unified)
    out[...] = base + _expert(xp, unified, as_bytes(mask), rescalers)


def _magnitudes(values: Array) -> Array:
    """Return the bit patterns without signs, which sort like magnitudes: uint32; torch int32."""
    if isinstance(values, np.ndarray):
        return values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    return values.view(array_namespace(values).int32) & 0x7FFFFFFF


def _expert(xp: Any, unified: Array, mask: Array, rescalers: Array) -> Array:
    # Mask first: the product might overflow where the expert owns nothing.
    owned = xp.where(_unpacked(xp, mask), unified, xp.zeros_like(unified))
    return owned * xp.astype(rescalers, xp.float32)[:, None]


def _sum_and_largest(xp: Any, masks: Array, rescalers: Array, old: Array) -> tuple[Array, Array]:
    """Return sum_i(l_i M_i) as float64 and max_i(l_i M_i) as float32, per element."""
    total = xp.zeros_like(old, dtype=xp.float64)
    largest = xp.zeros_like(total)
    zero = xp.zeros_like(total)
    bits = as_bytes(masks)
    for task in range(bits.shape[0]):
        owned = xp.where(_unpacked(xp, bits[task, ...]), rescalers[task, ...][:, None], zero)
        total += owned
        largest = xp.maximum(largest, owned)
    return total, xp.astype(largest, xp.float32)


def _total(xp: Any, magnitudes: Array) -> Array:
    """Sum each segment: 64 lanes, one for each position in a mask word, then the lanes in order.

    Only numpy needs that order, to agree with `compiled` bit for bit. Torch adds in any order: its
    cumulative sum is not even deterministic on CUDA.
    """
    if not isinstance(magnitudes, np.ndarray):
        return xp.sum(magnitudes, axis=1)
    segments, padded = magnitudes.shape
    lanes = xp.sum(xp.reshape(magnitudes, (segments, padded // LANES, LANES)), axis=1)
    return xp.cumulative_sum(lanes, axis=1)[:, -1]


def _unpacked(xp: Any, packed: Array) -> Array:
    """Unpack bytes (segments, padded / 8) to bool (segments, padded), lowest bit first."""
    return unpack_bits(packed).view(xp.bool)
