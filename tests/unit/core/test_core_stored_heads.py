"""The arrays of a head beside an expert are checked wherever they are read."""

import numpy as np
import pytest

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.stored_heads import check_head

HEAD = {"weights": np.ones((3, 5), np.float32), "bias": np.zeros(3, np.float32)}


def test_a_valid_head_is_returned_array_by_array() -> None:
    found = check_head(HEAD, 3)
    assert list(found) == ["weights", "bias"]
    assert all(found[name] is HEAD[name] for name in found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"bias": None}, "'bias' is missing"),
        ({"weights": None}, "'weights' is missing"),
        ({"scale": np.ones(3, np.float32)}, "'scale' does not belong to a head"),
        ({"weights": np.ones((4, 5), np.float32)}, "'weights' is float32 .*3 rows"),
        ({"weights": np.ones((3, 5))}, "'weights' is float64"),
        ({"weights": np.ones(3, np.float32)}, "'weights' .*2 dimensions"),
        ({"weights": np.float32(1)}, "'weights' .*2 dimensions"),
        ({"weights": np.full((3, 5), np.nan, np.float32)}, "'weights' holds NaN"),
        ({"bias": np.zeros((3, 1), np.float32)}, "'bias' .*1 dimensions"),
        ({"bias": np.zeros(2, np.float32)}, "'bias' .*3 rows"),
        ({"bias": np.array([0, np.inf, 0], np.float32)}, "'bias' holds NaN or infinity"),
    ],
)
def test_each_fault_names_the_array(change: dict[str, np.ndarray | None], fault: str) -> None:
    arrays = {name: array for name, array in {**HEAD, **change}.items() if array is not None}
    with pytest.raises(InvalidStateError, match=fault):
        check_head(arrays, 3)
