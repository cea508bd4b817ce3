"""How a unified delta is stored: float32, bfloat16, or int8 with a scale for each row.

The shared part is one array per parameter, of its shape. int8 adds one float32 array per
parameter, "scale/NAME" of shape (rows,), the value of one step in each row; rows as in
`ParameterLayout.row_counts`. bfloat16 arrays have the dtype of `ml_dtypes`.

A value that is not zero stays so in every dtype: one that would round to zero becomes the smallest
step of its sign. So signs and masks are the same in all dtypes, and no expert loses parameters by
being stored repeatedly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.layout import Float32, ParameterLayout

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SCALE = "scale/"
INT8_STEPS = 127
SMALLEST_FLOAT32 = np.float32(2.0**-149)


class Coder(Protocol):
    """Converts float32 values to stored ones and back, on one platform."""

    def decode(self, stored: Array, scales: Array | None, out: Array) -> None:
        """Decode stored values of shape `out.shape`, (rows, n) if `by_row`, to float32."""

    def encode(self, values: Array, stored: Array, scales: Array | None) -> None:
        """Store values, and round `values` in place to what `decode` returns."""


class UnifiedDtype(Coder, Protocol):
    """One way to store float32 values, and its coder for numpy."""

    name: str
    itemsize: int
    """Bytes of a stored value."""
    by_row: bool
    """Whether only whole rows can be stored."""

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Return the name, dtype and shape of every array of a shared part, in order."""

    def encode_at(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        """Store finite values with existing scales; `values` may be overwritten."""


class _Float32:
    name, itemsize, by_row = "float32", 4, False

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        return _one_each(layout, np.dtype(np.float32))

    def decode(self, stored: NDArray[Any], scales: Float32 | None, out: Float32) -> None:
        out[...] = stored

    def encode(self, values: Float32, stored: NDArray[Any], scales: Float32 | None) -> None:
        stored[...] = values

    encode_at = encode


class _BFloat16:
    """The upper half of a float32, rounded to nearest, ties to even."""

    name, itemsize, by_row = "bfloat16", 2, False

    def arrays(self, layout: ParameterLayout) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        return _one_each(layout, BFLOAT16)

    def decode(self, stored: NDArray[Any], scales: Float32 | None, out: Float32) -> None:
        # Casting and shifting bit patterns is many times faster than casting the dtype.
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

    name, itemsize, by_row = "int8", 1, True

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
        # Only for denormals can rounding make 127 steps fall short by more than one step.
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
    """Return each value in steps of its row: whole numbers in -127..127, 0 only for 0."""
    nearest: Float32 = values / steps[:, None]
    np.rint(nearest, out=nearest)
    np.clip(nearest, -INT8_STEPS, INT8_STEPS, out=nearest)
    lost = (nearest == 0) & (values != 0)
    if lost.any():
        nearest[lost] = np.sign(values[lost])
    return nearest


def _one_each(
    layout: ParameterLayout, dtype: np.dtype[Any]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (dtype, shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}


DTYPES: Mapping[str, UnifiedDtype] = {t.name: t for t in (_Float32(), _BFloat16(), _Int8())}
