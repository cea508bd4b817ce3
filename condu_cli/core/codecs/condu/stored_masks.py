"""How a packed mask is stored: raw, or without its zero words.

The rows of a token embedding that a task never used leave long runs of zero bytes in its mask.
A packed mask (see `masks`) is a whole number of 64-bit words, since every tensor starts at a
multiple of 64 bits. So a mask has two stored forms, distinguished by the names of their arrays:

raw     "mask"        uint8 (mask_bytes,): the packed mask.
sparse  "mask_words"  uint64 (k,): the words that are not zero, in order, little-endian.
        "mask_index"  uint8 (ceil(words / 8),): one bit per word of the mask, little bit order,
                      set where the word is not zero; unused bits at the end are 0.

A sparse mask is never expanded as a whole: `SparseMask` expands only the requested slice.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from bitarray import bitarray
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import ALIGNMENT, Bits, Bools, InvalidStateError, ParameterLayout

Words = NDArray[np.uint64]

RAW, WORDS, INDEX = "mask", "mask_words", "mask_index"
# The array names of each stored form, raw then sparse; and all of them together.
MASK_ARRAYS: tuple[frozenset[str], ...] = (frozenset({RAW}), frozenset({WORDS, INDEX}))
MASK_NAMES: frozenset[str] = frozenset().union(*MASK_ARRAYS)

WORD = np.dtype("<u8")
WORD_BYTES = ALIGNMENT // 8
BLOCK_BYTES = 1 << 19  # what the encoder processes at a time; a multiple of 8 words
GROUP_BYTES = 64  # index bytes (512 words of the mask) per remembered rank

# Bits set in each byte value; np.bitwise_count needs numpy 2.
_POPCOUNT = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


class SparseMask:
    """A packed mask in its sparse form, read like the uint8 array that it represents.

    Slices with step 1 are fresh arrays whose cost is proportional to their length; numpy
    functions see the whole dense mask. Nothing changes after construction, so threads may
    read concurrently. `words` and `index` are kept, not copied, and may be read-only memory
    maps; `decode_mask` checks that they agree, not this class.
    """

    __slots__ = ("_index", "_ranks", "_words", "size")

    dtype = np.dtype(np.uint8)

    def __init__(self, words: Words, index: Bits, size: int) -> None:
        # np.asarray drops the memmap subclass, whose slices cost far more than an array's.
        self._words = np.asarray(words)
        self._index = np.asarray(index)
        self._ranks = _group_ranks(self._index)
        self.size = size

    @property
    def shape(self) -> tuple[int]:
        """The dense mask's shape, (size,)."""
        return (self.size,)

    def __getitem__(self, part: slice) -> Bits:
        """Return the dense bytes of a slice, in a fresh uint8 array.

        Raises TypeError for anything but a slice, ValueError for a step other than 1.
        """
        if not isinstance(part, slice):
            raise TypeError(f"a sparse mask is read by slices, not {type(part).__name__}")
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError(f"a sparse mask is read with step 1, not {step}")
        if start >= stop:
            return np.zeros(0, dtype=np.uint8)
        first = start // WORD_BYTES
        dense = self._expand(first, -(-stop // WORD_BYTES)).view(np.uint8)
        return dense[start - first * WORD_BYTES : stop - first * WORD_BYTES]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a sparse mask cannot become an array without a copy")
        dense = self.dense()
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def dense(self) -> Bits:
        """Return the whole packed mask, uint8 (size,)."""
        return self[:]

    def count(self) -> int:
        """Return how many bits of the mask are set."""
        return _count(self._words)

    def _expand(self, first: int, stop: int) -> Words:
        """Return the words `first` to `stop` of the mask, a non-empty range."""
        present = self._present(first, stop)
        found = np.count_nonzero(present)
        if not found:
            return np.zeros(stop - first, dtype=WORD)
        rank = self._rank(first)
        words = self._words[rank : rank + found]
        if found == stop - first:
            return words.copy()
        dense = np.zeros(stop - first, dtype=WORD)
        dense[present] = words
        return dense

    def _present(self, first: int, stop: int) -> Bools:
        """Return which words in a range are stored: bool (stop - first,)."""
        byte, skipped = divmod(first, 8)
        bits = np.unpackbits(self._index[byte : (stop + 7) // 8], bitorder="little")
        return bits[skipped : skipped + stop - first].view(np.bool_)

    def _rank(self, word: int) -> int:
        """Return how many words before this one are stored; it must be in the mask."""
        group, rest = divmod(word, GROUP_BYTES * 8)
        byte = group * GROUP_BYTES
        bits = int.from_bytes(self._index[byte : byte + (rest + 7) // 8].tobytes(), "little")
        return int(self._ranks[group]) + (bits & ((1 << rest) - 1)).bit_count()


PackedMask: TypeAlias = Bits | SparseMask


def encode_mask(packed: Bits) -> dict[str, NDArray[Any]]:
    """Return the smaller stored form of a packed mask, uint8 (8 * words,); raw if equal.

    The raw form holds `packed` itself. Raises ValueError for an array of another form.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size % WORD_BYTES:
        raise ValueError(f"a packed mask is uint8 (8 * words,), not {packed.dtype} {packed.shape}")
    index = _index(packed)
    if _count(index) * WORD_BYTES + index.size >= packed.size:
        return {RAW: packed}
    return _sparse(packed, index)


def encode_mask_as(packed: Bits, *, sparse: bool) -> dict[str, NDArray[Any]]:
    """Return a packed mask in one of the two forms of `encode_mask`, even if it is the larger."""
    return _sparse(packed, _index(packed)) if sparse else {RAW: packed}


def _sparse(packed: Bits, index: Bits) -> dict[str, NDArray[Any]]:
    kept = np.empty(_count(index), dtype=WORD)
    start = 0
    for words in _blocks(packed):
        found = words[words != 0]
        kept[start : start + found.size] = found
        start += found.size
    return {WORDS: kept, INDEX: index}


def decode_mask(
    arrays: Mapping[str, NDArray[Any]], layout: ParameterLayout, label: str = ""
) -> PackedMask:
    """Return the mask among stored arrays: the raw array itself, or a SparseMask.

    Arrays with other names are ignored, and padding bits are not checked: `check_mask` does
    that for both forms. Raises InvalidStateError naming `label` + the array if neither form or
    both are present, a dtype or shape is wrong, or the index and the words disagree.
    """
    names = MASK_NAMES.intersection(arrays)
    if RAW in names:
        for name in sorted(names - {RAW}):
            raise InvalidStateError(f"{label}{name}", f"is present beside {RAW!r}")
        return _checked(arrays[RAW], np.dtype(np.uint8), layout.mask_bytes, f"{label}{RAW}")
    if not names:
        raise InvalidStateError(f"{label}{RAW}", "is missing")
    for name in (WORDS, INDEX):
        if name not in names:
            raise InvalidStateError(f"{label}{name}", "is missing")
    words, index = arrays[WORDS], arrays[INDEX]
    _check_sparse(words, index, layout.mask_bytes // WORD_BYTES, label)
    return SparseMask(words, index, layout.mask_bytes)


def _check_sparse(words: NDArray[Any], index: NDArray[Any], count: int, label: str) -> None:
    """Check the sparse form of a mask of `count` words; see `decode_mask`."""
    _checked(index, np.dtype(np.uint8), -(-count // 8), f"{label}{INDEX}")
    if count % 8 and int(index[-1]) >> (count % 8):
        raise InvalidStateError(f"{label}{INDEX}", f"has bits set beyond the mask's {count} words")
    stored = _count(index)
    _checked(words, WORD, stored, f"{label}{WORDS}")
    # Each mask has exactly one sparse form, so that equal masks have equal files.
    if np.count_nonzero(words) != stored:
        raise InvalidStateError(f"{label}{WORDS}", "holds a word that is zero")


def _checked(array: NDArray[Any], dtype: np.dtype[Any], size: int, name: str) -> NDArray[Any]:
    """Return the array; raise InvalidStateError unless its dtype and shape (size,) are right."""
    if array.dtype != dtype or array.shape != (size,):
        found = f"{array.dtype} {array.shape}"
        raise InvalidStateError(name, f"is {found}, not {dtype} {(size,)}")
    return array


def _index(packed: Bits) -> Bits:
    """Return the index of a packed mask: uint8 (ceil(words / 8),), unused bits 0."""
    index = np.empty(-(-packed.size // ALIGNMENT), dtype=np.uint8)
    start = 0
    for words in _blocks(packed):
        bits = np.packbits(words != 0, bitorder="little")
        index[start : start + bits.size] = bits
        start += bits.size
    return index


def _blocks(packed: Bits) -> Iterator[Words]:
    """Yield runs of words, each but the last a multiple of 8 words long."""
    for start in range(0, packed.size, BLOCK_BYTES):
        yield np.ascontiguousarray(packed[start : start + BLOCK_BYTES]).view(WORD)


def _group_ranks(index: Bits) -> NDArray[np.int64]:
    """Return how many index bits are set before each group of GROUP_BYTES bytes."""
    starts = np.arange(0, index.size, GROUP_BYTES)
    counts = np.add.reduceat(_POPCOUNT[index], starts, dtype=np.int64)
    ranks: NDArray[np.int64] = np.cumsum(counts) - counts
    return ranks


def _count(array: NDArray[Any]) -> int:
    """Return how many bits of an array are set; bitarray counts in place, even memory maps."""
    return int(bitarray(buffer=np.ascontiguousarray(array).view(np.uint8)).count())
