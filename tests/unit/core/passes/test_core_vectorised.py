"""Trimming rows: which elements become 0, in numpy and in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import chosen, same_bits, usual, vector

from condu_cli.core.passes.vectorised import drop_smallest

DEVICES = ["numpy", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FEW = [0.0, 2.0**-149, 1.0, 1.0000001, 2.0]


def trimmed(rows, count, device="numpy"):
    if device == "numpy":
        found = rows.copy()
        drop_smallest(found, count)
        return found
    found = torch.from_numpy(rows.copy()).to(device)
    drop_smallest(found, count)
    return found.cpu().numpy()


def as_defined(rows, count):
    """Sort each row by magnitude, then by position, and clear the first `count`."""
    found = rows.copy()
    for row in found:
        order = sorted(range(row.size), key=lambda place: (abs(row[place]), place))
        row[order[:count]] = 0
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_the_smallest_magnitudes_of_each_row_become_zero(device):
    rows = np.array([[3, -1, 2, -4], [-1, 5, 0.5, 2]], np.float32)
    assert trimmed(rows, 2, device).tolist() == [[3, 0, 0, -4], [0, 5, 0, 2]]
    assert trimmed(rows, 0, device).tolist() == rows.tolist()
    assert not trimmed(rows, 4, device).any()


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_magnitudes_the_first_go_first(device):
    rows = np.array([[1, -1, 1, 1], [2, 1, -1, 2]], np.float32)
    assert trimmed(rows, 2, device).tolist() == [[0, 0, 1, 1], [2, 0, 0, 2]]
    assert trimmed(rows, 3, device).tolist() == [[0, 0, 0, 1], [0, 0, 0, 2]]


@pytest.mark.parametrize("device", DEVICES)
def test_zeros_are_dropped_before_anything_else(device):
    row = np.array([[0, 5, -0.0, 0, 1]], np.float32)
    assert trimmed(row, 2, device).tolist() == [[0, 5, 0, 0, 1]]
    assert trimmed(row, 4, device).tolist() == [[0, 5, 0, 0, 0]]


@pytest.mark.parametrize("device", DEVICES)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 70), st.data())
def test_every_row_is_trimmed_as_defined_whatever_it_holds(device, seed, rows, length, data):
    count = data.draw(st.integers(0, length))
    draw = data.draw(st.sampled_from([usual, lambda s, n: chosen(FEW, s, n)]))
    values = draw(seed, rows * length).reshape(rows, length)
    found = trimmed(values, count, device)
    wanted = as_defined(values, count)
    assert same_bits(found, wanted + np.float32(0) if count else wanted)
    assert same_bits(trimmed(found, count, device), found)


def test_rows_apart_from_each_other_are_trimmed_in_place():
    whole = np.arange(1, 13, dtype=np.float32).reshape(2, 6)
    drop_smallest(whole[:, :4], 2)
    assert whole.tolist() == [[0, 0, 3, 4, 5, 6], [0, 0, 9, 10, 11, 12]]


def test_a_row_of_one_element_may_be_dropped():
    assert trimmed(vector(3).reshape(1, 1), 1).tolist() == [[0]]
