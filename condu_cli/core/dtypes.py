"""How a unified delta is stored: float32, bfloat16, or int8 with a scale for each row.

The shared part is one array per parameter, of its shape. int8 adds one float32 array per
parameter, "scale/NAME" of shape (rows,), the value of one step in each row; rows as in
`ParameterLayout.row_counts`. bfloat16 arrays have the dtype of `ml_dtypes`.

What is not zero stays so in every dtype: a value that would round to zero becomes the smallest
step of its sign. Signs and masks are therefore the same in all of them, and no expert loses
parameters by being stored again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np

from condu_cli.core.layout import Float32, InvalidStateError, ParameterLayout
from condu_cli.core.platforms import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from condu_cli.core.bits import Array
    from condu_cli.core.platforms import Platform

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SCALE = "scale/"
INT8_STEPS = 127
SMALLEST_FLOAT32 = np.float32(2.0**-149)

Arrays = dict[str, "Array"]


class Coder(Protocol):
    """Float32 values to stored ones and back, on one platform."""

    def decode(self, stored: Array, scales: Array | None, out: Array) -> None:
        """Stored values of shape `out.shape`, (rows, n) if `by_row`, to float32."""

    def encode(self, values: Array, stored: Array, scales: Array | None) -> None:
        """Store values and round `values` in place to what `decode` will give back."""


class UnifiedDtype(Coder, Protocol):
    """One way to store float32 values, and its coder for numpy."""

    name: str
    by_row: bool
    """Whether only whole rows can be stored."""

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Name, dtype and shape of every array of a shared part, in order."""

    def encode_at(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        """Store finite values with scales that are there; `values` may be overwritten."""


class _Float32:
    name, by_row = "float32", False

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        return _one_each(layout, np.dtype(np.float32))

    def decode(self, stored: NDArray[Any], scales: Float32 | None, out: Float32) -> None:
        out[...] = stored

    def encode(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        stored[...] = values

    encode_at = encode


class _BFloat16:
    """The upper half of a float32, rounded to nearest, ties to even."""

    name, by_row = "bfloat16", False

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        return _one_each(layout, BFLOAT16)

    def decode(self, stored: NDArray[Any], scales: Float32 | None, out: Float32) -> None:
        # A cast and a shift of bit patterns: many times faster than the cast of the dtype.
        patterns = out.view(np.uint32)
        patterns[...] = stored.view(np.uint16)
        patterns <<= np.uint32(16)

    def encode(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        patterns = values.view(np.uint32)
        tiny = (patterns & np.uint32(0x7FFFFFFF)) - np.uint32(1) < np.uint32(0x8000)
        rounded = patterns >> np.uint32(16)
        rounded &= np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += patterns
        if tiny.any():
            rounded[tiny] = (patterns[tiny] & np.uint32(0x80000000)) | np.uint32(0x10000)
        rounded &= np.uint32(0xFFFF0000)
        patterns[...] = rounded
        stored.view(np.uint16)[...] = rounded >> np.uint32(16)

    encode_at = encode


class _Int8:
    """Symmetric: the largest magnitude of a row is 127 steps."""

    name, by_row = "int8", True

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        scales = {
            SCALE + name: (np.dtype(np.float32), (rows,))
            for name, rows in zip(layout.names, layout.row_counts, strict=True)
        }
        return _one_each(layout, np.dtype(np.int8)) | scales

    def decode(self, stored: NDArray[Any], scales: Float32 | None, out: Float32) -> None:
        assert scales is not None  # noqa: S101 - `arrays` promises them
        np.multiply(stored, scales[:, None], out=out, dtype=np.float32)

    def encode(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        assert scales is not None  # noqa: S101 - `arrays` promises them
        largest = np.maximum(values.max(axis=1), -values.min(axis=1))
        steps = largest / np.float32(INT8_STEPS)
        # Only among denormals can rounding have made 127 steps fall short by more than one.
        steps[INT8_STEPS * steps < largest - steps] += SMALLEST_FLOAT32
        steps = np.maximum(steps, SMALLEST_FLOAT32)
        scales[...] = np.where(largest > 0, steps, np.float32(0))
        nearest = _nearest_steps(values, steps)
        stored[...] = nearest
        np.multiply(nearest, steps[:, None], out=values)
        values += np.float32(0)  # no -0

    def encode_at(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        assert scales is not None  # noqa: S101 - `arrays` promises them
        usable = (scales > 0) & (scales < np.inf)
        with np.errstate(over="ignore"):
            stored[...] = _nearest_steps(values, np.where(usable, scales, np.float32(np.inf)))


def _nearest_steps(values: Float32, steps: Float32) -> Float32:
    """How many steps of its row each value is: whole numbers in -127..127, 0 for 0 only."""
    nearest: Float32 = values / steps[:, None]
    np.rint(nearest, out=nearest)
    np.clip(nearest, -INT8_STEPS, INT8_STEPS, out=nearest)
    lost = (nearest == 0) & (values != 0)
    if lost.any():
        nearest[lost] = np.sign(values[lost])
    return nearest


DTYPES: Mapping[str, UnifiedDtype] = {t.name: t for t in (_Float32(), _BFloat16(), _Int8())}


class StoredDelta:
    """The arrays of a shared part, read and written as float32; every array is fetched once.

    What is read of them appears on `platform`. Raises InvalidStateError naming the array that is
    missing, unexpected or misshapen.
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
        """Arrays to be written to."""
        wanted = dtype.arrays(layout).items()
        arrays = {name: platform.empty(shape, kind) for name, (kind, shape) in wanted}
        return cls(layout, dtype, arrays, platform)

    def tensor(self, tensor: int) -> Float32:
        """One parameter, given by its position, as float32 of its shape."""
        name = self.layout.names[tensor]
        if self.dtype.name == "float32":
            array: Float32 = self.arrays[name]
            return array
        values = np.empty(self.layout.shapes[tensor], dtype=np.float32)
        self.read(tensor, 0, values.size, values.reshape(1, -1))
        return values

    def float32(self, tensor: int) -> Array | None:
        """One parameter's stored values, flat, if they can be used as they lie; else None."""
        name = self.layout.names[tensor]
        flat = self._flat[name]
        usable = self.dtype.name == "float32" and flat is self.platform.source(flat)
        return flat if usable else None

    def read(self, tensor: int, start: int, stop: int, out: Array) -> None:
        """Elements start..stop of a parameter into `out`, of shape (1, n) or (rows, length)."""
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
        """Finite values as elements start..stop would be stored with the scales there are: (n,).

        Nothing is written but, perhaps, `values`.
        """
        _, scales = self._part(tensor, start, stop)
        rows = self._rows(values, tensor)
        stored = np.empty(rows.shape, self.arrays[self.layout.names[tensor]].dtype)
        self.dtype.encode_at(rows, stored, scales)
        return stored.reshape(-1)

    def codes(self, tensor: int) -> NDArray[Any]:
        """One parameter's stored values, flat, as signed integers of the same bits."""
        flat = self.arrays[self.layout.names[tensor]].reshape(-1)
        codes: NDArray[Any] = flat.view(f"i{flat.dtype.itemsize}")
        return codes

    def _part(self, tensor: int, start: int, stop: int) -> tuple[Array, Array | None]:
        name = self.layout.names[tensor]
        stored = self._flat[name][start:stop]
        if not self.dtype.by_row:
            return stored, None
        length = self.layout.row_sizes[tensor]
        return stored, self._flat[SCALE + name][start // length : stop // length]

    def _rows(self, values: Array, tensor: int) -> Array:
        """The same memory as rows, where rows matter."""
        if not self.dtype.by_row:
            return values
        return values.reshape(-1, self.layout.row_sizes[tensor])


def _one_each(
    layout: ParameterLayout, dtype: np.dtype[Any]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (dtype, shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}


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
        # Numpy's memory maps become plain arrays, whose slices cost far less.
        fetched[name] = np.asarray(array) if isinstance(array, np.ndarray) else array
    return fetched
