"""What the streaming passes ask of the arrays that they run on: numpy's, or torch's on a device.

The passes are one text that asks a platform for what the two do differently: to make arrays, to
fetch and check those that come from outside, to look at values as bit patterns.

Arrays of the state (unified arrays, masks, rescalers) may be elsewhere than on the platform; they
are moved there one chunk at a time, in the dtype in which they are stored.
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
        """Whether the elements are in memory in the order of the axes."""

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """What is wrong with a parameter's tensor: shape, dtype (float32) or place; or None."""

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """The bytes of short slices of a packed mask of the state."""
