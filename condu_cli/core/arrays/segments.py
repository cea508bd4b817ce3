"""How a streaming pass cuts tensors: into segments, and chunks of segments.

A segment is the unit of every sum: a row where rows matter (each has a rescaler or a scale), else a
fixed run of `SEGMENT` elements. A chunk is the run of segments that one thread works on at a time.
Sums are taken within segments and then added up in order, so no result depends on the size of
chunks or the number of threads.

In a chunk's working arrays, shape (segments, padded), every segment starts at a multiple of 64
elements, so that no 64-bit mask word spans two segments. Rows whose length is not a multiple of 64
are moved apart for that; otherwise the working arrays are plain copies. The code runs on numpy
arrays and on torch tensors.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from condu_cli.core.arrays.bits import as_bytes, pack_bits, unpack_bits, zero_bits
from condu_cli.core.arrays.layout import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.layout import ParameterLayout

SEGMENT = 4096  # elements
BLOCK_SIZE = 1 << 18  # elements: fits the processor's cache, and needs few steps in Python


class Chunk(NamedTuple):
    """A run of whole segments of one tensor.

    `first` counts segments from the tensor's start; `start` and `stop` count elements. `length` is
    the number of elements in a segment, `padded` the same rounded up to a multiple of 64; `mask` is
    the slice of bytes of a packed mask that holds the chunk's bits.
    """

    tensor: int
    first: int
    segments: int
    start: int
    stop: int
    length: int
    padded: int
    mask: slice

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    @property
    def room(self) -> int:
        """Number of elements of a working array."""
        return self.segments * self.padded

    @property
    def is_plain(self) -> bool:
        """Whether segments follow each other in a working array as they do in the tensor."""
        return self.length == self.padded or self.segments == 1

    def values(self, working: Array) -> Array:
        """Return the elements of a working array (segments, padded), without padding.

        It is a view of shape (1, size) for a plain chunk, else (segments, length).
        """
        if self.is_plain:
            return working.reshape(1, -1)[:, : self.size]
        return working[:, : self.length]

    @property
    def is_full(self) -> bool:
        """Whether there is no padding, so that a view of the tensor can be the working array."""
        return self.size == self.room

    def view(self, tensor: Array) -> Array:
        """View the elements of a full chunk in a flat tensor as (segments, padded)."""
        return tensor[self.start : self.stop].reshape(self.segments, self.padded)

    def clear_padding(self, working: Array) -> None:
        """Set the padding to 0."""
        if self.is_plain:
            working.reshape(-1)[self.size :] = 0
        else:
            working[:, self.length :] = 0

    def load(self, tensor: Array, working: Array) -> None:
        """Copy the chunk's elements of a flat tensor into a working array, padded with 0."""
        values = self.values(working)
        values[...] = tensor[self.start : self.stop].reshape(values.shape)
        self.clear_padding(working)

    def load_bits(self, mask: Array, words: Array) -> None:
        """Copy the chunk's bits of a packed mask into words of shape (segments, padded / 64).

        `mask` is read with one slice; words are uint64, in torch bytes (segments, padded / 8).
        """
        stored = mask[self.mask]
        if not self.is_plain:
            bits = unpack_bits(stored, self.size)
            padded = zero_bits((self.segments, self.padded), bits)
            padded[:, : self.length] = bits.reshape(self.segments, self.length)
            stored = pack_bits(padded.reshape(-1))
        target = as_bytes(words.reshape(-1))
        target[: len(stored)] = stored
        target[len(stored) :] = 0

    def store_bits(self, words: Array, mask: Array) -> None:
        """Write words, as from `load_bits`, into a packed mask."""
        packed = as_bytes(words.reshape(-1))
        if not self.is_plain:
            bits = unpack_bits(packed).reshape(self.segments, self.padded)
            packed = pack_bits(bits[:, : self.length].reshape(-1))
        out = mask[self.mask]
        out[...] = packed[: len(out)]


class Segmentation:
    """The segments of every tensor of a layout: its rows, or runs of `SEGMENT` elements."""

    def __init__(self, layout: ParameterLayout, *, by_row: bool) -> None:
        self.layout = layout
        self.by_row = by_row

    def chunks(self, block_size: int = BLOCK_SIZE) -> Iterator[Chunk]:
        """Cut all tensors, in order, into chunks of about `block_size` elements.

        A chunk is at least one segment, so a longer row is a chunk by itself. Raises ValueError if
        `block_size` is not a positive multiple of 64.
        """
        if block_size < 1 or block_size % ALIGNMENT:
            raise ValueError(
                f"a block size must be a positive multiple of {ALIGNMENT}, not {block_size}"
            )
        for tensor in range(len(self.layout.names)):
            yield from self._tensor_chunks(tensor, block_size)

    def _tensor_chunks(self, tensor: int, block_size: int) -> Iterator[Chunk]:
        size = self.layout.sizes[tensor]
        if not size:
            return
        length = self.layout.row_sizes[tensor] if self.by_row else min(SEGMENT, _round_up(size))
        padded = _round_up(length)
        segments = -(-size // length)
        # Chunks meet at word boundaries of the mask, so that threads never share a word.
        step = ALIGNMENT // gcd(length, ALIGNMENT)
        step *= max(1, block_size // (padded * step))
        first_byte = self.layout.mask_offsets[tensor] // 8
        for first in range(0, segments, step):
            count = min(step, segments - first)
            start, stop = first * length, min((first + count) * length, size)
            mask = slice(first_byte + start // 8, first_byte + (stop + 7) // 8)
            yield Chunk(tensor, first, count, start, stop, length, padded, mask)


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
