"""Decouple: rebuild experts from the unified delta and their triggers.

    expert delta_i = l_i * M_i * u        expert theta_i = theta_0 + delta_i

The decouple step of ConDU (arXiv 2503.10705). An element of a delta is float32(l_i * u_j), one of
an expert float32(theta_0 + delta). Experts are always built from the pristine base model.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from condu_cli.core.arrays.platforms import NUMPY, platform_of
from condu_cli.core.merging.checks import check_forms
from condu_cli.core.merging.masks import MaskBytes, tensor_mask
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.passes.streaming import Execution, Room, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.layout import Float32, Float64, Tensors
    from condu_cli.core.arrays.platform import Platform
    from condu_cli.core.arrays.segments import Chunk
    from condu_cli.core.arrays.stored_delta import StoredDelta
    from condu_cli.core.merging.unify import Unified


class Target(NamedTuple):
    """An expert's trigger, and the arrays for its weights: float32 of each parameter's shape."""

    trigger: Trigger
    weights: Mapping[str, Array]


def decouple_tensor(
    method: Method, tensor: int, unified_tensor: Float32, trigger: Trigger
) -> Float32:
    """Return one tensor of a delta: float32(rescaler * unified delta) where masked, else 0.

    `tensor` is its position; `unified_tensor` and the result have its shape. Nothing is checked.
    Source: ConDU (arXiv 2503.10705), decouple step.
    """
    layout = method.layout
    mask = tensor_mask(trigger.mask, layout, layout.names[tensor])
    # Both factors are float32, so the float32 product is the float64 product, rounded.
    owned = np.where(mask, unified_tensor, np.float32(0))
    rescaler = method.groups.of_rows(trigger.rescaler, tensor)
    rows = owned.reshape(len(rescaler), -1) if owned.size else owned.reshape(0, 1)
    return np.multiply(rows, rescaler[: len(rows)], dtype=np.float32).reshape(owned.shape)


def decouple(method: Method, unified: Tensors, trigger: Trigger) -> Iterator[tuple[str, Float32]]:
    """Yield (name, float32 delta of the parameter's shape), one tensor at a time.

    The arrays of `unified` may be memory-mapped; the whole expert is never in memory. Raises
    InvalidStateError naming an array that is not valid.
    """
    stored = method.stored(unified)
    check_trigger(method, trigger)
    for tensor, name in enumerate(method.layout.names):
        yield name, decouple_tensor(method, tensor, stored.tensor(tensor), trigger)


def decouple_into(
    method: Method,
    unified: Mapping[str, Array],
    base: Mapping[str, Array],
    targets: Sequence[Target],
    execution: Execution | None = None,
) -> None:
    """Write base + delta of each target's expert into its weights, in one pass over `unified`.

    `base` maps each parameter to the base model's weights, float32 of its shape. Arrays need not
    be contiguous. Besides its arguments, memory is O(block_size), plus a copy of the current
    tensors where they are not contiguous; no delta is materialised.

    If the base consists of torch tensors, so must the weights, on the same device. The state may
    be tensors or numpy arrays, including memory maps, which are moved to the device one chunk at a
    time, in their stored dtype.

    Raises InvalidStateError naming an array of the state, or InvalidDeltaError naming a parameter
    that is missing from the base or a target, or has a wrong form; then nothing is written.
    """
    platform = platform_of(base.values())
    stored = method.stored(unified, platform)
    flat = _FlatWeights(method, platform, [base, *(target.weights for target in targets)])
    for task, target in enumerate(targets):
        check_trigger(method, target.trigger, f"tasks[{task}].", platform)
    masks = [platform.source(target.trigger.mask) for target in targets]
    stacked = method.groups.stack([platform.host(t.trigger.rescaler) for t in targets])

    def add(chunk: Chunk, room: Room, loops: ModuleType) -> None:
        rescalers = platform.here(method.groups.of_chunk(stacked, chunk))
        _decouple_chunk(stored, chunk, flat.tensors(chunk.tensor), masks, rescalers, room, loops)

    with platform.working():
        for chunk, _ in stream(add, method.segmentation(), platform, execution, 1):
            if chunk.stop == method.layout.sizes[chunk.tensor]:
                flat.finish(chunk.tensor)


class _FlatWeights:
    """The base's weights and each target's as flat arrays, one tensor at a time.

    Tensors that are not contiguous are replaced by a copy, made by the first thread that asks for
    the tensor and written back by `finish`. Raises InvalidDeltaError naming a parameter that is
    missing, unexpected or has a wrong form.
    """

    def __init__(
        self, method: Method, platform: Platform, models: Sequence[Mapping[str, Array]]
    ) -> None:
        self._platform = platform
        self._models = []
        for weights in models:
            method.layout.check_names(weights)
            tensors = [weights[name] for name in method.layout.names]
            check_forms(method.layout, platform, tensors)
            self._models.append(tensors)
        self._open: dict[int, list[Array]] = {}
        self._lock = threading.Lock()

    def tensors(self, tensor: int) -> list[Array]:
        """Return one parameter of all models, flat, the base's first."""
        with self._lock:
            if tensor not in self._open:
                base, *targets = (weights[tensor] for weights in self._models)
                self._open[tensor] = [base.reshape(-1), *map(self._writable, targets)]
            return self._open[tensor]

    def finish(self, tensor: int) -> None:
        """Write copies back to the weights; the parameter is not used again."""
        _, *targets = self._models
        _, *written = self._open.pop(tensor)
        for weights, flat in zip(targets, written, strict=True):
            if not self._platform.is_contiguous(weights[tensor]):
                weights[tensor][...] = flat.reshape(weights[tensor].shape)

    def _writable(self, weights: Array) -> Array:
        if self._platform.is_contiguous(weights):
            return weights.reshape(-1)
        shape = (math.prod(weights.shape),)
        return self._platform.empty(shape, np.dtype(np.float32))


def _decouple_chunk(
    stored: StoredDelta,
    chunk: Chunk,
    weights: Sequence[Array],
    masks: Sequence[Array],
    rescalers: Array,
    room: Room,
    loops: ModuleType,
) -> None:
    """Write one chunk of every target; `weights` are the base's, then the targets'."""
    unified, base, expert = room.values(chunk)
    words = room.masks(chunk, 1, 0)[0]
    as_it_lies = stored.float32(chunk.tensor) if chunk.is_full else None
    if as_it_lies is not None:
        unified = chunk.view(as_it_lies)
    else:
        stored.read(chunk.tensor, chunk.start, chunk.stop, chunk.values(unified))
        chunk.clear_padding(unified)
    if chunk.is_full:
        base = chunk.view(weights[0])
    else:
        chunk.load(weights[0], base)
    for position, (mask, target) in enumerate(zip(masks, weights[1:], strict=True)):
        chunk.load_bits(mask, words)
        out = chunk.view(target) if chunk.is_full else expert
        loops.add_expert(base, unified, words, rescalers[position], out)
        if not chunk.is_full:
            values = chunk.values(expert)
            target[chunk.start : chunk.stop].reshape(values.shape)[...] = values


def moved(
    method: Method, before: Unified, after: Unified, execution: Execution | None = None
) -> list[float]:
    """Return ||expert after - expert before||_1 of every task of `before`, in a single pass.

    The tasks of `after` are those of `before` in the same order; more may follow. Raises
    InvalidStateError naming an array that is not valid.
    """
    tasks = len(before.triggers)
    old, new = method.stored(before.unified), method.stored(after.unified)
    for state in (before, after):
        for task, trigger in enumerate(state.triggers[:tasks]):
            check_trigger(method, trigger, f"tasks[{task}].")
    groups = method.groups
    stacked = [groups.stack([t.rescaler for t in s.triggers[:tasks]]) for s in (before, after)]

    def work(chunk: Chunk, room: Room, loops: ModuleType) -> Float64:
        values = room.values(chunk)
        words = []
        for slot, (delta, state) in enumerate(((old, before), (new, after))):
            delta.read(chunk.tensor, chunk.start, chunk.stop, chunk.values(values[slot]))
            chunk.clear_padding(values[slot])
            words.append(room.masks(chunk, tasks, slot))
            _load_masks(chunk, [t.mask for t in state.triggers[:tasks]], words[-1])
        found = np.empty((tasks, chunk.segments))
        rescalers = [groups.of_chunk(each, chunk) for each in stacked]
        loops.moved(*values[:2], *words, *rescalers, found)
        return found

    totals = np.zeros((tasks, 1))
    for _, found in stream(work, method.segmentation(), NUMPY, execution, tasks):
        # A sequential sum over segments, so that it does not depend on the chunks.
        totals = np.concatenate([totals, found], axis=1).cumsum(axis=1)[:, -1:]
    return [float(total) for total in totals[:, 0]]


def _load_masks(chunk: Chunk, masks: Sequence[MaskBytes], words: NDArray[np.uint64]) -> None:
    for target, mask in zip(words, masks, strict=True):
        chunk.load_bits(mask, target)


def relative_drift(distance: float, norm: float) -> float:
    """Return distance / norm: 0 for no change, infinity if the expert was zero and no longer is.

    Source: ConDU (arXiv 2503.10705), Theorem 1.
    """
    if norm == 0:
        return math.inf if distance else 0.0
    return distance / norm
