"""The fixed order of a registry's trainable parameters, as a flat vector and as mask bits.

Every array of the method follows this order: element j of the unified delta, bit j of a mask and
coordinate j of an expert are the same parameter. In masks each tensor starts at a multiple of 64
bits, so that its bits can be read without touching those of other tensors.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bits = NDArray[np.uint8]
Bools = NDArray[np.bool_]

ALIGNMENT = 64  # bits: where a tensor's mask may start

# A larger value means that training diverged. The bound also keeps every expert finite: an element
# of an expert is at most its L1 norm, which unify preserves, and d * 1e20 is far below the largest
# float32.
LARGEST_VALUE = 1e20
_LARGEST_PATTERN = int(np.float32(LARGEST_VALUE).view(np.uint32))
_INFINITY_PATTERN = int(np.float32(np.inf).view(np.uint32))


class InvalidDeltaError(ValueError):
    """A delta that does not fit the registry's parameters, or is not finite.

    `parameter` names the first such parameter.
    """

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"parameter {parameter!r} {reason}")
        self.parameter = parameter


class InvalidStateError(ValueError):
    """A stored unified delta, trigger or prototype array that is not valid.

    `tensor` names the array.
    """

    def __init__(self, tensor: str, reason: str) -> None:
        super().__init__(f"stored tensor {tensor!r} {reason}")
        self.tensor = tensor


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of the trainable parameters, in the registry's order.

    It may be empty: of what is merged, if every parameter is kept exactly. Raises ValueError for
    repeated names, negative sizes or unequal lengths.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shapes", tuple(tuple(int(n) for n in s) for s in self.shapes))
        if len(self.names) != len(self.shapes):
            raise ValueError(f"{len(self.names)} names but {len(self.shapes)} shapes")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({n for n in self.names if self.names.count(n) > 1})
            raise ValueError(f"parameter names occur more than once: {', '.join(repeated)}")
        if any(n < 0 for shape in self.shapes for n in shape):
            raise ValueError("a shape has a negative size")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements in each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def count(self) -> int:
        """d, the number of trainable parameters (elements)."""
        return sum(self.sizes)

    @cached_property
    def row_counts(self) -> tuple[int, ...]:
        """Rows of each tensor: its output channels (first axis); a vector or scalar is one row."""
        return tuple(
            (shape[0] if len(shape) > 1 else 1) if size else 0
            for shape, size in zip(self.shapes, self.sizes, strict=True)
        )

    @cached_property
    def row_sizes(self) -> tuple[int, ...]:
        """Elements in each row of each tensor; 0 for a tensor without elements."""
        return tuple(
            size // rows if rows else 0
            for size, rows in zip(self.sizes, self.row_counts, strict=True)
        )

    @cached_property
    def _mask_ends(self) -> tuple[int, ...]:
        padded = (-(-size // ALIGNMENT) * ALIGNMENT for size in self.sizes)
        return tuple(accumulate(padded, initial=0))

    @cached_property
    def mask_offsets(self) -> tuple[int, ...]:
        """The bit at which each tensor starts in a packed mask, a multiple of 64."""
        return self._mask_ends[:-1]

    @cached_property
    def mask_bytes(self) -> int:
        """Bytes of one packed mask."""
        return self._mask_ends[-1] // 8

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Return the position of a parameter; raise KeyError for an unknown name."""
        return self._positions[name]

    def restricted_to(self, names: Container[str]) -> "ParameterLayout":
        """Return the layout of some of the parameters, in the same order."""
        kept = [(n, s) for n, s in zip(self.names, self.shapes, strict=True) if n in names]
        return ParameterLayout(tuple(n for n, _ in kept), tuple(s for _, s in kept))

    def check_names(self, delta: Iterable[str]) -> None:
        """Raise InvalidDeltaError for the first parameter that is missing or unexpected."""
        fault = self.name_fault(delta)
        if fault:
            raise InvalidDeltaError(*fault)

    def name_fault(self, present: Iterable[str]) -> tuple[str, str] | None:
        """Return the first missing or unexpected name and what is wrong with it, or None."""
        found = set(present)
        for name in self.names:
            if name not in found:
                return name, "is missing"
        unexpected = sorted(found.difference(self.names))
        if unexpected:
            return unexpected[0], "is not a trainable parameter of this registry"
        return None

    def form_fault(self, name: str, values: Any, dtype: object = np.float32) -> str | None:
        """Return what is wrong with a tensor's shape or dtype, or None.

        `dtype` is float32 in the library of `values`.
        """
        expected = self.shapes[self.index(name)]
        if tuple(values.shape) != expected:
            return f"has shape {tuple(values.shape)}, not {expected}"
        if values.dtype != dtype:
            return f"has dtype {values.dtype}, not float32"
        return None


class Extremes(NamedTuple):
    """The smallest and largest magnitude among float32 values, as bit patterns without sign.

    Such patterns sort like magnitudes, NaN and infinity last. `smallest` is the pattern of the
    smallest nonzero value minus one; if all are 0, the largest uint32 (numpy) or int32 (torch).
    """

    smallest: int
    largest: int


def pattern_fault(largest: int) -> str | None:
    """Return what is wrong with values whose `Extremes.largest` this is, or None.

    NaN, infinity and values beyond `LARGEST_VALUE` are faults.
    """
    if largest <= _LARGEST_PATTERN:
        return None
    return finite_fault(largest) or f"holds a value beyond {LARGEST_VALUE:g}"


def finite_fault(largest: int) -> str | None:
    """Like `pattern_fault`, but only NaN and infinity are faults."""
    return "holds NaN or infinity" if largest >= _INFINITY_PATTERN else None
