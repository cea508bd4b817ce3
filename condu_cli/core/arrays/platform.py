"""The interface of a platform: numpy arrays, or torch tensors on one device.

The streaming passes are written once and ask a platform for what differs between the two: creating
arrays, fetching and checking those from outside, and viewing values as bit patterns.

Arrays of the state (unified arrays, masks, rescalers) may be elsewhere than on the platform; they
are moved there one chunk at a time, in their stored dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.coders import Coder, UnifiedDtype
    from condu_cli.core.arrays.layout import ParameterLayout


class Source(Protocol):
    """A flat array (n,) that is read slice by slice."""

    def __getitem__(self, part: slice, /) -> Array:
        """Return the elements of a slice with step 1, on the platform."""


class Platform(Protocol):
    """What a streaming pass needs to know about its arrays.

    `word` is the dtype of a working mask's elements. `block_size` is the default chunk size in
    elements. `threads` and `kernels`, unless None, are the only ones that the platform allows.
    """

    word: np.dtype[Any]
    block_size: int
    threads: int | None
    kernels: str | None

    def working(self) -> AbstractContextManager[None]:
        """Return the context that a pass, including its writes to weights, must run in."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised array."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of zeros."""

    def here(self, array: NDArray[Any]) -> Array:
        """Move a float32 or float64 array of ours to the platform."""

    def host(self, array: Array) -> NDArray[Any]:
        """Return any array as a numpy array."""

    def source(self, array: Array) -> Source:
        """Return a view of a state array, (n,) and contiguous, that is read on the platform."""

    def holds(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Return whether a state array has this dtype and can be read on the platform."""

    def coder(self, dtype: UnifiedDtype) -> Coder:
        """Return the coder that reads and writes a unified delta of this dtype."""

    def is_contiguous(self, array: Array) -> bool:
        """Return whether the elements are in memory in the order of the axes."""

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """Return what is wrong with a tensor's shape, dtype (float32) or device, or None."""

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """Return the bytes of short slices of a packed mask."""
