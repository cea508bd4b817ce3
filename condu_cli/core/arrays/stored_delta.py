"""A shared part's stored arrays, read and written as float32 on any platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.arrays.coders import SCALE
from condu_cli.core.arrays.layout import Float32, InvalidStateError, ParameterLayout
from condu_cli.core.arrays.platforms import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.coders import UnifiedDtype
    from condu_cli.core.arrays.platform import Platform

Arrays = dict[str, "Array"]


class StoredDelta:
    """The arrays of a shared part, read and written as float32; each array is fetched once.

    What is read appears on `platform`. Raises InvalidStateError naming an array that is missing,
    unexpected or misshapen.
    """

    def __init__(
        self,
        layout: ParameterLayout,
        dtype: UnifiedDtype,
        arrays: Mapping[str, Array],
        platform: Platform = NUMPY,
    ) -> None:
        self.layout = layout
        self.dtype = dtype
        self.platform = platform
        self.arrays = _fetch(dtype.arrays(layout), arrays, platform)
        self._coder = platform.coder(dtype)
        self._flat = {n: platform.source(array.reshape(-1)) for n, array in self.arrays.items()}

    @classmethod
    def empty(
        cls, layout: ParameterLayout, dtype: UnifiedDtype, platform: Platform = NUMPY
    ) -> StoredDelta:
        """Allocate arrays to write to."""
        wanted = dtype.arrays(layout).items()
        arrays = {name: platform.empty(shape, kind) for name, (kind, shape) in wanted}
        return cls(layout, dtype, arrays, platform)

    def tensor(self, tensor: int) -> Float32:
        """Return one parameter, given by its position, as float32 of its shape."""
        name = self.layout.names[tensor]
        if self.dtype.name == "float32":
            array: Float32 = self.arrays[name]
            return array
        values = np.empty(self.layout.shapes[tensor], dtype=np.float32)
        self.read(tensor, 0, values.size, values.reshape(1, -1))
        return values

    def float32(self, tensor: int) -> Array | None:
        """Return one parameter's stored values, flat, if they can be used without decoding."""
        name = self.layout.names[tensor]
        flat = self._flat[name]
        usable = self.dtype.name == "float32" and flat is self.platform.source(flat)
        return flat if usable else None

    def read(self, tensor: int, start: int, stop: int, out: Array) -> None:
        """Read elements start..stop of a parameter into `out`, (1, n) or (rows, length)."""
        if start == stop:
            return
        stored, scales = self._part(tensor, start, stop)
        rows = self._rows(out, tensor)
        self._coder.decode(stored.reshape(rows.shape), scales, rows)

    def write(self, tensor: int, start: int, stop: int, values: Array) -> None:
        """Store float32 values as elements start..stop, and round them in place."""
        if start == stop:
            return
        stored, scales = self._part(tensor, start, stop)
        rows = self._rows(values, tensor)
        self._coder.encode(rows, stored.reshape(rows.shape), scales)

    def stored_form(self, tensor: int, start: int, stop: int, values: Float32) -> NDArray[Any]:
        """Return finite values as start..stop would store them with the existing scales: (n,).

        Only `values` may be overwritten.
        """
        _, scales = self._part(tensor, start, stop)
        rows = self._rows(values, tensor)
        stored = np.empty(rows.shape, self.arrays[self.layout.names[tensor]].dtype)
        self.dtype.encode_at(rows, stored, scales)
        return stored.reshape(-1)

    @property
    def code(self) -> np.dtype[Any]:
        """The dtype of `codes`: signed integers as wide as the stored values."""
        return np.dtype(f"i{self.dtype.itemsize}")

    def codes(self, tensor: int) -> NDArray[Any]:
        """Return one parameter's stored values, flat, as signed integers with the same bits."""
        flat = self.arrays[self.layout.names[tensor]].reshape(-1)
        codes: NDArray[Any] = flat.view(self.code)
        return codes

    def _part(self, tensor: int, start: int, stop: int) -> tuple[Array, Array | None]:
        name = self.layout.names[tensor]
        stored = self._flat[name][start:stop]
        if not self.dtype.by_row:
            return stored, None
        length = self.layout.row_sizes[tensor]
        return stored, self._flat[SCALE + name][start // length : stop // length]

    def _rows(self, values: Array, tensor: int) -> Array:
        """View the same memory as rows, if the dtype stores whole rows."""
        if not self.dtype.by_row:
            return values
        return values.reshape(-1, self.layout.row_sizes[tensor])


def _fetch(
    wanted: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    arrays: Mapping[str, Array],
    platform: Platform,
) -> Arrays:
    present = set(arrays)
    for name in wanted:
        if name not in present:
            raise InvalidStateError(name, "is missing")
    for name in sorted(present.difference(wanted)):
        raise InvalidStateError(name, "is not part of this registry's unified delta")
    fetched = {}
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        if not platform.holds(array, dtype) or tuple(array.shape) != shape:
            found = f"{array.dtype} {tuple(array.shape)}"
            raise InvalidStateError(name, f"is {found}, not {dtype} {shape}")
        # Slices of plain arrays cost far less than those of np.memmap.
        fetched[name] = np.asarray(array) if isinstance(array, np.ndarray) else array
    return fetched
