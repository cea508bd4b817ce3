"""Figures of merit."""

import numpy as np
import pytest

from condu_cli.core.metrics import accuracy, is_better, sequence_metrics, softmax


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    with pytest.raises(ValueError, match="no images"):
        accuracy(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="predictions for"):
        accuracy(np.array([1]), np.array([1, 2]))


def test_transfer_average_and_last_of_three_tasks():
    figures = sequence_metrics(np.array([[90, 40, 30], [80, 70, 20], [85, 75, 60]]))
    assert np.isnan(figures.transfer[0])
    assert figures.transfer[1:].tolist() == [40, 25]  # before learning tasks 2 and 3
    assert figures.average == pytest.approx([85, 185 / 3, 110 / 3])
    assert figures.last.tolist() == [85, 75, 60]
    assert figures.mean_transfer == 32.5
    assert figures.mean_average == pytest.approx((85 + 185 / 3 + 110 / 3) / 3)
    assert figures.mean_last == pytest.approx(220 / 3)


def test_one_task_has_no_transfer():
    figures = sequence_metrics(np.array([[0.5]]))
    assert figures.mean_transfer is None
    assert (figures.mean_average, figures.mean_last) == (0.5, 0.5)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((0, 0)), np.full((1, 1), np.nan)])
def test_a_matrix_that_is_not_one_is_refused(matrix):
    with pytest.raises(ValueError, match="accuracies"):
        sequence_metrics(matrix)


def test_softmax_is_stable_and_sums_to_one():
    found = softmax(np.array([[1e4, 1e4, -np.inf], [0.0, np.log(3.0), -1e4]]))
    assert found.tolist() == [[0.5, 0.5, 0.0], pytest.approx([0.25, 0.75, 0.0])]
    assert softmax(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match="NaN or infinity"):
        softmax(np.array([1.0, np.nan]))


def test_a_win_is_more_than_chance_only_beyond_a_standard_error():
    base = np.zeros(100, dtype=bool)

    def wins(count):
        return np.arange(100) < count

    assert not is_better(base, base)
    assert not is_better(wins(1), base)
    assert is_better(wins(3), base)
    assert not is_better(base, wins(3))
    mixed = np.arange(100) >= 96  # 4 losses against it
    assert not is_better(wins(6), mixed)
    assert is_better(wins(9), mixed)
