"""The method's settings in a registry, and the trigger of a task."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.arrays.coders import DTYPES, SCALE
from condu_cli.core.arrays.layout import Float32, InvalidStateError, ParameterLayout
from condu_cli.core.arrays.platforms import NUMPY
from condu_cli.core.arrays.segments import Segmentation
from condu_cli.core.arrays.stored_delta import StoredDelta
from condu_cli.core.merging.masks import MaskBytes, check_mask
from condu_cli.core.merging.rescalers import RESCALER_RANGE, RescalerGroups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.coders import UnifiedDtype
    from condu_cli.core.arrays.platform import Platform


@dataclass(frozen=True, eq=False)
class Trigger:
    """What one task adds to the unified delta.

    `mask` is packed, uint8 of shape (layout.mask_bytes,), dense or sparse. `rescaler` is float32
    of shape (groups,), every entry positive; groups as in `RescalerGroups`. With a unified delta of
    torch tensors both are tensors too.
    """

    mask: MaskBytes | Array
    rescaler: Float32 | Array


@dataclass(frozen=True)
class Method:
    """A layout, the granularity of rescalers, the dtype of the unified delta, and what is trimmed.

    `trim` is the share of each row of a new delta that becomes 0 before it is merged, rounded
    down to whole elements. Raises ValueError for an unknown granularity or dtype, for a share
    outside 0 <= trim < 1, or for a parameter whose name is reserved for the scales of int8.
    """

    layout: ParameterLayout
    rescaler: str = "global"
    dtype: str = "float32"
    trim: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype must be one of {tuple(DTYPES)}, not {self.dtype!r}")
        if not 0 <= self.trim < 1:
            raise ValueError(f"the share to trim must be in 0..1 without 1, not {self.trim}")
        RescalerGroups(self.layout, self.rescaler)
        for name in self.layout.names:
            if name.startswith(SCALE):
                raise ValueError(f"the name of parameter {name!r} is reserved")

    @cached_property
    def groups(self) -> RescalerGroups:
        """The groups that share a rescaler."""
        return RescalerGroups(self.layout, self.rescaler)

    @property
    def storage(self) -> UnifiedDtype:
        """How the unified delta is stored."""
        return DTYPES[self.dtype]

    def segmentation(self) -> Segmentation:
        """Return how tensors are cut: by rows if each has a rescaler or a scale, or is trimmed."""
        by_row = self.rescaler == "row" or self.storage.by_row or self.trim > 0
        return Segmentation(self.layout, by_row=by_row)

    def trimmed(self, length: int) -> int:
        """Return how many elements of a row of a new delta become 0."""
        return int(self.trim * length)

    def stored(self, arrays: Mapping[str, Array], platform: Platform = NUMPY) -> StoredDelta:
        """Check a unified delta's arrays; raise InvalidStateError naming one."""
        return StoredDelta(self.layout, self.storage, arrays, platform)


def check_trigger(
    method: Method, trigger: Trigger, label: str = "", platform: Platform = NUMPY
) -> None:
    """Check a stored trigger that will be read on a platform.

    Raises InvalidStateError naming `label` + "mask" or `label` + "rescaler".
    """
    check_mask(trigger.mask, method.layout, f"{label}mask", platform)
    given, name, shape = trigger.rescaler, f"{label}rescaler", (method.groups.count,)
    if not platform.holds(given, np.dtype(np.float32)) or tuple(given.shape) != shape:
        found = f"{given.dtype} {tuple(given.shape)}"
        raise InvalidStateError(name, f"is {found}, not float32 {shape}")
    rescaler = platform.host(given)
    low, high = RESCALER_RANGE
    bad = np.flatnonzero(~((rescaler >= low) & (rescaler <= high)))
    if bad.size:
        value = float(rescaler[bad[0]])
        raise InvalidStateError(name, f"is not a positive float32 value: {value!r}")
