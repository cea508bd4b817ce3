"""Entropy coding of bytes: deflate in pieces, by the standard library.

The data repeats little except in runs of one byte, which Z_RLE finds; the Huffman codes do the
rest. On the streams of a reverse patch this is about as fast as Huffman codes alone, and smaller
if an embedding was not used; searching for other matches took longer and found nothing.

A stream is uint8 (n,), all numbers little-endian:

    uint64              size: the number of bytes before compression
    uint32 per piece    its compressed length; each piece holds PIECE bytes, the last one the
                        rest; size 0 has no pieces
    the pieces          raw deflate, each independent, so that threads can share the work
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from condu_cli.core.arrays.layout import Bits, InvalidStateError
from condu_cli.core.passes import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

PIECE = 1 << 20
SIZE, LENGTH = np.dtype("<u8"), np.dtype("<u4")
LARGEST_RATIO = 1032  # of deflate: 258 bytes for two bits

T = TypeVar("T")
U = TypeVar("U")


def compress(data: NDArray[Any], threads: int | None = None) -> Bits:
    """Compress an array's bytes to a stream, uint8 (n,); equal for any number of threads."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    pieces = [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]
    packed = _shared(_deflate, pieces, threads)
    header = np.array([flat.size], SIZE).tobytes()
    lengths = np.array([len(piece) for piece in packed], LENGTH).tobytes()
    return np.frombuffer(bytearray().join([header, lengths, *packed]), dtype=np.uint8)


def size_of(stream: NDArray[Any], name: str) -> int:
    """Return how many bytes a stream claims to hold; the claim is not checked.

    Raises InvalidStateError naming `name` for an array that is not a stream.
    """
    if stream.dtype != np.uint8 or stream.ndim != 1 or stream.size < SIZE.itemsize:
        raise InvalidStateError(name, f"is {stream.dtype} {stream.shape}, not a stream of bytes")
    return int.from_bytes(stream[: SIZE.itemsize].tobytes(), "little")


def decompress(stream: NDArray[Any], name: str, size: int, threads: int | None = None) -> Bits:
    """Decompress a stream to its `size` bytes, uint8 (size,).

    Raises InvalidStateError naming `name` for anything but a complete stream of this size.
    Memory is allocated only once the stream is known to be long enough.
    """
    found = size_of(stream, name)
    if found != size:
        raise InvalidStateError(name, f"stands for {found} bytes, not {size}")
    if size > LARGEST_RATIO * stream.size:
        raise InvalidStateError(name, f"is too short to hold {size} bytes")
    packed = _pieces(stream, name, -(-size // PIECE))
    out = np.empty(size, dtype=np.uint8)

    def inflate(place: int) -> None:
        target = out[place * PIECE : (place + 1) * PIECE]
        target[...] = _inflated(packed[place], target.size, name)

    _shared(inflate, range(len(packed)), threads)
    return out


def _pieces(stream: Bits, name: str, count: int) -> list[memoryview]:
    first = SIZE.itemsize + count * LENGTH.itemsize
    table = stream[SIZE.itemsize : first].tobytes()
    if len(table) != count * LENGTH.itemsize:
        raise InvalidStateError(name, "is truncated")
    ends = first + np.frombuffer(table, LENGTH).astype(np.int64).cumsum()
    if (int(ends[-1]) if count else first) != stream.size:
        raise InvalidStateError(name, "is not as long as its pieces")
    whole = np.ascontiguousarray(stream).data
    starts = [first, *ends.tolist()]
    return [whole[start:end] for start, end in zip(starts, ends.tolist(), strict=False)]


def _deflate(piece: Bits) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(piece.data) + packer.flush()


def _inflated(piece: memoryview, size: int, name: str) -> Bits:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than needed, so that a stream that ends exactly there reports its end.
        found = unpacker.decompress(piece, size + 1)
    except zlib.error as error:
        raise InvalidStateError(name, f"cannot be decompressed: {error}") from error
    if len(found) != size or not unpacker.eof or unpacker.unused_data:
        raise InvalidStateError(name, "holds a piece of another length")
    return np.frombuffer(found, dtype=np.uint8)


def _shared(work: Callable[[T], U], items: Sequence[T], threads: int | None) -> list[U]:
    """Return work(item) for every item, in order; zlib releases the GIL."""
    count = min(len(items), threads or kernels.threads())
    if count <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, items))
