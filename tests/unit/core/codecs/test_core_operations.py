"""What can be done with any codec's experts, where the codec has no way of its own."""

import math

import numpy as np
import pytest

from condu_cli.core.codecs.operations import drift


def test_drift_is_the_relative_l1_change():
    before = [("a", np.array([1.0, -1.0])), ("b", np.array([2.0]))]
    after = [("a", np.array([1.5, 0.0])), ("b", np.array([2.0]))]
    assert drift(before, after) == pytest.approx(1.5 / 4)
    assert drift(before, before) == 0.0


def test_drift_of_an_expert_that_was_zero():
    nothing, something = [("a", np.zeros(2))], [("a", np.ones(2))]
    assert drift(nothing, nothing) == 0.0
    assert drift(nothing, something) == math.inf


def test_drift_refuses_experts_of_different_parameters():
    with pytest.raises(ValueError, match="'a' and 'b'"):
        drift([("a", np.ones(2))], [("b", np.ones(2))])
    with pytest.raises(ValueError, match="'a' and 'a'"):
        drift([("a", np.ones(2))], [("a", np.ones(3))])
    with pytest.raises(ValueError, match="shorter"):
        drift([("a", np.ones(2)), ("b", np.ones(2))], [("a", np.ones(2))])
