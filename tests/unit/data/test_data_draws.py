"""Draws from the training pictures: few shots, a limit, held-out pictures."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.draws import few_shot, hold_out, limit_pictures
from condu_cli.data.labelled import LabelledPictures, Sample
from condu_cli.errors import DataError, UsageError

SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=8)
SEEDS = st.integers(0, 1000)


def data_of(sizes) -> LabelledPictures:
    names = tuple(f"class{label}" for label in range(len(sizes)))
    train = tuple(
        Sample(Path(names[label], f"{index:02d}.png"), label)
        for label, size in enumerate(sizes)
        for index in range(size)
    )
    return LabelledPictures(names, names, train, (), "folders")


def counts(samples) -> Counter[int]:
    return Counter(sample.label for sample in samples)


# Few shots


@given(SIZES, st.integers(1, 40), SEEDS)
def test_shots_and_spare_pictures_together_are_all(sizes, shots, seed):
    data = data_of(sizes)
    drawn = few_shot(data, shots, seed)
    spare = [sample for label in drawn.spare for sample in drawn.spare[label]]
    assert counts(drawn.train) == {i: min(shots, size) for i, size in enumerate(sizes)}
    assert sorted((*drawn.train, *spare), key=str) == sorted(data.train, key=str)
    assert all(s.label == label for label in drawn.spare for s in drawn.spare[label])


@given(SIZES, SEEDS)
def test_more_shots_are_fewer_shots_and_the_first_spare_ones(sizes, seed):
    two, three = (few_shot(data_of(sizes), shots, seed) for shots in (2, 3))
    for label in range(len(sizes)):
        stepped_in = {s for s in two.train if s.label == label} | set(two.spare[label][:1])
        assert {s for s in three.train if s.label == label} == stepped_in


def test_the_draw_of_a_class_depends_neither_on_order_nor_on_other_classes():
    data = data_of([10, 10])
    turned = replace(data, train=data.train[::-1])
    assert set(few_shot(turned, 3, 5).train) == set(few_shot(data, 3, 5).train)
    more = data_of([10, 10, 10])
    assert set(few_shot(data, 3, 5).train) < set(few_shot(more, 3, 5).train)


def test_no_shots_are_refused():
    with pytest.raises(DataError, match="not 0"):
        few_shot(data_of([2, 2]), 0, 0)


# A limit


@given(SIZES, st.integers(0, 100), SEEDS)
def test_a_limit_is_filled_and_shared_as_evenly_as_sizes_allow(sizes, extra, seed):
    limit = len(sizes) + extra
    kept = counts(limit_pictures(data_of(sizes), limit, seed).train)
    assert sum(kept.values()) == min(limit, sum(sizes))
    most = max(kept.values())
    for label, size in enumerate(sizes):
        assert kept[label] >= 1
        assert kept[label] >= most - 1 or kept[label] == size


def test_what_a_limit_leaves_out_is_spare_after_few_shots_too():
    data = few_shot(data_of([5, 5]), 3, 0)
    limited = limit_pictures(data, 4, 0)
    assert [len(limited.spare[label]) for label in (0, 1)] == [3, 3]
    assert limited.spare[0][1:] == data.spare[0]


def test_a_limit_below_the_number_of_classes_is_refused():
    with pytest.raises(UsageError, match="limit must be at least the 3 classes, not 2") as caught:
        limit_pictures(data_of([5, 5, 5]), 2, 0)
    assert "--limit 3" in hint_of(caught.value)


# Held out


@given(SIZES, st.floats(0, 0.99), SEEDS)
def test_a_share_is_held_out_and_every_class_keeps_a_picture(sizes, share, seed):
    data = data_of(sizes)
    remaining, held = hold_out(data, share, seed)
    assert set(remaining.train) | set(held) == set(data.train)
    assert not set(remaining.train) & set(held)
    assert counts(remaining.train).keys() == counts(data.train).keys()
    wanted = max(round(share * sum(sizes)), 1) if share else 0
    assert len(held) == min(wanted, sum(sizes) - len(sizes))


def test_classes_give_in_proportion_to_their_size():
    _, held = hold_out(data_of([40, 20, 20]), 0.1, 0)
    assert counts(held) == {0: 4, 1: 2, 2: 2}


def test_a_number_of_pictures_may_be_held_out():
    _, held = hold_out(data_of([20, 20]), 6, 0)
    assert counts(held) == {0: 3, 1: 3}


def test_one_picture_per_class_is_kept_for_training():
    data = data_of([1, 1, 1])
    assert hold_out(data, 0.5, 0) == (data, ())


def test_what_is_held_out_belongs_to_the_seed():
    data = data_of([20, 20])
    assert hold_out(data, 0.2, 1) == hold_out(data, 0.2, 1)
    assert len({hold_out(data, 0.2, seed)[1] for seed in range(5)}) > 1


def test_a_negative_share_is_refused():
    with pytest.raises(UsageError, match="cannot be held out"):
        hold_out(data_of([2, 2]), -0.1, 0)
