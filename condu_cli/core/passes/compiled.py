"""The inner loops of unify and decouple, compiled by numba.

The functions are those of `vectorised`, with the same results bit for bit; that module documents
them. They work on one 64-bit mask word and its 64 elements at a time, in loops of fixed length that
the compiler vectorises. Sums are kept in 64 lanes, one for each position in a word, and folded at
the end of a segment, so that their order does not depend on the processor's vector width. Importing
this module fails without numba. The first call on a machine compiles for a few seconds and caches
the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from condu_cli.core.arrays.layout import Extremes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LANES = 64
ONE = np.uint64(1)
ZERO32 = np.float32(0)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that releases the interpreter's lock; cache it if possible."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's nor the user's cache folder is writable
        return njit(**options)(function)  # type: ignore[no-any-return]


def extremes(values: NDArray[np.float32]) -> Extremes:
    """See `vectorised.extremes`."""
    smallest, largest = _extreme_patterns(values.view(np.uint32))
    return Extremes(int(smallest), int(largest))


@_compile
def _extreme_patterns(patterns):  # type: ignore[no-untyped-def]
    smallest, largest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for segment in range(patterns.shape[0]):
        row = patterns[segment]
        for k in range(row.size):
            magnitude = row[k] & np.uint32(0x7FFFFFFF)
            largest = max(largest, magnitude)
            smallest = min(smallest, np.uint32(magnitude - np.uint32(1)))
    return smallest, largest


@_compile
def elect(old, new, masks, rescalers, merged, out):  # type: ignore[no-untyped-def]
    """See `vectorised.elect`."""
    tasks, segments, words = masks.shape
    sums = np.empty(LANES, np.float64)
    largest = np.empty(LANES, np.float32)
    for segment in range(segments):
        # Separate row arrays: the compiler can tell that indices are not negative.
        old_row, new_row, merged_row = old[segment], new[segment], merged[segment]
        for word in range(words):
            sums[:] = 0.0
            largest[:] = ZERO32
            for task in range(tasks):
                bits = masks[task, segment, word]
                if bits != 0:
                    _add_owner(bits, rescalers[task, segment], sums, largest)
            kept, mine = np.uint64(0), np.uint64(0)
            for k in range(LANES):
                u, delta = old_row[word * LANES + k], new_row[word * LANES + k]
                wide = np.float64(u)
                upper = np.float64(np.float32(sums[k]))
                total = (wide * upper + np.float64(delta)) + wide * (sums[k] - upper)
                positive = total > 0.0
                side = u * largest[k]
                high, low = max(side, delta), min(side, delta)
                merged_row[word * LANES + k] = (high if positive else low) + ZERO32
                kept |= np.uint64((u > 0) if positive else (u < 0)) << np.uint64(k)
                mine |= np.uint64((delta > 0) if positive else (delta < 0)) << np.uint64(k)
            for task in range(tasks):
                out[task, segment, word] = masks[task, segment, word] & kept
            if out.shape[0] > tasks:
                out[tasks, segment, word] = mine


@_compile
def _add_owner(bits, rescaler, sums, largest):  # type: ignore[no-untyped-def]
    """Update the sums and maxima with one task's rescaler where its bit is set."""
    short = np.float32(rescaler)
    for k in range(LANES):
        sums[k] += rescaler if (bits >> np.uint64(k)) & ONE else 0.0
    for k in range(LANES):
        owned = short if (bits >> np.uint64(k)) & ONE else ZERO32
        largest[k] = max(largest[k], owned)


@_compile
def _fold(lanes, out, segment):  # type: ignore[no-untyped-def]
    """Add up every task's lanes in order, to its sum over the segment."""
    for task in range(lanes.shape[0]):
        total = 0.0
        for k in range(LANES):
            total += lanes[task, k]
        out[task, segment] = total


@_compile
def norms(values, masks, out):  # type: ignore[no-untyped-def]
    """See `vectorised.norms`."""
    tasks, segments, words = masks.shape
    lanes = np.empty((tasks, LANES), np.float64)
    magnitudes = np.empty(LANES, np.float64)
    for segment in range(segments):
        lanes[:] = 0.0
        for word in range(words):
            for k in range(LANES):
                magnitudes[k] = abs(values[segment, word * LANES + k])
            for task in range(tasks):
                bits = masks[task, segment, word]
                if bits != 0:
                    for k in range(LANES):
                        owned = magnitudes[k] if (bits >> np.uint64(k)) & ONE else 0.0
                        lanes[task, k] += owned
        _fold(lanes, out, segment)


@_compile
def moved(old, new, masks_before, masks_after, before, after, out):  # type: ignore[no-untyped-def]
    """See `vectorised.moved`."""
    tasks, segments, words = masks_before.shape
    lanes = np.empty((tasks, LANES), np.float64)
    for segment in range(segments):
        lanes[:] = 0.0
        for word in range(words):
            first = word * LANES
            for task in range(tasks):
                was, stays = masks_before[task, segment, word], masks_after[task, segment, word]
                if was | stays != 0:
                    one = np.float32(before[task, segment])
                    other = np.float32(after[task, segment])
                    for k in range(LANES):
                        x = old[segment, first + k] * one
                        y = new[segment, first + k] * other
                        x = x if (was >> np.uint64(k)) & ONE else ZERO32
                        y = y if (stays >> np.uint64(k)) & ONE else ZERO32
                        lanes[task, k] += abs(np.float64(y) - np.float64(x))
        _fold(lanes, out, segment)


@_compile
def largest(masks, rescalers, out):  # type: ignore[no-untyped-def]
    """See `vectorised.largest`."""
    tasks, segments, words = masks.shape
    lanes = np.empty(LANES, np.float32)
    for segment in range(segments):
        out_row = out[segment]
        for word in range(words):
            lanes[:] = ZERO32
            for task in range(tasks):
                bits = masks[task, segment, word]
                if bits != 0:
                    short = np.float32(rescalers[task, segment])
                    for k in range(LANES):
                        owned = short if (bits >> np.uint64(k)) & ONE else ZERO32
                        lanes[k] = max(lanes[k], owned)
            for k in range(LANES):
                out_row[word * LANES + k] = lanes[k]


@_compile
def add_expert(base, unified, mask, rescalers, out):  # type: ignore[no-untyped-def]
    """See `vectorised.add_expert`."""
    segments, words = mask.shape
    for segment in range(segments):
        rescaler = np.float32(rescalers[segment])
        for word in range(words):
            bits = mask[segment, word]
            first = word * LANES
            for k in range(LANES):
                delta = unified[segment, first + k] * rescaler
                delta = delta if (bits >> np.uint64(k)) & ONE else ZERO32
                out[segment, first + k] = base[segment, first + k] + delta
