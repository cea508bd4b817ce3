"""Unify: one streaming pass that merges a new delta into the unified delta.

The unify step of ConDU (arXiv 2503.10705), with the notation of its paper: delta of task i,
unified delta u, mask M_i, rescaler l_i.

    elect     S_j = sum_i delta_ij;  u_j = max_i delta_ij if S_j > 0, else min_i delta_ij
    mask      M_ij = 1 iff delta_ij * u_j > 0
    rescaler  l_i = ||delta_i||_1 / ||M_i * u||_1, over all parameters or over each group of them

Old experts are never materialised. A decoupled expert is zero or has the sign of u_j, so

    S_j = u_j * sum_i(l_i M_ij) + delta_j   and   max_i |expert_ij| = |u_j| * max{l_i : M_ij = 1}

With a share to trim, delta is the new delta after the smallest magnitudes of each row became 0
(TIES-Merging, arXiv 2306.01708, trims whole deltas). Old experts are never trimmed again.

Elements whose column of mask bits is empty belong to no task and count as 0. docs/fusion.md has
the proof.

Arithmetic. A rescaler is a float32 value, so l_i * u_j is exact in float64 and the election is
decided by the sign of the exact sum (as long as float64 holds the sum of the rescalers: while the
number of tasks times the ratio of the largest to the smallest is at most 2**29). S_j = 0 elects
the negative side. An expert's element is float32(l_i * u_j); one that underflows to 0 is 0 and
loses its mask bit. No result is -0. Norms are float64 sums in the order that `segments` fixes, so
nothing depends on the size of the chunks or the number of threads. Torch sums norms in another
order, so its rescalers may differ in their last bit; everything else is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.arrays.bits import Array, as_bytes
from condu_cli.core.arrays.coders import DTYPES, SMALLEST_FLOAT32
from condu_cli.core.arrays.layout import (
    Extremes,
    Float64,
    InvalidDeltaError,
    InvalidStateError,
    finite_fault,
    pattern_fault,
)
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.arrays.stored_delta import StoredDelta
from condu_cli.core.merging.checks import CheckedDelta, check_forms
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.rescalers import RescalerGroups, rescaler_of
from condu_cli.core.passes.streaming import Execution, Room, stream
from condu_cli.core.passes.vectorised import drop_smallest, drop_underflow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from condu_cli.core.arrays.platform import Platform
    from condu_cli.core.arrays.segments import Chunk


@dataclass(frozen=True, eq=False)
class Unified:
    """The result of a unify: a unified delta and its triggers.

    `unified` holds the arrays of the unified delta in its dtype. `triggers` keep the order of
    the tasks, a new task last. `norms[i]` is the L1 norm of the decoupled expert i, the sum over
    groups of l_i * ||M_i * u||_1; it equals its norm before to float32's precision.
    `covered[i]` is ||M_i * u||_1 over all parameters. Both are empty if the object was built from
    stored arrays.
    """

    unified: Mapping[str, Array]
    triggers: Sequence[Trigger]
    norms: Sequence[float] = ()
    covered: Sequence[float] = ()


def unify(
    method: Method,
    unified: Mapping[str, Array] | None,
    triggers: Sequence[Trigger],
    delta: Mapping[str, Array],
    execution: Execution | None = None,
) -> Unified:
    """Merge the delta of a new task with the experts learned before.

    `unified` (None before the first task) holds arrays as `UnifiedDtype.arrays` lists them,
    `delta` maps each parameter to float32 of its shape; its values are checked on the way unless
    it is a `CheckedDelta`. Each array is fetched once, so both may be memory-mapped. Besides the
    result, memory is O(block_size * tasks / 8).

    If the delta consists of torch tensors on one device, so does the result; unified arrays and
    triggers may then be tensors or numpy arrays.

    Raises InvalidDeltaError or InvalidStateError naming the parameter or array that is
    missing, unexpected, misshapen or not finite, and ValueError for a block size that is not
    a positive multiple of 64. Source: ConDU (arXiv 2503.10705), unify step.
    """
    method.layout.check_names(delta)
    tensors = [delta[name] for name in method.layout.names]
    checked = isinstance(delta, CheckedDelta)
    platform = platform_of(tensors)
    return _Pass(method, platform, unified, triggers, tensors, checked=checked).run(execution)


def reunify(
    method: Method,
    unified: Mapping[str, Array],
    triggers: Sequence[Trigger],
    execution: Execution | None = None,
) -> Unified:
    """Unify the decoupled experts once more without a new task, as after forgetting one.

    Arguments, result and errors are those of `unify`; torch is used if the unified arrays are
    tensors. Masks never grow; the norms of the experts are preserved; repeating it converges.
    """
    arrays = dict(unified)
    return _Pass(method, platform_of(arrays.values()), arrays, triggers, None).run(execution)


class _Pass:
    """One pass over all chunks: its inputs, its outputs, and the norms of every group."""

    def __init__(
        self,
        method: Method,
        platform: Platform,
        unified: Mapping[str, Array] | None,
        triggers: Sequence[Trigger],
        delta: Sequence[Array] | None,
        *,
        checked: bool = False,
    ) -> None:
        _check_state(method, platform, unified, triggers)
        self.method = method
        self.platform = platform
        self.layout = method.layout
        self.groups = method.groups
        # Without a task no element is owned: an old unified delta counts as zero.
        self.old = method.stored(unified, platform) if unified is not None and triggers else None
        self.old_masks = [platform.source(trigger.mask) for trigger in triggers]
        self.rescalers = self.groups.stack([platform.host(t.rescaler) for t in triggers])
        self.delta = None if delta is None else self._flat(delta)
        self.checked = checked
        tasks = len(triggers) + (delta is not None)
        self.merged = StoredDelta.empty(self.layout, DTYPES[method.dtype], platform)
        shape, dtype = (self.layout.mask_bytes,), np.dtype(np.uint8)
        self.masks = [platform.zeros(shape, dtype) for _ in range(tasks)]
        self.totals = _GroupTotals(self.groups, len(triggers), tasks)

    def run(self, execution: Execution | None) -> Unified:
        cuts, tasks = self.method.segmentation(), len(self.masks)
        with self.platform.working():
            for chunk, norms in stream(self._fuse, cuts, self.platform, execution, tasks):
                self.totals.add(chunk, norms)
        return self._finish()

    def _flat(self, delta: Sequence[Array]) -> list[Array]:
        """Return the delta's tensors as flat arrays, after checking their form."""
        check_forms(self.layout, self.platform, delta)
        return [values.reshape(-1) for values in delta]

    def _fuse(self, chunk: Chunk, room: Room, loops: ModuleType) -> Float64:
        """Elect one chunk, write its part of the result, and return its norms."""
        old, new, merged = room.values(chunk)
        tiniest = self._load_values(chunk, old, new, loops)
        masks = room.masks(chunk, len(self.old_masks), 0)
        out = room.masks(chunk, len(self.masks), 1)
        host_rescalers = self.groups.of_chunk(self.rescalers, chunk)
        rescalers = self.platform.here(host_rescalers)
        for words, mask in zip(masks, self.old_masks, strict=True):
            chunk.load_bits(mask, words)
        if self.old_masks and tiniest < _underflow_pattern(host_rescalers):
            drop_underflow(old, masks, rescalers)
        loops.elect(old, new, masks, rescalers, merged, out)
        self.merged.write(chunk.tensor, chunk.start, chunk.stop, chunk.values(merged))
        for words, mask in zip(out, self.masks, strict=True):
            chunk.store_bits(words, mask)
        return self._norms(chunk, room, loops)

    def _norms(self, chunk: Chunk, room: Room, loops: ModuleType) -> Float64:
        """Return the L1 norms of each segment of what `_fuse` left in its room, on the host.

        Rows: the old delta under the old masks (old tasks), the merged one under the new masks
        (tasks), and the new task's delta if there is one.
        """
        old, new, merged = room.values(chunk)
        before, after = len(self.old_masks), len(self.masks)
        added = before + after  # where the new task's row is, if there is a new task
        sums = self.platform.empty((2 * after, chunk.segments), np.dtype(np.float64))
        loops.norms(old, room.masks(chunk, before, 0), sums[:before])
        loops.norms(merged, room.masks(chunk, after, 1), sums[before:added])
        if self.delta is not None:
            everything = room.masks(chunk, 1, 0)
            as_bytes(everything)[...] = 0xFF
            loops.norms(new, everything, sums[added:])
        return self.platform.host(sums)

    def _load_values(self, chunk: Chunk, old: Array, new: Array, loops: ModuleType) -> int:
        """Read and check one chunk; return `Extremes.smallest` of the old unified delta."""
        name = self.layout.names[chunk.tensor]
        if self.delta is None:
            new[...] = 0
        else:
            chunk.load(self.delta[chunk.tensor], new)
            reason = None if self.checked else pattern_fault(loops.extremes(new).largest)
            if reason:
                raise InvalidDeltaError(name, reason)
            self._trim(chunk, new)
        if self.old is None:
            old[...] = 0
            return 0
        self.old.read(chunk.tensor, chunk.start, chunk.stop, chunk.values(old))
        chunk.clear_padding(old)
        found: Extremes = loops.extremes(old)
        reason = finite_fault(found.largest)
        if reason:
            raise InvalidStateError(name, reason)
        return found.smallest

    def _trim(self, chunk: Chunk, new: Array) -> None:
        """Trim the new delta in place; with a share to trim, segments are rows."""
        count = self.method.trimmed(chunk.length)
        if count:
            drop_smallest(chunk.values(new).reshape(-1, chunk.length), count)

    def _finish(self) -> Unified:
        covered = self.totals.covered
        rescalers = rescaler_of(self.totals.norms(self.rescalers), covered)
        return Unified(
            unified=self.merged.arrays,
            triggers=[
                Trigger(mask, self.platform.here(rescaler.astype(np.float32)))
                for mask, rescaler in zip(self.masks, rescalers, strict=True)
            ],
            norms=[float(n) for n in (rescalers * covered).sum(axis=1)],
            covered=[float(n) for n in covered.sum(axis=1)],
        )


class _GroupTotals:
    """The chunks' norms summed by rescaler group, float64 (tasks, groups), in order."""

    def __init__(self, groups: RescalerGroups, old_tasks: int, tasks: int) -> None:
        self._groups = groups
        self._totals = np.zeros((2 * tasks, groups.count))  # the rows of `_Pass._norms`
        self._old, self._tasks = old_tasks, tasks

    def add(self, chunk: Chunk, norms: Float64) -> None:
        groups = self._groups.at(chunk)
        if groups.stop - groups.start == 1:
            # One sequential sum over all segments, however they were cut into chunks.
            running = np.concatenate([self._totals[:, groups], norms], axis=1)
            norms = running.cumsum(axis=1)[:, -1:]
        self._totals[:, groups] = norms

    @property
    def covered(self) -> Float64:
        """||M_i * u||_1 of every task after this unify, in each group."""
        return self._totals[self._old : self._old + self._tasks]

    def norms(self, rescalers: Float64) -> Float64:
        """Return ||delta_i||_1 of every task's delta before this unify, in each group."""
        old, delta = self._totals[: self._old], self._totals[self._old + self._tasks :]
        return np.concatenate([rescalers * old, delta])


def _underflow_pattern(rescalers: Float64) -> int:
    """Magnitudes below this bit pattern may be 0 as float32 once a rescaler multiplies them."""
    limit = np.float32(min(float(SMALLEST_FLOAT32) / rescalers.min(), 1.0))
    return int(limit.view(np.uint32))


def _check_state(
    method: Method,
    platform: Platform,
    unified: Mapping[str, Array] | None,
    triggers: Sequence[Trigger],
) -> None:
    if unified is None and triggers:
        first = method.layout.names[0]
        raise InvalidStateError(first, "is missing: triggers without unified delta")
    for task, trigger in enumerate(triggers):
        check_trigger(method, trigger, f"tasks[{task}].", platform)
