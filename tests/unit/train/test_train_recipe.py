"""The recipe and its learning rate schedule."""

import json

import pytest

from condu_cli.train.recipe import Recipe, learning_rate_at


def recipe(iterations=100, warmup=10, peak=2.0) -> Recipe:
    return Recipe(iterations, peak, image_size=32, warmup_iterations=warmup)


def test_warm_up_rises_linearly_to_the_peak():
    rates = [learning_rate_at(recipe(), i) for i in range(10)]
    assert rates == pytest.approx([0.2 * (i + 1) for i in range(10)])


def test_after_the_warm_up_comes_the_peak_and_then_half_a_cosine():
    assert learning_rate_at(recipe(), 10) == pytest.approx(2.0)
    assert learning_rate_at(recipe(), 55) == pytest.approx(1.0)
    assert learning_rate_at(recipe(), 100) == pytest.approx(0.0, abs=1e-12)


def test_the_decay_never_rises():
    rates = [learning_rate_at(recipe(), i) for i in range(10, 100)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01


def test_without_warm_up_the_first_rate_is_the_peak():
    assert learning_rate_at(recipe(warmup=0), 0) == 2.0


@pytest.mark.parametrize(("iterations", "warmup"), [(1, 0), (1, 1), (5, 5), (3, 10)])
def test_short_runs_have_rates_between_zero_and_the_peak(iterations, warmup):
    rates = [learning_rate_at(recipe(iterations, warmup), i) for i in range(iterations)]
    assert all(0 < rate <= 2.0 for rate in rates)


def test_the_defaults_are_those_of_the_papers_code():
    default = Recipe(1000, 1e-5, 224)
    assert (default.weight_decay, default.beta2, default.label_smoothing) == (0.0, 0.999, 0.2)


def test_a_recipe_is_written_as_plain_json():
    record = recipe().as_record()
    assert json.loads(json.dumps(record)) == record
    assert Recipe(**record) == recipe()
