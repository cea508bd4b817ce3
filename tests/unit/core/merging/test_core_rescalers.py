"""Groups of parameters that share a rescaler, and what a rescaler preserves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import one_in
from strategies import (
    DTYPES,
    GRANULARITIES,
    HERE,
    assert_same_results,
    experts,
    flat_mask,
    group_norms,
    layouts,
    learn,
    learn_all,
    named,
    problems,
    rescalers,
    usual,
)

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.rescalers import RESCALER_RANGE, RescalerGroups, rescaler_of
from condu_cli.core.merging.unify import reunify, unify
from condu_cli.core.passes.streaming import Execution

LAYOUT = ParameterLayout(("a", "b", "none", "c", "cube"), ((5, 13), (), (0, 4), (64,), (3, 2, 4)))
COUNTS = {"global": 1, "tensor": 5, "row": 5 + 1 + 0 + 1 + 3}

each_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


# Groups


@each_granularity
def test_a_trigger_has_one_rescaler_for_each_group(granularity):
    groups = RescalerGroups(LAYOUT, granularity)
    assert groups.count == COUNTS[granularity]
    method = Method(LAYOUT, granularity)
    state = learn_all(method, [usual(seed, LAYOUT.count) for seed in range(3)])
    for trigger in state.triggers:
        assert trigger.rescaler.dtype == np.float32
        assert trigger.rescaler.shape == (COUNTS[granularity],)


def test_groups_follow_the_order_of_the_layout():
    assert [RescalerGroups(LAYOUT, "global").of_tensor(t) for t in range(5)] == [slice(0, 1)] * 5
    assert [RescalerGroups(LAYOUT, "tensor").of_tensor(t) for t in range(5)] == [
        slice(t, t + 1) for t in range(5)
    ]
    assert [RescalerGroups(LAYOUT, "row").of_tensor(t) for t in range(5)] == [
        slice(0, 5),
        slice(5, 6),
        slice(6, 6),
        slice(6, 7),
        slice(7, 10),
    ]


def test_a_granularity_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="not 'column'"):
        RescalerGroups(LAYOUT, "column")


@each_granularity
@given(layout=layouts, block_size=st.sampled_from([64, 128, 4096]))
def test_every_segment_of_a_chunk_finds_its_own_group(granularity, layout, block_size):
    method = Method(layout, granularity)
    groups = method.groups
    stacked = groups.stack([np.arange(groups.count, dtype=np.float32)] * 2)
    assert stacked.shape == (2, groups.count)
    for chunk in method.segmentation().chunks(block_size):
        found = groups.of_chunk(stacked, chunk)
        assert found.shape == (2, chunk.segments)
        assert found.flags.c_contiguous
        first = groups.of_tensor(chunk.tensor).start
        step = 1 if granularity == "row" else 0
        wanted = [first + step * (chunk.first + s) for s in range(chunk.segments)]
        assert found.tolist() == [wanted, wanted]
        at = groups.at(chunk)
        assert (at.start, at.stop) == (wanted[0], wanted[-1] + 1)


@each_granularity
def test_no_triggers_stack_to_nothing(granularity):
    groups = RescalerGroups(LAYOUT, granularity)
    assert groups.stack([]).shape == (0, groups.count)


@each_granularity
def test_rescalers_of_a_tensor_are_columns(granularity):
    groups = RescalerGroups(LAYOUT, granularity)
    rescaler = np.arange(groups.count, dtype=np.float32)
    shapes = [groups.of_rows(rescaler, tensor).shape for tensor in range(5)]
    rows = [5, 1, 0, 1, 3] if granularity == "row" else [1] * 5
    assert shapes == [(n, 1) for n in rows]


# One rescaler


def test_a_rescaler_is_the_ratio_of_two_norms():
    found = rescaler_of(np.array([[3.0, 1.0], [0.5, 7.0]]), np.array([[2.0, 3.0], [0.5, 1.0]]))
    assert found.dtype == np.float64
    assert found.tolist() == [[1.5, float(np.float32(1 / 3))], [1.0, 7.0]]


@pytest.mark.parametrize(("norm", "covered"), [(0, 0), (0, 2), (2, 0)])
def test_a_rescaler_is_one_where_a_norm_is_zero(norm, covered):
    assert rescaler_of(np.array([float(norm)]), np.array([float(covered)])).tolist() == [1.0]


def test_rescalers_stay_in_their_range():
    tiny, huge = 2.0**-149, 1e30
    low, high = RESCALER_RANGE
    assert rescaler_of(np.array([tiny, huge]), np.array([huge, tiny])).tolist() == [low, high]
    assert rescaler_of(np.array([1e300]), np.array([1e-300])).tolist() == [high]
    assert all(np.float32(bound) == bound for bound in RESCALER_RANGE)


# What rescalers preserve


@each_dtype
@each_granularity
@one_in(3)
@given(seed=st.integers(0, 2**32 - 1), tasks=st.integers(2, 5))
def test_the_norm_of_every_group_is_what_it_was_before(granularity, dtype, seed, tasks):
    layout = ParameterLayout(("a", "b", "c"), ((20, 100), (90,), (3, 5, 30)))
    method = Method(layout, granularity, dtype)
    deltas = [usual(seed + task, layout.count) for task in range(tasks)]
    before = learn_all(method, deltas[:-1])
    after = learn(method, before, deltas[-1])
    for state in (after, reunify(method, after.unified, after.triggers, HERE)):
        earlier = (
            [*experts(method, before), deltas[-1]] if state is after else experts(method, after)
        )
        for was, now in zip(earlier, experts(method, state), strict=True):
            wanted = group_norms(method, was)
            assert group_norms(method, now) == pytest.approx(wanted, rel=1e-5)


@each_granularity
@given(
    problem=problems(max_tasks=3, elements=lambda n: st.integers(0, 99).map(lambda s: usual(s, n)))
)
def test_a_group_keeps_its_norm_or_its_owner_has_lost_all_of_it(granularity, problem):
    layout, deltas = problem
    method = Method(layout, granularity)
    before = learn_all(method, deltas)
    last = usual(101, layout.count)
    after = learn(method, before, last)
    earlier = [*experts(method, before), last]
    for position, (was, now) in enumerate(zip(earlier, experts(method, after), strict=True)):
        mask = flat_mask(layout, after.triggers[position].mask)
        wanted, found = group_norms(method, was), group_norms(method, now)
        owned = group_norms(method, mask.astype(np.float32)) > 0
        assert found[owned] == pytest.approx(wanted[owned], rel=1e-5)
        assert not found[~owned].any()
        assert (after.triggers[position].rescaler[~owned] == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(200,), (1, 200), (), (1, 10, 20)])
def test_one_tensor_of_one_row_has_the_same_rescaler_at_every_granularity(shape, dtype):
    layout = ParameterLayout(("w",), (shape,))
    results = [
        learn_all(Method(layout, granularity, dtype), [usual(s, layout.count) for s in range(4)])
        for granularity in GRANULARITIES
    ]
    assert_same_results(results[0], results[1])
    assert_same_results(results[0], results[2])


def test_a_long_row_is_summed_alone_and_a_long_tensor_in_runs():
    # Norms are summed segment by segment: with several segments they agree only approximately.
    layout = ParameterLayout(("w",), ((9000,),))
    one, other = (
        learn_all(Method(layout, granularity), [usual(s, 9000) for s in range(3)])
        for granularity in ("tensor", "row")
    )
    assert np.array_equal(one.unified["w"], other.unified["w"])
    for first, second in zip(rescalers(one), rescalers(other), strict=True):
        assert first == pytest.approx(second, rel=1e-6)


@each_dtype
@pytest.mark.parametrize("kernels", ["vectorised", None])
def test_a_row_whose_owner_lost_everything_has_rescaler_one(dtype, kernels):
    layout = ParameterLayout(("w", "b"), ((3, 70), (4,)))
    method = Method(layout, "row", dtype)
    first, second = np.full(layout.count, 1, np.float32), np.full(layout.count, 0.5, np.float32)
    second[70:140] = -5  # the second task wins the second row
    second[210:] = 0
    state = learn_all(method, [first, second], Execution(64, kernels=kernels))
    lost, kept = state.triggers
    assert lost.rescaler.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert kept.rescaler.tolist() == [0.5, 1.0, 0.5, 1.0]
    assert not flat_mask(layout, lost.mask)[70:140].any()
    assert not experts(method, state)[0][70:140].any()
    # Only that row's norm is zero.
    assert state.norms[0] == pytest.approx(144, rel=1e-6)


def test_finer_rescalers_share_masks_and_the_unified_delta_of_one_session():
    state = learn_all(Method(LAYOUT), [usual(1, LAYOUT.count)])
    delta = named(LAYOUT, usual(2, LAYOUT.count))
    results = []
    for granularity in GRANULARITIES:
        method = Method(LAYOUT, granularity)
        trigger = learn_all(method, [usual(1, LAYOUT.count)]).triggers
        results.append(unify(method, state.unified, trigger, delta))
    for result in results[1:]:
        assert all(np.array_equal(result.unified[n], a) for n, a in results[0].unified.items())
        for one, other in zip(result.triggers, results[0].triggers, strict=True):
            assert np.array_equal(one.mask, other.mask)


@each_granularity
def test_one_factor_for_all_groups_is_the_global_one(granularity):
    # Two tasks that differ by a factor: every group has the same ratio.
    delta = usual(5, LAYOUT.count)
    method = Method(LAYOUT, granularity)
    state = learn_all(method, [delta, delta * np.float32(4)])
    empty = {"global": [], "tensor": [2], "row": []}[granularity]
    found = [r for group, r in enumerate(rescalers(state)[0]) if group not in empty]
    assert set(found) == {0.25}
    assert set(rescalers(state)[1]) == {1.0}
    assert all(rescalers(state)[0][group] == 1.0 for group in empty)
