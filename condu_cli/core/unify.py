"""Unify: one streaming pass that merges a new delta into the unified delta.

The unify step of ConDU (arXiv 2503.10705), with the notation of its paper: delta of task i,
unified delta u, mask M_i, rescaler l_i.

    elect     S_j = sum_i delta_ij;  u_j = max_i delta_ij if S_j > 0, else min_i delta_ij
    mask      M_ij = 1 iff delta_ij * u_j > 0
    rescaler  l_i = ||delta_i||_1 / ||M_i * u||_1, one ratio over all parameters

Old experts are never materialised. A decoupled expert is zero or has the sign of u_j, so

    S_j = u_j * sum_i(l_i M_ij) + delta_j   and   max_i |expert_ij| = |u_j| * max{l_i : M_ij = 1}

and both the sum and the maximum depend only on the column of mask bits at j: they are looked
up in tables of 256 entries for every 8 tasks. Elements whose column is empty belong to nobody
and count as 0.

Arithmetic. A rescaler is a float32 value, so l_i * u_j is exact in float64 and the election is
decided by the sign of the exact sum (as long as the rescalers lie within a factor 2**25 of
each other). S_j = 0 elects the negative side. An expert's element is float32(l_i * u_j); one
that underflows to 0 is 0 and loses its mask bit. No result is -0. Norms are float64 sums in
the order of the parameters, so nothing depends on the block size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.layout import (
    Bits,
    Block,
    Bools,
    Float32,
    Float64,
    InvalidStateError,
    ParameterLayout,
    Tensors,
    is_finite,
)
from condu_cli.core.masks import check_mask, pack_bits, unpack_bits

BLOCK_SIZE = 65_536  # elements; the temporaries of one block stay in the processor's cache
GROUP = 8  # tasks per look-up table
SMALLEST_FLOAT32 = 2.0**-149
# A rescaler outside this range belongs to an expert that the others have all but erased;
# clipping keeps sums of rescalers and their products within float32's range.
RESCALER_RANGE = (2.0**-100, 2.0**100)

Columns = list[NDArray[np.intp]]


@dataclass(frozen=True, eq=False)
class Trigger:
    """What one task adds to the unified delta.

    `mask` is packed, uint8 of shape (layout.mask_bytes,). `rescaler` is float64 of shape
    (groups,), every entry a positive float32 value; there is one group, all parameters.
    """

    mask: Bits
    rescaler: Float64


@dataclass(frozen=True, eq=False)
class Unified:
    """The state after a unify.

    `unified` maps each parameter to float32 of its shape. `triggers` keep the order of the
    tasks, a new task last. `norms[i]` is the L1 norm of expert i as it will be decoupled,
    l_i * ||M_i * u||_1, which equals its norm before within float32's precision.
    """

    unified: dict[str, Float32]
    triggers: list[Trigger]
    norms: list[float]


def unify(
    layout: ParameterLayout,
    unified: Tensors | None,
    triggers: Sequence[Trigger],
    delta: Tensors,
    *,
    block_size: int = BLOCK_SIZE,
) -> Unified:
    """Merge the delta of a new task with the experts learned before.

    `unified` (None before the first task) and `delta` map each parameter to float32 of its
    shape; each tensor is read once, so both may load lazily. `block_size` is in elements.
    Besides the result, memory is O(block_size).

    Raises InvalidDeltaError or InvalidStateError naming the parameter or array that is
    missing, unexpected, misshapen or not finite, and ValueError for a block size that is not
    a positive multiple of 64. Source: ConDU (arXiv 2503.10705), unify step.
    """
    layout.check_names(delta)
    return _Pass(layout, unified, triggers, delta).run(block_size)


def reunify(
    layout: ParameterLayout,
    unified: Tensors,
    triggers: Sequence[Trigger],
    *,
    block_size: int = BLOCK_SIZE,
) -> Unified:
    """Unify the decoupled experts once more without a new task, as after forgetting one.

    Arguments, result and errors are those of `unify`. Masks never grow; the norms of the
    experts are preserved; repeating it converges.
    """
    return _Pass(layout, unified, triggers, None).run(block_size)


def check_trigger(layout: ParameterLayout, trigger: Trigger, label: str = "") -> None:
    """Check a trigger that comes from outside.

    Raises InvalidStateError naming `label` + "mask" or `label` + "rescaler".
    """
    check_mask(trigger.mask, layout, f"{label}mask")
    rescaler, name = trigger.rescaler, f"{label}rescaler"
    if rescaler.dtype != np.float64 or rescaler.shape != (1,):
        raise InvalidStateError(name, f"is {rescaler.dtype} {rescaler.shape}, not float64 (1,)")
    low, high = RESCALER_RANGE
    value = float(rescaler[0])
    if not low <= value <= high or float(np.float32(value)) != value:
        raise InvalidStateError(name, f"is not a positive float32 value: {value!r}")


def read_unified(layout: ParameterLayout, unified: Tensors, name: str) -> Float32:
    """One tensor of a unified delta, its form checked; raises InvalidStateError naming it."""
    values = unified[name]
    fault = layout.form_fault(name, values)
    if fault:
        raise InvalidStateError(name, fault)
    return values


class _Pass:
    """The working state of one pass: what is read, what is written, and the running sums."""

    def __init__(
        self,
        layout: ParameterLayout,
        unified: Tensors | None,
        triggers: Sequence[Trigger],
        delta: Tensors | None,
    ) -> None:
        _check_state(layout, unified, triggers)
        self.layout = layout
        # Without a task no element belongs to anybody: an old unified delta counts as zero.
        self.unified = unified if triggers else None
        self.old_masks = [trigger.mask for trigger in triggers]
        self.delta = delta
        self.rescalers = [float(trigger.rescaler[0]) for trigger in triggers]
        self.tables = [
            _LookUp(self.rescalers[first : first + GROUP])
            for first in range(0, len(triggers), GROUP)
        ]
        tasks = len(triggers) + (delta is not None)
        self.masks = [np.zeros(layout.mask_bytes, dtype=np.uint8) for _ in range(tasks)]
        self.old_sums = _ColumnSums(len(triggers))
        self.delta_sum = _ColumnSums(1)
        self.new_sums = _ColumnSums(tasks)

    def run(self, block_size: int) -> Unified:
        unified = {
            name: self._tensor(tensor, block_size).reshape(self.layout.shapes[tensor])
            for tensor, name in enumerate(self.layout.names)
        }
        return self._finish(unified)

    def _tensor(self, tensor: int, block_size: int) -> Float32:
        name = self.layout.names[tensor]
        old, new = self._read_old(name), self._read_new(name)
        merged = np.empty(self.layout.sizes[tensor], dtype=np.float32)
        for block in self.layout.tensor_blocks(tensor, block_size):
            part = slice(block.start, block.stop)
            merged[part] = self._block(old[part], new[part], block)
        return merged

    def _read_old(self, name: str) -> Float32:
        if self.unified is None:
            return _zeros(self.layout, name)
        values = read_unified(self.layout, self.unified, name)
        if not is_finite(values):
            raise InvalidStateError(name, "holds NaN or infinity")
        return values.reshape(-1)

    def _read_new(self, name: str) -> Float32:
        if self.delta is None:
            return _zeros(self.layout, name)
        values = self.delta[name]
        self.layout.check_tensor(name, values)
        return values.reshape(-1)

    def _block(self, old: Float32, new: Float32, block: Block) -> Float32:
        """Elect one block of shape (n,); write its mask bits and add up its norms."""
        wide = old.astype(np.float64)
        masks = self._old_masks(wide, block.mask)
        columns = _columns(masks, old.size)
        total = _look_up([table.sums for table in self.tables], columns, np.add, old.size)
        largest = _look_up([table.maxima for table in self.tables], columns, np.maximum, old.size)

        positive = _elect_positive(wide, total, new)
        kept = np.where(positive, old > 0, old < 0)
        bits = np.where(positive, new > 0, new < 0)
        merged = _merge(positive, (wide * largest).astype(np.float32), new)

        kept_bits = pack_bits(kept)
        for out, mask in zip(self.masks, masks, strict=False):
            np.bitwise_and(mask, kept_bits, out=out[block.mask])
        self.old_sums.add(columns, np.abs(wide))
        kept_columns = [column * kept for column in columns]
        if self.delta is not None:
            self.masks[-1][block.mask] = pack_bits(bits)
            self.delta_sum.add([(new != 0).astype(np.intp)], np.abs(new))
            _append_task(kept_columns, bits, len(masks))
        self.new_sums.add(kept_columns, np.abs(merged))
        return merged

    def _old_masks(self, wide: Float64, part: slice) -> list[Bits]:
        """The old masks' bytes, without the bits of experts whose element underflows to 0."""
        masks = [mask[part] for mask in self.old_masks]
        magnitude = np.abs(wide)
        limit = SMALLEST_FLOAT32 / min(self.rescalers, default=1.0)
        if not ((magnitude < limit) & (magnitude > 0)).any():
            return masks
        return [
            mask & pack_bits(magnitude * rescaler > SMALLEST_FLOAT32 / 2)
            for mask, rescaler in zip(masks, self.rescalers, strict=True)
        ]

    def _finish(self, unified: dict[str, Float32]) -> Unified:
        before = [
            rescaler * self.old_sums.norm(task) for task, rescaler in enumerate(self.rescalers)
        ]
        if self.delta is not None:
            before.append(self.delta_sum.norm(0))
        covered = [self.new_sums.norm(task) for task in range(len(self.masks))]
        rescalers = [_rescaler(norm, below) for norm, below in zip(before, covered, strict=True)]
        return Unified(
            unified=unified,
            triggers=[
                Trigger(mask, np.array([rescaler], dtype=np.float64))
                for mask, rescaler in zip(self.masks, rescalers, strict=True)
            ],
            norms=[rescaler * norm for rescaler, norm in zip(rescalers, covered, strict=True)],
        )


class _LookUp:
    """Sum and maximum of the rescalers of at most 8 tasks, for each column of their bits."""

    def __init__(self, rescalers: Sequence[float]) -> None:
        owners = [
            [value for bit, value in enumerate(rescalers) if column >> bit & 1]
            for column in range(2 ** len(rescalers))
        ]
        self.sums = np.array([math.fsum(values) for values in owners])
        self.maxima = np.array([max(values, default=0.0) for values in owners])


class _ColumnSums:
    """Running float64 sums of magnitudes, one for each column of mask bits."""

    def __init__(self, tasks: int) -> None:
        self._totals = [
            np.zeros(2 ** min(GROUP, tasks - first)) for first in range(0, tasks, GROUP)
        ]

    def add(self, columns: Columns, magnitudes: NDArray[np.floating]) -> None:
        """Add magnitudes (n,) to the sums of their columns, one (n,) array per 8 tasks."""
        for group, column in enumerate(columns):
            totals = self._totals[group]
            # Bincount adds in order. Putting the running totals in front makes the whole
            # pass one sequential sum, the same however it is cut into blocks.
            indices = np.concatenate([np.arange(totals.size), column])
            weights = np.concatenate([totals, magnitudes])
            self._totals[group] = np.bincount(indices, weights, minlength=totals.size)

    def norm(self, task: int) -> float:
        """The sum over all columns in which the task's bit is set."""
        totals = self._totals[task // GROUP]
        owned = np.arange(totals.size) >> (task % GROUP) & 1
        return math.fsum(totals[owned == 1])


def _columns(masks: Sequence[Bits], size: int) -> Columns:
    """Bit i of element j is task i's mask bit: one (size,) array for every 8 tasks."""
    columns = []
    for first in range(0, len(masks), GROUP):
        column = np.zeros(size, dtype=np.uint8)
        for bit, mask in enumerate(masks[first : first + GROUP]):
            column |= np.left_shift(unpack_bits(mask, size), np.uint8(bit))
        columns.append(column.astype(np.intp))
    return columns


def _append_task(columns: Columns, bits: Bools, task: int) -> None:
    """Add the new task's bits to the columns, in place."""
    shifted = np.left_shift(bits.astype(np.intp), task % GROUP)
    if task % GROUP:
        columns[-1] |= shifted
    else:
        columns.append(shifted)


def _look_up(tables: Sequence[Float64], columns: Columns, join: np.ufunc, size: int) -> Float64:
    """The tables' entries for each element, joined over groups of tasks; float64 (size,)."""
    result = np.zeros(size)
    for table, column in zip(tables, columns, strict=True):
        join(result, np.take(table, column, mode="clip"), out=result)
    return result


def _elect_positive(old: Float64, total: Float64, new: Float32) -> Bools:
    """Whether the exact S = old * total + new is positive, for each element."""
    product = old * total
    rounded = product + new
    positive: Bools = rounded > 0
    # Rounding the product can hide a sign only where it meets -new exactly. There, split in
    # two parts whose products are exact, the first cancels against `new` without error.
    ties = np.flatnonzero((rounded == 0) & (product != 0))
    if ties.size:
        high = total[ties].astype(np.float32).astype(np.float64)
        low = total[ties] - high
        positive[ties] = (old[ties] * high + new[ties]) + old[ties] * low > 0
    return positive


def _merge(positive: Bools, old: Float32, new: Float32) -> Float32:
    """The largest value of the elected side; adding 0 turns -0 into +0."""
    merged: Float32 = np.where(positive, np.maximum(old, new), np.minimum(old, new))
    merged += np.float32(0)
    return merged


def _rescaler(norm: float, covered: float) -> float:
    """||delta||_1 / ||M * u||_1 as a float32 value; 1 where either is 0."""
    if norm == 0 or covered == 0:
        return 1.0
    low, high = RESCALER_RANGE
    return float(np.float32(min(max(norm / covered, low), high)))


def _check_state(
    layout: ParameterLayout, unified: Tensors | None, triggers: Sequence[Trigger]
) -> None:
    if unified is None:
        if triggers:
            raise InvalidStateError(layout.names[0], "is missing: triggers without unified delta")
        return
    fault = layout.name_fault(unified)
    if fault:
        raise InvalidStateError(*fault)
    for task, trigger in enumerate(triggers):
        check_trigger(layout, trigger, f"tasks[{task}].")


def _zeros(layout: ParameterLayout, name: str) -> Float32:
    return np.broadcast_to(np.float32(0), (layout.sizes[layout.index(name)],))
