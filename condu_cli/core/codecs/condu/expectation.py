"""Predict an older state from a newer one: candidates for its mask bits, and its bit patterns.

`patches` corrects the prediction, which is the same on every machine and with any inner loops.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from condu_cli.core.arrays.bits import unpack_bits
from condu_cli.core.arrays.layout import Bits, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.parts import trigger_of
from condu_cli.core.merging.method import Method, Trigger, check_trigger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from condu_cli.core.arrays.segments import Chunk
    from condu_cli.core.arrays.stored_delta import StoredDelta
    from condu_cli.core.codecs.interface import EncodedState
    from condu_cli.core.passes.streaming import Room

NONE = -1  # the place of a pair that does not exist


class NewerState(NamedTuple):
    """The parts of the newer state that a prediction needs.

    `masks[i]` is the dense mask of old part i's pair, None if it has none; `owned` and `fresh`
    are the unions of the paired and of the fresh parts' masks; `has_fresh` is True if there are
    fresh parts. `stored` is None for the empty state.
    """

    masks: list[Bits | None]
    owned: Bits
    fresh: Bits
    has_fresh: bool
    stored: StoredDelta | None

    @classmethod
    def of(cls, method: Method, state: EncodedState, pairs: Sequence[int]) -> NewerState:
        """Fetch and check the state. Raises InvalidStateError naming an array."""
        if state.shared is None and state.parts:
            raise InvalidStateError(method.layout.names[0], "is missing: no unified delta")
        stored = None if state.shared is None else method.stored(state.shared)
        masks: list[Bits] = []
        for place, part in enumerate(state.parts):
            trigger = trigger_of(method, part, f"tasks[{place}].")
            check_trigger(method, trigger, f"tasks[{place}].")
            masks.append(np.asarray(trigger.mask))
        fresh = [mask for place, mask in enumerate(masks) if place not in pairs]
        return cls(
            masks=[None if pair == NONE else masks[pair] for pair in pairs],
            owned=_union(method.layout, (masks[pair] for pair in pairs if pair != NONE)),
            fresh=_union(method.layout, fresh),
            has_fresh=bool(fresh),
            stored=stored,
        )

    def candidates(self, everywhere: bool) -> Bits:
        """Return where a paired mask may differ, as packed bits; padding bits may be set."""
        if everywhere:
            return np.full_like(self.owned, 0xFF)
        free = ~self.owned
        return free & self.fresh if self.has_fresh else free

    def changed(self, masks: Sequence[Bits]) -> Bits:
        """Return G: where a paired mask differs from the old one, given all old masks."""
        changed = np.zeros_like(self.owned)
        for mask, pair in zip(masks, self.masks, strict=True):
            if pair is not None:
                changed |= mask ^ pair
        return changed


def _union(layout: ParameterLayout, masks: Iterable[Bits]) -> Bits:
    return reduce(np.bitwise_or, masks, np.zeros(layout.mask_bytes, dtype=np.uint8))


class Prediction:
    """The old stored values' bit patterns as predicted from the newer state."""

    def __init__(
        self,
        method: Method,
        newer: NewerState,
        masks: Sequence[Bits],
        triggers: Sequence[Trigger],
        older: StoredDelta,
    ) -> None:
        self.method = method
        self.older = older
        self.tasks = len(masks)
        self.fresh = newer.fresh
        self._newer = newer.stored
        self._changed = newer.changed(masks)
        self._masks = masks
        self._rescalers = method.groups.stack([trigger.rescaler for trigger in triggers])

    def codes(self, chunk: Chunk, room: Room, loops: ModuleType) -> NDArray[Any]:
        """Return a chunk's predicted patterns, signed integers of the stored width: (size,)."""
        values, largest, _ = room.values(chunk)
        self._load(chunk, values)
        words = room.masks(chunk, self.tasks, 0)
        for target, mask in zip(words, self._masks, strict=True):
            chunk.load_bits(mask, target)
        loops.largest(words, self.method.groups.of_chunk(self._rescalers, chunk), largest)
        largest[largest == 0] = np.inf  # no owner: 0
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            np.divide(values, largest, out=values)
        elements = chunk.values(values)
        self._turn(chunk, elements)
        values += np.float32(0)  # no -0
        finite = np.isfinite(values)
        if not finite.all():  # the sign of a NaN depends on the machine
            values[~finite] = 0
        stored = self.older.stored_form(chunk.tensor, chunk.start, chunk.stop, elements)
        return stored.view(f"i{stored.dtype.itemsize}")

    def _turn(self, chunk: Chunk, elements: NDArray[np.float32]) -> None:
        if self._changed[chunk.mask].any():
            turned = chunk_bools(self._changed, chunk).reshape(elements.shape)
            np.negative(elements, out=elements, where=turned)

    def _load(self, chunk: Chunk, values: NDArray[np.float32]) -> None:
        if self._newer is None:
            values[...] = 0
            return
        with np.errstate(invalid="ignore", over="ignore"):  # scales may be anything
            self._newer.read(chunk.tensor, chunk.start, chunk.stop, chunk.values(values))
        chunk.clear_padding(values)


def chunk_bools(mask: Bits, chunk: Chunk) -> NDArray[np.bool_]:
    """Return a chunk's bits of a packed mask: (size,)."""
    bools: NDArray[np.bool_] = unpack_bits(mask[chunk.mask], chunk.size).view(np.bool_)
    return bools
