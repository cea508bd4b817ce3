"""Where arrays live: numpy's in memory, or torch's on a device; unify and decouple run on both.

The streaming passes are one text that asks a platform for what the two do differently: to make
arrays, to fetch and check those that come from outside, to look at values as bit patterns. Torch
is imported by `platform_of` only, when it meets a tensor.

Arrays of the state (unified arrays, masks, rescalers) may lie elsewhere than the platform; they
are moved there one chunk at a time, in the dtype in which they are stored.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from array_api_compat import is_torch_array

from condu_cli.core.segments import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from condu_cli.core.bits import Array
    from condu_cli.core.dtypes import Coder, UnifiedDtype
    from condu_cli.core.layout import ParameterLayout


class Source(Protocol):
    """A flat array of (n,) elements that is read slice by slice."""

    def __getitem__(self, part: slice, /) -> Array:
        """The elements of a slice with step 1, on the platform."""


class Platform(Protocol):
    """What a streaming pass needs to know about its arrays.

    `word` is the dtype of a working mask's elements. `block_size` (elements) is the size of chunks
    where none is asked for; `threads` and `kernels` insist on one way to run, unless None.
    """

    word: np.dtype[Any]
    block_size: int
    threads: int | None
    kernels: str | None

    def working(self) -> AbstractContextManager[None]:
        """What a pass over chunks, its writes to weights included, has to run in."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array that holds anything."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of zeros."""

    def here(self, array: NDArray[Any]) -> Array:
        """An array of this program, float32 or float64, on the platform."""

    def host(self, array: Array) -> NDArray[Any]:
        """An array, of the platform or not, as numpy's."""

    def source(self, array: Array) -> Source:
        """An array of the state, (n,) and contiguous, to be read on the platform."""

    def holds(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Whether an array of the state has this dtype and can be read on the platform."""

    def coder(self, dtype: UnifiedDtype) -> Coder:
        """How a unified delta of this dtype is read and written on the platform."""

    def is_contiguous(self, array: Array) -> bool:
        """Whether the elements lie in memory in the order of the axes."""

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """What is wrong with a parameter's tensor: shape, dtype (float32) or place; or None."""

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """The bytes of short slices of a packed mask of the state."""


class NumpyPlatform:
    """Arrays in memory, memory maps among them, and any number of threads."""

    word: np.dtype[Any] = np.dtype(np.uint64)
    block_size = BLOCK_SIZE
    threads: int | None = None
    kernels: str | None = None

    def working(self) -> AbstractContextManager[None]:
        """See `Platform`, here and below."""
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Memory that was not written to."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Memory set to 0."""
        return np.zeros(shape, dtype)

    def here(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def source(self, array: Array) -> Source:
        """The array itself."""
        source: Source = array
        return source

    def holds(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Whether the dtype is the same; a torch tensor's never is."""
        return bool(array.dtype == dtype)

    def coder(self, dtype: UnifiedDtype) -> Coder:
        """The dtype's own."""
        return dtype

    def is_contiguous(self, array: NDArray[Any]) -> bool:
        """Whether numpy says so."""
        return array.flags.c_contiguous

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """The layout's answer."""
        return layout.form_fault(name, values)

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """One slice after the other."""
        return (mask[part].tobytes() for part in parts)


NUMPY = NumpyPlatform()


def platform_of(arrays: Iterable[Array]) -> Platform:
    """The platform of the first array: torch's on its device for a tensor, else numpy's."""
    first = next(iter(arrays), None)
    if first is None or not is_torch_array(first):
        return NUMPY
    from condu_cli.core.torch_platform import TorchPlatform

    return TorchPlatform(first.device)
