"""The parameter order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import layouts

from condu_cli.core.arrays.layout import (
    LARGEST_VALUE,
    InvalidDeltaError,
    InvalidStateError,
    ParameterLayout,
    pattern_fault,
)
from condu_cli.core.passes.vectorised import extremes

LAYOUT = ParameterLayout(("a", "b", "c"), ((5, 13), (), (64,)))


def zeros(layout):
    return {n: np.zeros(s, np.float32) for n, s in zip(layout.names, layout.shapes, strict=True)}


def test_every_tensor_starts_at_a_multiple_of_64_bits():
    assert LAYOUT.sizes == (65, 1, 64)
    assert LAYOUT.count == 130
    assert LAYOUT.mask_offsets == (0, 128, 192)
    assert LAYOUT.mask_bytes == 32


@pytest.mark.parametrize(
    ("names", "shapes", "reason"),
    [
        (("a",), (), "1 names but 0 shapes"),
        (("a", "a"), ((1,), (2,)), "more than once: a"),
        (("a",), ((-1,),), "negative"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(names, shapes, reason):
    with pytest.raises(ValueError, match=reason):
        ParameterLayout(names, shapes)


@given(layouts)
def test_sizes_mask_offsets_and_positions_belong_together(layout):
    assert layout.sizes == tuple(math.prod(shape) for shape in layout.shapes)
    assert layout.count == sum(layout.sizes)
    mask_end = 0
    for position, name in enumerate(layout.names):
        assert layout.index(name) == position
        assert layout.mask_offsets[position] == mask_end
        mask_end += (layout.sizes[position] + 63) // 64 * 64
    assert layout.mask_bytes * 8 == mask_end


def test_an_unknown_name_has_no_position():
    with pytest.raises(KeyError):
        LAYOUT.index("z")


@given(layouts)
def test_rows_are_the_first_axis_and_a_vector_or_scalar_is_one(layout):
    for shape, size, rows, length in zip(
        layout.shapes, layout.sizes, layout.row_counts, layout.row_sizes, strict=True
    ):
        assert rows * length == size
        if size:
            assert rows == (shape[0] if len(shape) >= 2 else 1)
        else:
            assert rows == length == 0


def test_rows_of_some_shapes():
    shapes = ((5, 13), (), (64,), (3, 2, 4), (1, 7), (0, 4), (4, 0), (0,))
    layout = ParameterLayout(tuple("abcdefgh"), shapes)
    assert layout.row_counts == (5, 1, 1, 3, 1, 0, 0, 0)
    assert layout.row_sizes == (13, 1, 64, 8, 7, 0, 0, 0)


LARGEST = np.float32(LARGEST_VALUE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.0, None),
        (-0.0, None),
        (2.0**-149, None),
        (-1.0, None),
        (LARGEST, None),
        (-LARGEST, None),
        (np.nextafter(LARGEST, np.float32(math.inf)), "beyond 1e+20"),
        (-np.nextafter(LARGEST, np.float32(math.inf)), "beyond 1e+20"),
        (np.finfo(np.float32).max, "beyond 1e+20"),
        (math.inf, "NaN or infinity"),
        (-math.inf, "NaN or infinity"),
        (math.nan, "NaN or infinity"),
        (-math.nan, "NaN or infinity"),
    ],
)
def test_a_value_is_finite_and_not_too_large(value, reason):
    values = np.array([0, 1, value, -1], dtype=np.float32)
    found = pattern_fault(extremes(values).largest)
    assert found is None if reason is None else reason in found


@given(st.sampled_from([math.nan, math.inf]), st.booleans())
def test_infinity_and_nan_come_before_values_too_large(worst, first):
    values = [worst, 3e20] if first else [3e20, worst]
    assert (
        pattern_fault(extremes(np.array(values, dtype=np.float32)).largest)
        == "holds NaN or infinity"
    )


def test_errors_carry_the_name_and_say_it():
    assert InvalidDeltaError("w", "is missing").parameter == "w"
    assert "'w' is missing" in str(InvalidDeltaError("w", "is missing"))
    assert InvalidStateError("mask", "is broken").tensor == "mask"
    assert "'mask' is broken" in str(InvalidStateError("mask", "is broken"))
    assert issubclass(InvalidDeltaError, ValueError)
    assert issubclass(InvalidStateError, ValueError)
