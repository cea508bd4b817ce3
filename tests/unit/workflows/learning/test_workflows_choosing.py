"""Which point between the start and the tuned expert is kept."""

import numpy as np
import pytest

from condu_cli.workflows.learning.choosing import Point, best_point, second_point

LABELS = np.arange(200) % 4


def point(alpha, knows, seed=0, sure=1.0):
    """Logits that point at the right class by `knows`, among noise that all points share."""
    noise = np.random.default_rng(seed).normal(size=(len(LABELS), 4))
    return Point.of(alpha, sure * (knows * np.eye(4)[LABELS] + noise), LABELS)


def test_tuning_that_is_clearly_better_is_kept():
    points = [point(0.0, 1.0), point(0.5, 2.0), point(1.0, 1.5)]
    assert best_point(points).alpha == 0.5


def test_tuning_that_is_worse_is_not():
    points = [point(0.0, 1.0), point(0.5, 0.8), point(1.0, 0.5)]
    assert best_point(points).alpha == 0.0


def test_a_gain_within_chance_does_not_count():
    start = point(0.0, 1.0)
    gains = np.where(LABELS < 2, 0.5, -0.475)  # 0.0125 in the mean, standard error 0.034
    points = [start, Point(0.5, start.right, start.losses - gains)]
    assert points[1].losses.mean() < points[0].losses.mean()
    assert best_point(points).alpha == 0.0


def test_being_surer_is_no_gain():
    points = [point(0.0, 1.0), point(1.0, 1.0, sure=8.0)]
    assert points[1].losses.mean() == pytest.approx(points[0].losses.mean(), abs=1e-3)
    assert best_point(points).alpha == 0.0


def test_a_gain_in_the_last_digits_is_none():
    start = point(0.0, 50.0)
    surely = Point(0.5, start.right, start.losses - 1e-9)
    assert best_point([start, surely]).alpha == 0.0
    assert best_point([start, Point(0.5, start.right, start.losses - 1e-3)]).alpha == 0.5


def test_equal_points_are_the_start():
    assert best_point([point(0.0, 1.0), point(1.0, 1.0)]).alpha == 0.0


def test_the_record_has_the_figures():
    record = Point(0.5, np.arange(4) < 3, np.full(4, 0.25)).to_record()
    assert record == {"alpha": 0.5, "accuracy": pytest.approx(0.75), "loss": 0.25}


def test_after_the_middle_the_end_is_tried_if_it_gained_and_else_a_quarter():
    assert second_point(point(0.0, 1.0), point(0.5, 2.0)) == 1.0
    assert second_point(point(0.0, 1.0), point(0.5, 0.5)) == 0.25


def test_an_expert_without_answers_is_never_kept():
    start = point(0.0, 0.0)
    assert best_point([start, Point.useless(0.5, len(LABELS))]).alpha == 0.0
    assert Point.useless(0.5, 3).accuracy == 0.0
