"""Which pictures an iteration trains on depends only on the seed and its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.train.sampling import Sampler

SIZES = st.integers(1, 40)


@given(SIZES, SIZES, st.integers(0, 2**64 - 1))
def test_every_epoch_covers_every_picture_once(count, size, seed):
    sampler = Sampler(count, size, seed)
    order: list[int] = []
    iteration = 0
    while len(order) < 3 * count:
        order += sampler.batch(iteration).indices
        iteration += 1
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(SIZES, SIZES)
def test_all_batches_have_the_same_size_no_larger_than_the_set(count, size):
    sampler = Sampler(count, size, 0)
    assert {len(sampler.batch(i).indices) for i in range(5)} == {min(count, size)}


def test_epochs_are_shuffled_differently():
    sampler = Sampler(50, 50, 0)
    assert sampler.batch(0).indices != sampler.batch(1).indices


def test_order_and_crops_belong_to_the_seed():
    assert Sampler(50, 20, 1).batch(0) == Sampler(50, 20, 1).batch(0)
    assert Sampler(50, 20, 1).batch(0).indices != Sampler(50, 20, 2).batch(0).indices
    assert Sampler(50, 20, 1).batch(0).seeds != Sampler(50, 20, 2).batch(0).seeds


def test_a_picture_is_cropped_differently_every_time():
    sampler = Sampler(4, 4, 0)
    seeds = [seed for iteration in range(10) for seed in sampler.batch(iteration).seeds]
    assert len(set(seeds)) == 40
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_numbers_are_the_same_on_every_machine_and_in_every_version():
    # A run must resume with these on another machine, or after an upgrade.
    assert Sampler(10, 4, 0).batch(0).indices == [0, 2, 9, 1]
    assert Sampler(10, 4, 0).batch(0).seeds[0] == 3156079128285547363


@given(SIZES, SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_the_parts_of_all_processes_make_up_the_batch(count, size, parts, ranks, start):
    sampler = Sampler(count, size, 3)
    shares = [list(sampler.parts(start, start + 3, parts, rank, ranks)) for rank in range(ranks)]
    assert all(len(share) == 3 * parts for share in shares)
    for offset in range(3):
        whole = sampler.batch(start + offset)
        draws = [d for share in shares for d in share[offset * parts : (offset + 1) * parts]]
        pairs = [pair for draw in draws for pair in zip(draw.indices, draw.seeds, strict=True)]
        assert sorted(pairs) == sorted(zip(whole.indices, whole.seeds, strict=True))


@pytest.mark.parametrize("start", [0, 1, 7])
def test_where_a_run_starts_changes_nothing_of_what_follows(start):
    sampler = Sampler(10, 4, 0)
    from_the_beginning = list(sampler.parts(0, 12, 2))
    assert list(Sampler(10, 4, 0).parts(start, 12, 2)) == from_the_beginning[2 * start :]
