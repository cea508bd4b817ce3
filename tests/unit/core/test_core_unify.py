"""Unify: the streaming pass is the definition, and keeps its promises."""

import math
from itertools import pairwise

import dense_reference as dense
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import (
    flat,
    flat_deltas,
    flat_mask,
    huge_deltas,
    learn_all,
    named,
    problems,
    rescalers,
    usual,
)

from condu_cli.core.decouple import decouple, drift
from condu_cli.core.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.unify import Trigger, check_trigger, reunify, unify

LINE = ParameterLayout(("w",), ((4,),))


def vector(*values):
    return np.array(values, dtype=np.float32)


def experts(layout, state):
    return [flat(layout, dict(decouple(layout, state.unified, t))) for t in state.triggers]


def same_bits(first, second):
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def assert_same(layout, state, reference):
    assert same_bits(flat(layout, state.unified), reference.unified)
    for trigger, mask in zip(state.triggers, reference.masks, strict=True):
        assert np.array_equal(flat_mask(layout, trigger.mask), mask)
        check_trigger(layout, trigger)
    assert rescalers(state) == pytest.approx(reference.rescalers, rel=1e-6, abs=0)


def as_dense(layout, state):
    masks = [flat_mask(layout, trigger.mask) for trigger in state.triggers]
    return dense.DenseState(flat(layout, state.unified), masks, rescalers(state))


def farthest_drift(layout, before, after):
    return max(
        drift(decouple(layout, before.unified, a), decouple(layout, after.unified, b))
        for a, b in zip(before.triggers, after.triggers, strict=True)
    )


def sums_are_exact(state):
    """Beyond this the election is decided by a sum that float64 has rounded."""
    return max(rescalers(state)) < 2**25 * min(rescalers(state))


# The streaming pass is the definition


@settings(max_examples=200, deadline=None)
@given(problems())
def test_every_session_equals_the_dense_definition(problem):
    layout, deltas = problem
    state = unify(layout, None, [], named(layout, deltas[0]))
    assert_same(layout, state, dense.learn(None, deltas[0]))
    for delta in deltas[1:]:
        assume(sums_are_exact(state))
        reference = dense.learn(as_dense(layout, state), delta)
        state = unify(layout, state.unified, state.triggers, named(layout, delta))
        assert_same(layout, state, reference)


@settings(max_examples=50, deadline=None)
@given(problems())
def test_unifying_again_equals_the_dense_definition(problem):
    layout, deltas = problem
    state = learn_all(layout, deltas)
    assume(sums_are_exact(state))
    again = reunify(layout, state.unified, state.triggers)
    assert_same(layout, again, dense.again(as_dense(layout, state)))


def test_more_than_eight_and_more_than_sixteen_tasks_equal_the_dense_definition():
    layout = ParameterLayout(("a", "b"), ((70,), (5, 3)))
    state = reference = None
    for task in range(18):
        delta = usual(task, layout.count)
        reference = dense.learn(state and as_dense(layout, state), delta)
        triggers = state.triggers if state else []
        state = unify(layout, state and state.unified, triggers, named(layout, delta))
        assert_same(layout, state, reference)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from([64, 128, 192, 4096]))
def test_the_block_size_leaves_no_trace(problem, block_size):
    layout, deltas = problem
    one, other = learn_all(layout, deltas), learn_all(layout, deltas, block_size=block_size)
    assert same_bits(flat(layout, one.unified), flat(layout, other.unified))
    assert [t.mask.tobytes() for t in one.triggers] == [t.mask.tobytes() for t in other.triggers]
    assert rescalers(one) == rescalers(other)
    assert one.norms == other.norms


# The election, by hand


def test_the_side_with_the_larger_sum_wins_and_gives_its_largest_value():
    first = unify(LINE, None, [], {"w": vector(3, -1, 2, -5)})
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-1, -4, 5, 1)})
    assert state.unified["w"].tolist() == [3, -4, 5, -5]
    masks = [flat_mask(LINE, trigger.mask).tolist() for trigger in state.triggers]
    assert masks == [[True, True, True, True], [False, True, True, False]]
    assert rescalers(state) == [float(np.float32(11 / 17)), float(np.float32(11 / 9))]


def test_a_tie_elects_the_negative_side():
    first = unify(LINE, None, [], {"w": vector(1, -1, 2, 0)})
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-1, 1, -2, 0)})
    assert state.unified["w"].tolist() == [-1, -1, -2, 0]


def test_a_near_tie_is_decided_by_the_exact_sum():
    # The old side adds up to 1 + 2**-69, which float64 rounds to 1, a tie.
    layout = ParameterLayout(("w",), ((1,),))
    mask = np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=np.uint8)
    triggers = [Trigger(mask, np.array([1 - 2.0**-23])), Trigger(mask, np.array([2.0**-46]))]
    for sign in (1, -1):
        old, new = vector(sign * (1 + 2.0**-23)), vector(-sign)
        state = unify(layout, {"w": old}, triggers, {"w": new})
        assert state.unified["w"].tolist() == [sign]


def test_no_result_is_a_negative_zero():
    state = unify(LINE, None, [], {"w": vector(-0.0, 0.0, -1, 1)})
    state = unify(LINE, state.unified, state.triggers, {"w": vector(-0.0, -0.0, 0, -0.0)})
    assert not np.signbit(state.unified["w"][state.unified["w"] == 0]).any()


def test_an_element_that_underflows_is_zero_and_loses_its_bit():
    tiny = 2.0**-149
    trigger = Trigger(np.array([3] + [0] * 7, dtype=np.uint8), np.array([0.25]))
    state = reunify(LINE, {"w": vector(tiny, 1, 0, 0)}, [trigger])
    assert state.unified["w"].tolist() == [0, 0.25, 0, 0]
    assert flat_mask(LINE, state.triggers[0].mask).tolist() == [False, True, False, False]


def test_an_all_zero_delta_has_an_empty_mask_and_rescaler_one():
    state = unify(LINE, None, [], {"w": vector(0, -0.0, 0, 0)})
    assert not state.triggers[0].mask.any()
    assert rescalers(state) == [1.0]
    assert state.norms == [0.0]


def test_an_expert_that_loses_everywhere_has_an_empty_mask_and_rescaler_one():
    first = unify(LINE, None, [], {"w": vector(1, 1, 0, 0)})
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-5, -5, 0, 0)})
    assert not state.triggers[0].mask.any()
    assert rescalers(state) == [1.0, 1.0]


def test_an_extreme_ratio_keeps_every_expert_finite():
    first = unify(LINE, None, [], {"w": vector(1e20, 1e-45, 0, 0)})
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-1e20, 0, 0, 0)})
    assert rescalers(state)[0] == 2.0**100
    assert all(np.isfinite(expert).all() for expert in experts(LINE, state))


# What unify promises


@settings(max_examples=60, deadline=None)
@given(problems(max_tasks=1))
def test_the_first_task_is_kept_exactly(problem):
    layout, (delta,) = problem
    state = learn_all(layout, [delta])
    assert rescalers(state) == [1.0]
    assert np.array_equal(experts(layout, state)[0], delta)
    assert np.array_equal(flat(layout, state.unified), delta)
    assert np.array_equal(flat_mask(layout, state.triggers[0].mask), delta != 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_the_norm_of_every_expert_is_preserved(seed, tasks):
    layout = ParameterLayout(("a", "b"), ((50, 4), (9,)))
    deltas = [usual(seed + task, layout.count) for task in range(tasks)]
    state = learn_all(layout, deltas)
    wanted = [float(np.abs(delta).sum(dtype=np.float64)) for delta in deltas]
    found = [float(np.abs(e).sum(dtype=np.float64)) for e in experts(layout, state)]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert state.norms == pytest.approx(found, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_an_expert_never_changes_sign_and_a_zero_stays_zero(problem):
    layout, deltas = problem
    *before, last = deltas
    assume(before)
    old = learn_all(layout, before)
    state = unify(layout, old.unified, old.triggers, named(layout, last))
    earlier = [*experts(layout, old), last]
    for was, now in zip(earlier, experts(layout, state), strict=True):
        assert np.all((np.sign(now) == np.sign(was)) | (now == 0))


@settings(max_examples=40, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_old_experts_does_not_matter(problem, random):
    layout, deltas = problem
    old = learn_all(layout, deltas)
    assume(sums_are_exact(old))
    order = random.sample(range(len(deltas)), len(deltas))
    new = named(layout, usual(7, layout.count))
    one = unify(layout, old.unified, old.triggers, new)
    other = unify(layout, old.unified, [old.triggers[i] for i in order], new)
    assert same_bits(flat(layout, one.unified), flat(layout, other.unified))
    assert [rescalers(one)[i] for i in order] == rescalers(other)[:-1]
    assert rescalers(one)[-1] == rescalers(other)[-1]
    for position, i in enumerate(order):
        assert same_bits(one.triggers[i].mask, other.triggers[position].mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90).flatmap(lambda size: st.tuples(flat_deltas(size), flat_deltas(size))))
def test_two_tasks_learned_in_either_order_give_the_same_unified_delta(pair):
    layout = ParameterLayout(("w",), (pair[0].shape,))
    one, other = learn_all(layout, pair), learn_all(layout, pair[::-1])
    assert same_bits(flat(layout, one.unified), flat(layout, other.unified))
    assert rescalers(one) == rescalers(other)[::-1]


@pytest.mark.parametrize("seed", range(4))
def test_unifying_again_and_again_converges(seed):
    layout = ParameterLayout(("w",), ((300,),))
    state = learn_all(layout, [usual(10 * seed + task, 300) for task in range(4)])
    steps = []
    for _ in range(200):
        again = reunify(layout, state.unified, state.triggers)
        steps.append(farthest_drift(layout, state, again))
        state = again
    assert all(later <= earlier * 1.01 + 1e-6 for earlier, later in pairwise(steps))
    assert steps[-1] < steps[0] / 100


@settings(max_examples=40, deadline=None)
@given(problems(elements=huge_deltas))
def test_no_expert_ever_overflows(problem):
    layout, deltas = problem
    state = learn_all(layout, deltas)
    for _ in range(3):
        state = reunify(layout, state.unified, state.triggers)
        assert all(np.isfinite(expert).all() for expert in experts(layout, state))


def test_unifying_again_clears_what_nobody_owns_any_more():
    first = unify(LINE, None, [], {"w": vector(1, 2, 0, 0)})
    both = unify(LINE, first.unified, first.triggers, {"w": vector(0, 3, 4, 0)})
    alone = reunify(LINE, both.unified, both.triggers[:1])
    assert alone.unified["w"][2] == 0
    assert alone.norms == pytest.approx([3.0], rel=1e-6)


def test_the_inputs_are_left_as_they_are():
    old = unify(LINE, None, [], {"w": vector(1, -2, 3, 0)})
    new = {"w": vector(-3, 1, 1, 1)}
    frozen = [old.unified["w"], new["w"], old.triggers[0].mask, old.triggers[0].rescaler]
    for array in frozen:
        array.flags.writeable = False
    unify(LINE, old.unified, old.triggers, new)


def test_transposed_and_read_only_tensors_are_read_in_row_order():
    layout = ParameterLayout(("w",), ((2, 3),))
    values = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert unify(layout, None, [], {"w": values}).unified["w"].tolist() == values.tolist()


class LazyTensors(dict):
    """Counts how often each tensor is loaded."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads = dict.fromkeys(self, 0)

    def __getitem__(self, name):
        self.reads[name] += 1
        return super().__getitem__(name)


def test_each_tensor_is_loaded_once():
    layout = ParameterLayout(("a", "b"), ((200,), (3,)))
    old = learn_all(layout, [usual(1, 203)])
    unified, delta = LazyTensors(old.unified), LazyTensors(named(layout, usual(2, 203)))
    unify(layout, unified, old.triggers, delta, block_size=64)
    assert set(unified.reads.values()) == set(delta.reads.values()) == {1}


# What unify refuses


@pytest.mark.parametrize(
    ("delta", "parameter", "reason"),
    [
        ({}, "w", "missing"),
        ({"w": vector(1, 2, 3, 4), "v": vector(1)}, "v", "not a trainable parameter"),
        ({"w": vector(1, 2, 3)}, "w", "shape"),
        ({"w": np.zeros(4)}, "w", "dtype float64"),
        ({"w": vector(1, math.nan, 3, 4)}, "w", "NaN"),
        ({"w": vector(1, 2, 3, -math.inf)}, "w", "infinity"),
        ({"w": vector(1, 2, 3, 2e20)}, "w", "beyond"),
    ],
)
def test_a_bad_delta_is_refused_by_name(delta, parameter, reason):
    with pytest.raises(InvalidDeltaError, match=reason) as caught:
        unify(LINE, None, [], delta)
    assert caught.value.parameter == parameter
    assert parameter in str(caught.value)


GOOD = Trigger(np.array([15] + [0] * 7, dtype=np.uint8), np.array([1.0]))


@pytest.mark.parametrize(
    ("unified", "trigger", "tensor"),
    [
        (None, GOOD, "w"),
        ({}, GOOD, "w"),
        ({"w": vector(1, 2, 3)}, GOOD, "w"),
        ({"w": np.zeros(4)}, GOOD, "w"),
        ({"w": vector(1, 2, math.nan, 0)}, GOOD, "w"),
        ({"w": vector(1, 2, 3, 4), "v": vector(1)}, GOOD, "v"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask[:4], GOOD.rescaler), "tasks[0].mask"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask | 16, GOOD.rescaler), "tasks[0].mask"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask, np.array([-1.0])), "tasks[0].rescaler"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask, np.array([math.nan])), "tasks[0].rescaler"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask, np.array([0.1])), "tasks[0].rescaler"),
        ({"w": vector(1, 2, 3, 4)}, Trigger(GOOD.mask, np.array([1, 1.0])), "tasks[0].rescaler"),
    ],
)
def test_a_broken_state_is_refused_by_name(unified, trigger, tensor):
    with pytest.raises(InvalidStateError) as caught:
        unify(LINE, unified, [trigger], {"w": vector(1, 1, 1, 1)})
    assert caught.value.tensor == tensor


@pytest.mark.parametrize("block_size", [0, -64, 1, 100])
def test_a_block_size_is_a_multiple_of_64(block_size):
    with pytest.raises(ValueError, match="multiple of 64"):
        unify(LINE, None, [], {"w": vector(1, 2, 3, 4)}, block_size=block_size)
