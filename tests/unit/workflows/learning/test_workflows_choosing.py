"""Which point between the start and the tuned expert is kept."""

import numpy as np
import pytest

from condu_cli.workflows.learning.choosing import Point, best_point


def point(alpha, right, of=200, loss=1.0):
    return Point(alpha, np.arange(of) < right, np.full(of, loss))


def test_tuning_that_is_clearly_better_is_kept():
    points = [point(0.0, 150), point(0.5, 180), point(1.0, 176)]
    assert best_point(points).alpha == 0.5


def test_tuning_that_is_worse_is_not():
    points = [point(0.0, 150), point(0.5, 140), point(1.0, 120)]
    assert best_point(points).alpha == 0.0


def test_of_equals_the_smaller_loss_is_kept():
    points = [point(0.0, 150), point(0.5, 180, loss=0.9), point(1.0, 180, loss=0.8)]
    assert best_point(points).alpha == 1.0


def test_one_picture_more_is_chance():
    points = [point(0.0, 150), point(0.5, 151)]
    assert best_point(points).alpha == 0.0


def test_the_record_has_the_figures():
    record = point(0.5, 150, loss=0.25).to_record()
    assert record == {"alpha": 0.5, "accuracy": pytest.approx(0.75), "loss": 0.25}
