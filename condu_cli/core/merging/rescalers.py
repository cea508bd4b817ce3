"""Which parameters share a rescaler: all, those of a tensor, or those of a row.

The paper's rescaler is one L1 ratio over all parameters (ConDU, arXiv 2503.10705). The same ratio
over each tensor, or each of its output channels, restores every group's own norm instead of the
overall one. A trigger keeps one number per group, in the layout's order.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.core.arrays.layout import Float32, Float64, ParameterLayout
    from condu_cli.core.arrays.segments import Chunk

GRANULARITIES = ("global", "tensor", "row")

# A rescaler outside this range belongs to an expert that the others have all but erased. Clipping
# keeps sums and products of rescalers within float32's range.
RESCALER_RANGE = (2.0**-100, 2.0**100)


class RescalerGroups:
    """The groups of one granularity over a layout.

    `global` is one group; `tensor` has one for each parameter; `row` has one for each row of
    each parameter (`ParameterLayout.row_counts`). Raises ValueError for an unknown granularity.
    """

    def __init__(self, layout: ParameterLayout, granularity: str = "global") -> None:
        if granularity not in GRANULARITIES:
            raise ValueError(f"the granularity must be one of {GRANULARITIES}, not {granularity!r}")
        self.layout = layout
        self.granularity = granularity

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        if self.granularity == "global":
            return (0,)
        tensors = len(self.layout.names)
        sizes = self.layout.row_counts if self.granularity == "row" else (1,) * tensors
        return tuple(int(n) for n in np.cumsum([0, *sizes]))

    @property
    def count(self) -> int:
        """Number of rescalers in a trigger."""
        return 1 if self.granularity == "global" else self._starts[-1]

    def of_tensor(self, tensor: int) -> slice:
        """Return the groups of a tensor, given by its position in the layout."""
        if self.granularity == "global":
            return slice(0, 1)
        return slice(self._starts[tensor], self._starts[tensor + 1])

    def at(self, chunk: Chunk) -> slice:
        """Return the groups of a chunk: one, or one for each of its segments (rows)."""
        groups = self.of_tensor(chunk.tensor)
        if self.granularity != "row":
            return groups
        first = groups.start + chunk.first
        return slice(first, first + chunk.segments)

    def stack(self, rescalers: Sequence[Float32]) -> Float64:
        """Stack the rescalers of several triggers as float64 (tasks, groups)."""
        return np.array(rescalers, dtype=np.float64).reshape(len(rescalers), self.count)

    def of_chunk(self, stacked: Float64, chunk: Chunk) -> Float64:
        """Expand rescalers (tasks, groups) to the segments of a chunk: (tasks, segments)."""
        found = stacked[:, self.at(chunk)]
        return np.ascontiguousarray(np.broadcast_to(found, (len(stacked), chunk.segments)))

    def of_rows(self, rescaler: Float32, tensor: int) -> Float32:
        """Return one trigger's rescalers for a tensor: (1, 1), or (rows, 1) if each row has one."""
        return rescaler[self.of_tensor(tensor)][:, None]


def rescaler_of(norms: Float64, covered: Float64) -> Float64:
    """Return ||delta||_1 / ||M * u||_1 per group, float32 values in float64; 1 if either is 0.

    Source: ConDU (arXiv 2503.10705), rescaler.
    """
    usable = (norms > 0) & (covered > 0)
    ratio = np.ones_like(norms)
    with np.errstate(over="ignore"):
        np.divide(norms, covered, out=ratio, where=usable)
    low, high = RESCALER_RANGE
    return np.clip(ratio, low, high).astype(np.float32).astype(np.float64)
