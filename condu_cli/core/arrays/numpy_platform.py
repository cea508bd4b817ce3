"""The platform of numpy arrays."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.segments import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.coders import Coder, UnifiedDtype
    from condu_cli.core.arrays.layout import ParameterLayout
    from condu_cli.core.arrays.platform import Source


class NumpyPlatform:
    """Arrays in memory, including memory maps; any number of threads."""

    word: np.dtype[Any] = np.dtype(np.uint64)
    block_size = BLOCK_SIZE
    threads: int | None = None
    kernels: str | None = None

    def working(self) -> AbstractContextManager[None]:
        """See `Platform`, here and below."""
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return uninitialised memory."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return zeroed memory."""
        return np.zeros(shape, dtype)

    def here(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array itself."""
        return array

    def host(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array itself."""
        return array

    def source(self, array: Array) -> Source:
        """Return the array itself."""
        source: Source = array
        return source

    def holds(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Return whether the dtype is the same; a torch tensor's never is."""
        return bool(array.dtype == dtype)

    def coder(self, dtype: UnifiedDtype) -> Coder:
        """Return the dtype, which is its own coder."""
        return dtype

    def is_contiguous(self, array: NDArray[Any]) -> bool:
        """Return numpy's flag."""
        return array.flags.c_contiguous

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """Return the layout's answer."""
        return layout.form_fault(name, values)

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """Yield the slices one by one."""
        return (mask[part].tobytes() for part in parts)
