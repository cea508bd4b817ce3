"""A delta is checked before it is used."""

import math

import numpy as np
import pytest

from condu_cli.core.arrays.layout import InvalidDeltaError, ParameterLayout
from condu_cli.core.merging.checks import check_delta

LAYOUT = ParameterLayout(("a", "b", "c"), ((5, 13), (), (64,)))


def zeros(layout):
    return {n: np.zeros(s, np.float32) for n, s in zip(layout.names, layout.shapes, strict=True)}


def test_check_accepts_a_delta_and_names_the_first_fault():
    delta = zeros(LAYOUT)
    check_delta(LAYOUT, delta)
    with pytest.raises(InvalidDeltaError, match="'b' is missing"):
        check_delta(LAYOUT, {"a": delta["a"]})
    with pytest.raises(InvalidDeltaError, match="'c' has shape") as caught:
        check_delta(LAYOUT, {**delta, "c": delta["a"]})
    assert caught.value.parameter == "c"
    with pytest.raises(InvalidDeltaError, match="'z' is not a trainable") as caught:
        check_delta(LAYOUT, {**delta, "z": delta["a"]})
    assert caught.value.parameter == "z"
    with pytest.raises(InvalidDeltaError, match="'a' has dtype float64"):
        check_delta(LAYOUT, {**delta, "a": np.zeros((5, 13))})


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 199_999])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2e20, -2e20])
def test_check_finds_a_bad_value_anywhere(position, value):
    layout = ParameterLayout(("good", "bad"), ((3,), (200_000,)))
    delta = zeros(layout)
    delta["bad"][position] = value
    with pytest.raises(InvalidDeltaError, match=r"NaN or infinity|beyond 1e") as caught:
        check_delta(layout, delta)
    assert caught.value.parameter == "bad"
