"""Check deltas and weights before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from condu_cli.core.arrays.bits import Array
from condu_cli.core.arrays.layout import InvalidDeltaError, ParameterLayout, pattern_fault
from condu_cli.core.arrays.platforms import platform_of
from condu_cli.core.passes.vectorised import extremes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from condu_cli.core.arrays.platform import Platform


class CheckedDelta(Mapping[str, Array]):
    """A delta whose values `check_delta` has checked, so that they are not scanned again.

    The mapping is read-only; writing to its arrays would make the check worthless.
    """

    def __init__(self, delta: Mapping[str, Array]) -> None:
        self._delta = delta

    def __getitem__(self, name: str) -> Array:
        return self._delta[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._delta)

    def __len__(self) -> int:
        return len(self._delta)


def check_delta(layout: ParameterLayout, delta: Mapping[str, Array]) -> CheckedDelta:
    """Check names, shapes, dtype (float32) and values of a delta, numpy's or torch's.

    Call it where a delta enters: after training, or when it is read from a file.

    Raises InvalidDeltaError naming the first parameter that is missing, unexpected, has another
    shape or dtype, or holds NaN, infinity or a value beyond `LARGEST_VALUE`.
    """
    layout.check_names(delta)
    tensors = [delta[name] for name in layout.names]
    platform = platform_of(tensors)
    check_forms(layout, platform, tensors)
    for name, size, values in zip(layout.names, layout.sizes, tensors, strict=True):
        flat = values.reshape(-1)
        for start in range(0, size, platform.block_size):
            part = flat[start : start + platform.block_size]
            fault = pattern_fault(extremes(part).largest)
            if fault:
                raise InvalidDeltaError(name, fault)
    return CheckedDelta(delta)


def check_forms(layout: ParameterLayout, platform: Platform, tensors: Sequence[Array]) -> None:
    """Raise InvalidDeltaError for the first tensor with a wrong shape, dtype or device."""
    for name, values in zip(layout.names, tensors, strict=True):
        fault = platform.form_fault(layout, name, values)
        if fault:
            raise InvalidDeltaError(name, fault)
