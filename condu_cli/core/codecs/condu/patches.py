"""Reverse patches: an older state predicted from a newer one, and corrections of the prediction.

Between two sessions little is lost. Where a new task did not win, unify scaled the old value by
the largest rescaler of its owners and kept all masks; where it won, it replaced the old value
and, if the signs differed, cleared the old masks' bits. So

    masks    differ only at G, the elements that the new task alone owns
    values   u_j is about float32(newer u_j / max{l_i : M_i = 1}), of the old masks and rescalers

and a patch holds G, the old masks' bits there, and the difference of each stored value to its
prediction, counted in steps of its bit pattern: nearly always 0 or 1 where the new task did not
win. docs/fusion.md explains it. How close the states are affects only the patch's size.

A "paired" part of the newer state is one whose expert the older state has too; the others are
"fresh". The arrays of a patch, its format on disk ("stream": see `entropy`):

    version          int64 (1,)     1
    pairs            int64 (k,)     for each old part the place of its pair, -1 if it has none
    sparse           uint8 (k,)     1 where the part's mask is stored sparse, else 0
    everywhere       uint8 (1,)     1 where G needs more than the candidates, else 0
    changed          stream         G, a bit for each candidate: the elements that no paired part
                                    owns and, if there are any, a fresh part does; or all elements
    part/I/mask      stream         old part I's mask XOR its pair's, a bit for each element of G;
                                    the whole packed mask if it has no pair
    part/I/rescaler  stream         byte planes of float32 or, in old parts, float64 (groups,)
    part/I/l1_norm, part/I/covered_norm          as in the part, if it has them
    scales           stream         int8 only: byte planes of all "scale/NAME", in order
    symbols/fresh    stream         two bits for each element that a fresh part owns, the lowest
    symbols/rest                    first; for each of the others: what to add to the predicted
                                    bit pattern: 0: 0, 1: 1, 2: -1; 3: another pattern, in `values`
    values           stream         byte planes of those patterns, the predicted sign taken out: the
                                    sign bit is flipped where the predicted one is set; an int8 is
                                    negated where the predicted one is negative

Elements and mask bits are in the order of the packed mask. Byte planes are all lowest bytes, then
all second ones and so on. A prediction is one float32 division, negated in G, where the sign was
lost, and rounded to the stored dtype. So it is the same on every machine, and never NaN,
infinite or -0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.layout import Bits, InvalidStateError, Tensors
from condu_cli.core.arrays.packed_numbers import (
    Packer,
    Unpacker,
    from_planes,
    gathered,
    packed_size,
    planes_of,
    scattered,
)
from condu_cli.core.arrays.platforms import NUMPY
from condu_cli.core.arrays.stored_delta import StoredDelta
from condu_cli.core.codecs.condu.entropy import compress, decompress, size_of
from condu_cli.core.codecs.condu.expectation import NONE, NewerState, Prediction, chunk_bools
from condu_cli.core.codecs.condu.parts import FIGURES, trigger_of
from condu_cli.core.codecs.condu.stored_masks import MASK_NAMES, RAW, encode_mask_as
from condu_cli.core.codecs.interface import EncodedState
from condu_cli.core.merging.masks import count
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.passes.streaming import Execution, Room, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from condu_cli.core.arrays.segments import Chunk

VERSION = 1
OTHER = 3  # the symbol of a pattern that is in `values`
SMALL = {"version": np.int64, "pairs": np.int64, "sparse": np.uint8, "everywhere": np.uint8}
STREAMS = ("changed", "symbols/fresh", "symbols/rest", "values")
SCALES = "scales"


def difference(
    method: Method,
    newer: EncodedState,
    older: EncodedState,
    pairs: Sequence[int | None],
    execution: Execution | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the patch that turns `newer` into `older`; arrays as listed above.

    pairs[i] is the place in `newer.parts` of old part i's expert, None if it has none. Arrays
    are fetched once and may be memory-mapped. Raises ValueError for an empty older state, for
    invalid pairs, or for a block size or kernels that `stream` refuses; InvalidStateError naming
    a malformed array of a state.
    """
    if older.shared is None or not older.parts:
        raise ValueError("the empty state needs no patch")
    places = [NONE if pair is None else pair for pair in pairs]
    real = [pair for pair in pairs if pair is not None]
    if len(pairs) != len(older.parts) or not _are_places(real, len(newer.parts)):
        raise ValueError(f"these are not pairs of {len(older.parts)} parts: {list(pairs)}")
    known = NewerState.of(method, newer, places)
    parts = [{name: part[name] for name in part} for part in older.parts]
    triggers = [_checked(method, part, f"tasks[{i}].") for i, part in enumerate(parts)]
    masks: list[Bits] = [np.asarray(trigger.mask) for trigger in triggers]
    stored = method.stored(older.shared)
    patch: dict[str, NDArray[Any]] = {
        "version": np.array([VERSION], np.int64),
        "pairs": np.array(places, np.int64),
        "sparse": np.array([RAW not in part for part in parts], np.uint8),
    }
    patch |= _mask_arrays(known, masks)
    for i, part in enumerate(parts):
        patch |= _figures(part, i)
    scales = _scales(method, stored.arrays)
    if scales:
        patch[SCALES] = compress(planes_of(np.concatenate(scales)))
    prediction = Prediction(method, known, masks, triggers, stored)
    return patch | _value_arrays(prediction, execution)


def restore(
    method: Method, newer: EncodedState, patch: Tensors, execution: Execution | None = None
) -> EncodedState:
    """Restore the older state: every array has its original name, dtype, shape and bytes.

    `newer` is the state that `difference` was given; arrays may be memory-mapped. Raises
    InvalidStateError naming the malformed array of the patch or of the state, and ValueError
    as `stream` does. Only arrays of the layout's sizes are allocated.
    """
    given = _Given(method, patch, len(newer.parts))
    known = NewerState.of(method, newer, given.pairs)
    masks = list(_restored_masks(given, known))
    figures = [given.figures(i) for i in range(len(masks))]
    triggers = [
        _checked(method, {RAW: mask, **rest}, f"part/{i}/")
        for i, (mask, rest) in enumerate(zip(masks, figures, strict=True))
    ]
    merged = StoredDelta.empty(method.layout, method.storage)
    given.read_scales(merged)
    prediction = Prediction(method, known, masks, triggers, merged)
    _restore_values(prediction, given, execution)
    parts = [
        {**encode_mask_as(mask, sparse=bool(sparse)), **rest}
        for mask, sparse, rest in zip(masks, given.sparse, figures, strict=True)
    ]
    return EncodedState(merged.arrays, parts)


def pairs_of(patch: Tensors) -> list[int | None]:
    """Return the pairs of a patch that `restore` accepted, as `difference` was given them."""
    return [None if pair == NONE else pair for pair in patch["pairs"].tolist()]


def _checked(method: Method, part: Tensors, label: str) -> Trigger:
    """Return the trigger of an old part, after checking all that a patch relies on."""
    trigger = trigger_of(method, part, label)
    check_trigger(method, trigger, label)
    for name in set(FIGURES[1:]).intersection(part):
        if part[name].dtype != np.float64 or part[name].shape != (1,):
            found = f"{part[name].dtype} {part[name].shape}"
            raise InvalidStateError(f"{label}{name}", f"is {found}, not float64 (1,)")
    return trigger


def _are_places(pairs: Sequence[int], count: int) -> bool:
    """Whether all pairs are distinct places among that number of parts."""
    return len(set(pairs)) == len(pairs) and all(0 <= pair < count for pair in pairs)


# Masks


def _mask_arrays(known: NewerState, masks: Sequence[Bits]) -> dict[str, NDArray[Any]]:
    changed = known.changed(masks)
    candidates = known.candidates(False)
    everywhere = bool((changed & ~candidates).any())
    if everywhere:
        candidates = known.candidates(True)
    arrays: dict[str, NDArray[Any]] = {
        "everywhere": np.array([everywhere], np.uint8),
        "changed": compress(gathered([(changed, None)], candidates)[0]),
    }
    streams = dict(enumerate(masks))
    paired = [i for i, pair in enumerate(known.masks) if pair is not None]
    flips = gathered([(masks[i], known.masks[i]) for i in paired], changed)
    streams |= zip(paired, flips, strict=True)
    return arrays | {f"part/{i}/mask": compress(mask) for i, mask in streams.items()}


def _restored_masks(given: _Given, known: NewerState) -> Iterator[Bits]:
    """Yield the old masks, dense; their padding is not checked."""
    candidates = known.candidates(given.everywhere)
    packed = given.stream("changed", packed_size(count(candidates)))
    (changed,) = scattered([packed], candidates)
    size = packed_size(count(changed))
    paired = [i for i, pair in enumerate(known.masks) if pair is not None]
    packed_masks = (given.stream(f"part/{i}/mask", size) for i in paired)
    flips = dict(zip(paired, scattered(list(packed_masks), changed), strict=True))
    for i, pair in enumerate(known.masks):
        if pair is None:
            yield given.stream(f"part/{i}/mask", known.owned.size)
        else:
            yield flips.pop(i) ^ pair


# Figures and scales


def _figures(part: Tensors, place: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of an old part except its mask."""
    arrays = {f"part/{place}/{name}": part[name] for name in set(part).difference(MASK_NAMES)}
    name = f"part/{place}/rescaler"
    return arrays | {name: compress(planes_of(arrays[name]))}


def _scales(method: Method, arrays: Tensors) -> list[NDArray[Any]]:
    """Return the arrays of a shared part that are not parameters, in order."""
    names = list(method.storage.arrays(method.layout))
    return [arrays[name] for name in names[len(method.layout.names) :]]


# Values


def _value_arrays(prediction: Prediction, execution: Execution | None) -> dict[str, NDArray[Any]]:
    older = prediction.older

    def work(chunk: Chunk, room: Room, loops: ModuleType) -> tuple[Bits, Bits, NDArray[Any]]:
        wanted = older.codes(chunk.tensor)[chunk.start : chunk.stop]
        predicted = prediction.codes(chunk, room, loops)
        symbols = _symbols(wanted, predicted)
        inside, others = chunk_bools(prediction.fresh, chunk), np.flatnonzero(symbols == OTHER)
        signless = _turned(wanted[others], predicted[others])
        return symbols[inside], symbols[~inside], signless

    inner, outer = Packer(2), Packer(2)
    values: list[NDArray[Any]] = [np.zeros(0, older.code)]
    cuts = prediction.method.segmentation()
    for _, (first, second, others) in stream(work, cuts, NUMPY, execution, prediction.tasks):
        inner.add(first)
        outer.add(second)
        values.append(others)
    return {
        "symbols/fresh": compress(inner.finish()),
        "symbols/rest": compress(outer.finish()),
        "values": compress(planes_of(np.concatenate(values))),
    }


def _symbols(wanted: NDArray[Any], predicted: NDArray[Any]) -> Bits:
    """Encode the differences between patterns, see above; they may wrap around."""
    missing = predicted - wanted
    # 0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ...
    folded = (missing << 1) ^ (missing >> (missing.itemsize * 8 - 1))
    unsigned = folded.view(f"u{missing.itemsize}")
    symbols: Bits = np.minimum(unsigned, OTHER).astype(np.uint8)
    return symbols


def _turned(codes: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """Remove the predicted sign from patterns or, equivalently, add it again."""
    if codes.dtype == np.int8:
        return np.where(predicted < 0, -codes, codes)
    turned: NDArray[Any] = codes ^ (predicted & np.iinfo(codes.dtype).min)
    return turned


def _restore_values(prediction: Prediction, given: _Given, execution: Execution | None) -> None:
    """Predict every chunk and correct it, in order, reading the corrections as they are needed."""
    older = prediction.older
    dtype = older.code
    inner, outer, others = given.corrections(count(prediction.fresh), dtype)
    steps = np.array([0, 1, -1, 0], dtype=dtype)
    cuts = prediction.method.segmentation()
    read = 0
    for chunk, predicted in stream(prediction.codes, cuts, NUMPY, execution, prediction.tasks):
        inside = chunk_bools(prediction.fresh, chunk)
        symbols = np.empty(chunk.size, dtype=np.uint8)
        owned = int(np.count_nonzero(inside))
        symbols[inside] = inner.take(owned)
        symbols[~inside] = outer.take(chunk.size - owned)
        raw = np.flatnonzero(symbols == OTHER)
        signless = others[read : read + raw.size]
        read += raw.size
        found = predicted + steps[symbols]
        found[raw] = _turned(signless, predicted[raw])
        older.codes(chunk.tensor)[chunk.start : chunk.stop] = found


class _Given:
    """A patch's arrays, fetched once, and checked before they are used.

    `parts` is the number of parts of the newer state. Like all methods, raises InvalidStateError
    naming an array.
    """

    def __init__(self, method: Method, patch: Tensors, parts: int) -> None:
        self._method = method
        self._arrays = {name: np.asarray(patch[name]) for name in patch}
        (version,) = self._small("version", 1)
        if version != VERSION:
            raise InvalidStateError("version", f"is {version}; this program knows {VERSION}")
        self.pairs = self._small("pairs")
        self._check_names()
        real = [pair for pair in self.pairs if pair != NONE]
        if not self.pairs or not _are_places(real, parts):
            raise InvalidStateError("pairs", f"holds no places among {parts} parts")
        self.sparse = self._flags("sparse", len(self.pairs))
        (everywhere,) = self._flags("everywhere", 1)
        self.everywhere = bool(everywhere)

    def stream(self, name: str, size: int) -> Bits:
        """Return the `size` bytes that an array encodes."""
        return decompress(self._arrays[name], name, size)

    def figures(self, place: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of an old part except its mask; norms are those of the patch."""
        label = f"part/{place}/"
        norms = {name: self._arrays.get(f"{label}{name}") for name in FIGURES[1:]}
        figures = {name: norm for name, norm in norms.items() if norm is not None}
        return {"rescaler": self._rescaler(f"{label}rescaler"), **figures}

    def read_scales(self, stored: StoredDelta) -> None:
        """Fill in the arrays of a shared part that are not parameters."""
        arrays = _scales(self._method, stored.arrays)
        if not arrays:
            return
        size = sum(array.nbytes for array in arrays)
        numbers = from_planes(self.stream(SCALES, size), arrays[0].dtype)
        ends = np.cumsum([array.size for array in arrays])
        for array, found in zip(arrays, np.split(numbers, ends[:-1]), strict=True):
            array[...] = found.reshape(array.shape)

    def corrections(
        self, owned: int, dtype: np.dtype[Any]
    ) -> tuple[Unpacker, Unpacker, NDArray[Any]]:
        """Return the symbols of the elements that fresh parts own, the others, and the patterns."""
        symbols, others = [], 0
        for name, numbers in (
            ("symbols/fresh", owned),
            ("symbols/rest", self._method.layout.count - owned),
        ):
            packed = self.stream(name, packed_size(numbers, 2))
            if numbers % 4 and int(packed[-1]) >> (numbers % 4 * 2):
                raise InvalidStateError(name, f"has bits set beyond its {numbers} symbols")
            others += count(np.bitwise_and(packed & 0x55, packed >> 1, dtype=np.uint8))
            symbols.append(Unpacker(packed, 2))
        values = from_planes(self.stream("values", others * dtype.itemsize), dtype)
        return symbols[0], symbols[1], values

    def _rescaler(self, name: str) -> NDArray[Any]:
        groups = self._method.groups.count
        size = size_of(self._arrays[name], name)
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            if size == groups * dtype.itemsize:
                return from_planes(self.stream(name, size), dtype)
        raise InvalidStateError(name, f"stands for {size} bytes: no {groups} rescalers")

    def _check_names(self) -> None:
        """Raise for an array that is missing or unexpected; norms are checked with their part."""
        wanted = {*SMALL, *STREAMS}
        layout = self._method.layout
        if len(self._method.storage.arrays(layout)) > len(layout.names):
            wanted.add(SCALES)
        norms = set()
        # Bounded, since every part has its own arrays.
        for place in range(min(len(self.pairs), len(self._arrays))):
            wanted |= {f"part/{place}/mask", f"part/{place}/rescaler"}
            norms |= {f"part/{place}/{name}" for name in FIGURES[1:]}
        for name in sorted(wanted.difference(self._arrays)):
            raise InvalidStateError(name, "is missing")
        for name in sorted(set(self._arrays).difference(wanted, norms)):
            raise InvalidStateError(name, "is not part of this patch")

    def _flags(self, name: str, size: int) -> list[int]:
        flags = self._small(name, size)
        if not set(flags) <= {0, 1}:
            raise InvalidStateError(name, "holds something else than 0 and 1")
        return flags

    def _small(self, name: str, size: int | None = None) -> list[int]:
        """Return the numbers of an array that is not a stream."""
        if name not in self._arrays:
            raise InvalidStateError(name, "is missing")
        array, dtype = self._arrays[name], np.dtype(SMALL[name])
        shape = array.shape if size is None and array.ndim == 1 else (size,)
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {array.shape}"
            raise InvalidStateError(name, f"is {found}, not {dtype} {shape}")
        numbers: list[int] = array.tolist()
        return numbers
