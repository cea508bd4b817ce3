"""Choose the platform of an array; torch is imported only for tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import is_torch_array

from condu_cli.core.arrays.numpy_platform import NumpyPlatform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.platform import Platform

NUMPY = NumpyPlatform()


def platform_of(arrays: Iterable[Array]) -> Platform:
    """Return the platform of the first array: torch on its device for a tensor, else numpy."""
    first = next(iter(arrays), None)
    if first is None or not is_torch_array(first):
        return NUMPY
    from condu_cli.core.arrays.torch_platform import TorchPlatform

    return TorchPlatform(first.device)
