"""Unify: the streaming pass matches the definition and keeps its promises."""

import math
from fractions import Fraction
from itertools import pairwise

import dense_reference as dense
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis_profiles import one_in
from strategies import (
    DTYPES,
    GRANULARITIES,
    HERE,
    KERNELS,
    LazyTensors,
    assert_same_results,
    experts,
    flat,
    flat_deltas,
    flat_mask,
    huge_deltas,
    learn,
    learn_all,
    named,
    packed_mask,
    problems,
    rescalers,
    same_bits,
    stored_values,
    trimmed,
    usual,
    usual_deltas,
    vector,
)

from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.stored_masks import SparseMask, decode_mask, encode_mask
from condu_cli.core.merging.decouple import moved
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.unify import reunify, unify
from condu_cli.core.passes.streaming import Execution

LINE_LAYOUT = ParameterLayout(("w",), ((4,),))
LINE = Method(LINE_LAYOUT)

each_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
each_kernel = pytest.mark.parametrize("kernels", KERNELS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def assert_same(method, state, reference):
    layout = method.layout
    assert same_bits(flat(layout, state.unified), reference.unified)
    for trigger, mask in zip(state.triggers, reference.masks, strict=True):
        assert np.array_equal(flat_mask(layout, trigger.mask), mask)
        check_trigger(method, trigger)
    for found, wanted in zip(rescalers(state), reference.rescalers, strict=True):
        assert found == pytest.approx(wanted, rel=1e-6, abs=0)


def as_dense(method, state):
    masks = [flat_mask(method.layout, trigger.mask) for trigger in state.triggers]
    return dense.DenseState(flat(method.layout, state.unified), masks, rescalers(state))


def dense_groups(method):
    return dense.groups_of(method.layout.shapes, method.rescaler)


def sums_are_exact(state):
    """Beyond this, float64 rounding of a sum of rescalers decides the election."""
    found = np.array(rescalers(state))
    return bool((len(found) * found.max(axis=0) <= 2.0**29 * found.min(axis=0)).all())


def assert_sessions_are_dense(method, deltas, block_size=None, skipped=()):
    """Compare every session of all kernels with the definition; return how many were comparable."""
    ways = [Execution(block_size, 1, kernels) for kernels in KERNELS]
    groups = dense_groups(method)
    state = None
    for session, delta in enumerate(deltas):
        if state and not sums_are_exact(state):
            return session
        if session in skipped:
            state = learn(method, state, delta)
            continue
        reference = dense.learn(state and as_dense(method, state), delta, groups)
        found = [learn(method, state, delta, way) for way in ways]
        for result in found:
            assert_same(method, result, reference)
        state = found[0]
    return len(deltas)


# The streaming pass matches the definition

each_share = pytest.mark.parametrize("share", [Fraction(1, 4), Fraction(1, 2), Fraction(9, 10)])


@each_share
@each_granularity
@one_in(3)
@given(problem=problems())
def test_every_session_with_trimmed_deltas_equals_the_dense_definition(granularity, share, problem):
    layout, deltas = problem
    method, state = Method(layout, granularity, trim=share), None
    for delta in deltas:
        if state and not sums_are_exact(state):
            return
        wanted = dense.learn(
            state and as_dense(method, state), trimmed(layout, delta, share), dense_groups(method)
        )
        for kernels in KERNELS:
            found = learn(method, state, delta, Execution(None, 1, kernels))
            assert_same(method, found, wanted)
        state = found


@each_granularity
@given(problem=problems())
def test_every_session_equals_the_dense_definition(granularity, problem):
    layout, deltas = problem
    assert_sessions_are_dense(Method(layout, granularity), deltas)


@each_granularity
@given(problem=problems())
def test_unifying_again_equals_the_dense_definition(granularity, problem):
    layout, deltas = problem
    method = Method(layout, granularity)
    state = learn_all(method, deltas)
    assume(sums_are_exact(state))
    reference = dense.again(as_dense(method, state), dense_groups(method))
    for kernels in KERNELS:
        again = reunify(method, state.unified, state.triggers, Execution(None, 1, kernels))
        assert_same(method, again, reference)


ODD = ParameterLayout(
    ("one", "scalar", "odd", "rows", "none", "cube"),
    ((1,), (), (13,), (7, 9), (0, 4), (2, 3, 5)),
)
SIZE = ODD.count
ZERO = np.zeros(SIZE, dtype=np.float32)
STEP = np.float32(2.0**-149)
ROUND = np.round(usual(1, SIZE) * 2000).astype(np.float32)  # small integers, so that sums tie

CASES = {
    "one task": [usual(1, SIZE)],
    "identical tasks": [usual(1, SIZE)] * 4,
    "opposite tasks": [usual(1, SIZE), -usual(1, SIZE), usual(1, SIZE)],
    "ties": [ROUND, -ROUND, ROUND[::-1], -ROUND[::-1]],
    "ties of halves": [ROUND, -ROUND / 2, -ROUND / 2],
    "zeros": [usual(1, SIZE) * (np.arange(SIZE) % 2), usual(2, SIZE) * (np.arange(SIZE) % 3 == 0)],
    "negative zeros": [-ZERO, usual(1, SIZE) * np.where(np.arange(SIZE) % 2, 1, -0.0), -ZERO],
    "all-zero deltas": [ZERO, ZERO, ZERO],
    "an all-zero delta first": [ZERO, usual(1, SIZE), usual(2, SIZE)],
    "an all-zero delta last": [usual(1, SIZE), usual(2, SIZE), ZERO],
    "denormals": [usual(1, SIZE) * np.float32(1e-37), usual(2, SIZE) * np.float32(1e-37)],
    "the smallest denormals": [ROUND * STEP, -2 * ROUND * STEP, ROUND[::-1] * STEP, ROUND * STEP],
    "denormals and usual values": [usual(1, SIZE), ROUND * STEP, -usual(1, SIZE), usual(3, SIZE)],
}


@each_granularity
@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_requirement_equals_the_dense_definition(case, granularity):
    deltas = [np.asarray(delta, dtype=np.float32) for delta in CASES[case]]
    compared = assert_sessions_are_dense(Method(ODD, granularity), deltas)
    assert compared == (2 if case == "denormals and usual values" else len(deltas))


@each_granularity
@pytest.mark.parametrize("size", [1, 2, 7, 9, 15, 31, 33, 100, 127, 129])
def test_a_size_that_fills_no_byte_equals_the_dense_definition(size, granularity):
    layout = ParameterLayout(("before", "w", "after"), ((3,), (size,), (2, size)))
    deltas = [usual(seed, layout.count) for seed in range(3)]
    assert assert_sessions_are_dense(Method(layout, granularity), deltas) == 3


@each_granularity
@pytest.mark.parametrize(
    ("shape", "chunks_by_row"), [((150, 9), 3), ((9000,), 1), ((3, 3000), 1), ((70, 70), 3)]
)
def test_several_chunks_and_segments_equal_the_dense_definition(shape, chunks_by_row, granularity):
    layout = ParameterLayout(("long", "after"), (shape, (5,)))
    method = Method(layout, granularity)
    if granularity == "row":
        assert len(list(method.segmentation().chunks(64))) == chunks_by_row + 1
    deltas = [usual(seed, layout.count) for seed in range(3)]
    deltas[1][: layout.count // 3] *= np.float32(2.0**-16)
    assert assert_sessions_are_dense(method, deltas, block_size=64) == 3


@each_granularity
def test_more_than_8_and_16_and_64_tasks_equal_the_dense_definition(granularity):
    layout = ParameterLayout(("a", "b", "c", "d"), ((3, 3), (1,), (0, 2), ()))
    deltas = [usual(task, layout.count) for task in range(70)]
    skipped = {*range(10, 15), *range(18, 31), *range(34, 62)}  # what follows is compared
    assert assert_sessions_are_dense(Method(layout, granularity), deltas, skipped=skipped) == 70


@each_granularity
def test_a_layout_without_elements_has_experts_of_nothing(granularity):
    layout = ParameterLayout(("a", "b"), ((0, 4), (0,)))
    assert assert_sessions_are_dense(Method(layout, granularity), [usual(1, 0)] * 3) == 3


# The election, by hand


@each_kernel
def test_the_side_with_the_larger_sum_wins_and_gives_its_largest_value(kernels):
    execution = Execution(kernels=kernels)
    first = unify(LINE, None, [], {"w": vector(3, -1, 2, -5)}, execution)
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-1, -4, 5, 1)}, execution)
    assert state.unified["w"].tolist() == [3, -4, 5, -5]
    masks = [flat_mask(LINE_LAYOUT, trigger.mask).tolist() for trigger in state.triggers]
    assert masks == [[True, True, True, True], [False, True, True, False]]
    assert rescalers(state) == [[float(np.float32(11 / 17))], [float(np.float32(11 / 9))]]
    assert state.covered == [17, 9]
    assert state.norms == pytest.approx([11, 11], rel=1e-6)


@each_kernel
def test_each_row_has_the_ratio_of_its_own_norms(kernels):
    method = Method(ParameterLayout(("w", "b"), ((2, 2), (1,))), "row")
    state = learn_all(
        method, [vector(3, -1, 2, -5, 1), vector(-1, -4, 5, 1, 7)], Execution(kernels=kernels)
    )
    assert flat(method.layout, state.unified).tolist() == [3, -4, 5, -5, 7]
    wanted = [[4 / 7, 7 / 10, 1 / 7], [5 / 4, 6 / 5, 1]]
    assert rescalers(state) == [[float(np.float32(r)) for r in each] for each in wanted]


@each_kernel
def test_a_tie_elects_the_negative_side(kernels):
    execution = Execution(kernels=kernels)
    first = unify(LINE, None, [], {"w": vector(1, -1, 2, 0)}, execution)
    state = unify(LINE, first.unified, first.triggers, {"w": vector(-1, 1, -2, 0)}, execution)
    assert state.unified["w"].tolist() == [-1, -1, -2, 0]


def one_element(rescalers):
    """Return a method for one element, and triggers that all own it."""
    mask = np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=np.uint8)
    method = Method(ParameterLayout(("w",), ((1,),)))
    return method, [Trigger(mask, vector(rescaler)) for rescaler in rescalers]


@each_kernel
def test_a_near_tie_is_decided_by_the_exact_sum(kernels):
    # The old side adds up to 1 + 2**-69, which float64 rounds to 1, a tie.
    method, triggers = one_element([1 - 2.0**-23, 2.0**-46])
    for sign in (1, -1):
        old, new = vector(sign * (1 + 2.0**-23)), vector(-sign)
        state = unify(method, {"w": old}, triggers, {"w": new}, Execution(kernels=kernels))
        assert state.unified["w"].tolist() == [sign]


@each_kernel
def test_a_near_tie_of_many_tasks_is_decided_by_the_exact_sum(kernels):
    # 32 tasks and nearly a factor 2**24: the old side adds up to 31 + 2**-47, with no bit to spare.
    method, triggers = one_element([1.0] * 30 + [1 - 2.0**-24, 2.0**-24 + 2.0**-47])
    for sign in (1, -1):
        old, new = {"w": vector(sign)}, {"w": vector(-31 * sign)}
        state = unify(method, old, triggers, new, Execution(kernels=kernels))
        assert state.unified["w"].tolist() == [sign]


@each_kernel
@each_dtype
def test_no_result_is_a_negative_zero(dtype, kernels):
    method = Method(LINE_LAYOUT, dtype=dtype)
    state = learn_all(
        method, [vector(-0.0, 0.0, -1, 1), vector(-0.0, -0.0, 0, -0.0)], Execution(kernels=kernels)
    )
    values = stored_values(method, state.unified)
    assert not np.signbit(values[values == 0]).any()


@each_kernel
def test_an_element_that_underflows_is_zero_and_loses_its_bit(kernels):
    trigger = Trigger(np.array([3] + [0] * 7, dtype=np.uint8), vector(0.25))
    old = {"w": vector(2.0**-149, 1, 0, 0)}
    state = reunify(LINE, old, [trigger], Execution(kernels=kernels))
    assert state.unified["w"].tolist() == [0, 0.25, 0, 0]
    assert flat_mask(LINE_LAYOUT, state.triggers[0].mask).tolist() == [False, True, False, False]


@each_kernel
@each_dtype
def test_an_all_zero_delta_has_an_empty_mask_and_rescaler_one(dtype, kernels):
    method = Method(LINE_LAYOUT, dtype=dtype)
    state = unify(method, None, [], {"w": vector(0, -0.0, 0, 0)}, Execution(kernels=kernels))
    assert not state.triggers[0].mask.any()
    assert rescalers(state) == [[1.0]]
    assert state.norms == state.covered == [0.0]


@each_kernel
@each_dtype
def test_an_expert_that_loses_everywhere_has_an_empty_mask_and_rescaler_one(dtype, kernels):
    method = Method(LINE_LAYOUT, dtype=dtype)
    state = learn_all(
        method, [vector(1, 1, 0, 0), vector(-5, -5, 0, 0)], Execution(kernels=kernels)
    )
    assert not state.triggers[0].mask.any()
    assert rescalers(state) == [[1.0], [1.0]]
    assert state.norms[0] == state.covered[0] == 0.0


@each_dtype
def test_an_extreme_ratio_keeps_every_expert_finite(dtype):
    method = Method(LINE_LAYOUT, dtype=dtype)
    state = learn_all(method, [vector(1e20, 1e-45, 0, 0), vector(-1e20, 0, 0, 0)])
    if dtype == "float32":
        assert rescalers(state)[0] == [2.0**100]
    assert all(np.isfinite(expert).all() for expert in experts(method, state))


# What unify promises


@each_granularity
@given(problem=problems(max_tasks=1))
def test_the_first_task_is_kept_exactly(granularity, problem):
    layout, (delta,) = problem
    method = Method(layout, granularity)
    state = learn_all(method, [delta])
    assert rescalers(state) == [[1.0] * method.groups.count]
    assert np.array_equal(experts(method, state)[0], delta)
    assert np.array_equal(flat(layout, state.unified), delta)
    assert np.array_equal(flat_mask(layout, state.triggers[0].mask), delta != 0)


@each_share
@each_granularity
@given(problem=problems(max_tasks=1))
def test_the_first_task_is_kept_as_its_trimmed_self(granularity, share, problem):
    layout, (delta,) = problem
    method = Method(layout, granularity, trim=share)
    state, wanted = learn(method, None, delta), trimmed(layout, delta, share)
    assert same_bits(experts(method, state)[0], wanted + np.float32(0))
    assert rescalers(state) == [[1.0] * method.groups.count]
    assert state.norms == pytest.approx([np.abs(wanted.astype(np.float64)).sum()])


@each_share
@each_dtype
@one_in(3)
@given(problem=problems())
def test_trimming_equals_learning_a_delta_that_was_trimmed_before(dtype, share, problem):
    """So it depends on neither the state nor the old experts, which are never trimmed again."""
    layout, deltas = problem
    method, plain = Method(layout, "row", dtype, share), Method(layout, "row", dtype)
    one = other = None
    for delta in deltas:
        one, other = learn(method, one, delta), learn(plain, other, trimmed(layout, delta, share))
        assert_same_results(one, other)
    again = reunify(method, one.unified, one.triggers)
    assert_same_results(again, reunify(plain, other.unified, other.triggers))


@each_dtype
@each_granularity
@one_in(3)
@given(seed=st.integers(0, 2**32 - 1), tasks=st.integers(2, 6))
def test_the_norm_of_every_expert_is_preserved(granularity, dtype, seed, tasks):
    layout = ParameterLayout(("a", "b"), ((50, 40), (90,)))
    method = Method(layout, granularity, dtype)
    deltas = [usual(seed + task, layout.count) for task in range(tasks)]
    state = learn_all(method, deltas)
    wanted = [float(np.abs(delta).sum(dtype=np.float64)) for delta in deltas]
    found = [float(np.abs(e).sum(dtype=np.float64)) for e in experts(method, state)]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert state.norms == pytest.approx(found, rel=1e-6)
    values = np.abs(stored_values(method, state.unified).astype(np.float64))
    masks = [flat_mask(layout, trigger.mask) for trigger in state.triggers]
    assert state.covered == pytest.approx([values[mask].sum() for mask in masks], rel=1e-12)


@each_dtype
@each_granularity
@one_in(3)
@given(problem=problems())
def test_an_expert_never_changes_sign_and_a_zero_stays_zero(granularity, dtype, problem):
    layout, deltas = problem
    *before, last = deltas
    assume(before)
    method = Method(layout, granularity, dtype)
    old = learn_all(method, before)
    state = learn(method, old, last)
    earlier = [*experts(method, old), last]
    for was, now in zip(earlier, experts(method, state), strict=True):
        assert np.all((np.sign(now) == np.sign(was)) | (now == 0))


@each_granularity
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_the_order_of_the_old_experts_does_not_matter(granularity, problem, random):
    layout, deltas = problem
    method = Method(layout, granularity)
    old = learn_all(method, deltas)
    assume(sums_are_exact(old))
    order = random.sample(range(len(deltas)), len(deltas))
    new = named(layout, usual(7, layout.count))
    one = unify(method, old.unified, old.triggers, new, HERE)
    other = unify(method, old.unified, [old.triggers[i] for i in order], new, HERE)
    assert same_bits(flat(layout, one.unified), flat(layout, other.unified))
    assert [rescalers(one)[i] for i in order] == rescalers(other)[:-1]
    assert rescalers(one)[-1] == rescalers(other)[-1]
    for position, i in enumerate(order):
        assert same_bits(one.triggers[i].mask, other.triggers[position].mask)


@each_granularity
@given(pair=st.integers(1, 90).flatmap(lambda n: st.tuples(flat_deltas(n), flat_deltas(n))))
def test_two_tasks_learned_in_either_order_give_the_same_unified_delta(granularity, pair):
    layout = ParameterLayout(("w",), (pair[0].shape,))
    method = Method(layout, granularity)
    one, other = learn_all(method, pair), learn_all(method, pair[::-1])
    assert same_bits(flat(layout, one.unified), flat(layout, other.unified))
    assert rescalers(one) == rescalers(other)[::-1]


@each_granularity
@pytest.mark.parametrize("seed", range(3))
def test_unifying_again_and_again_converges(seed, granularity):
    method = Method(ParameterLayout(("w",), ((3, 100),)), granularity)
    state = learn_all(method, [usual(10 * seed + task, 300) for task in range(4)])
    steps = []
    for _ in range(200):
        again = reunify(method, state.unified, state.triggers, HERE)
        distances = moved(method, state, again, HERE)
        steps.append(max(d / n for d, n in zip(distances, state.norms, strict=True)))
        state = again
    assert all(later <= earlier * 1.01 + 1e-6 for earlier, later in pairwise(steps))
    assert steps[-1] < steps[0] / 100


@each_dtype
@each_granularity
@one_in(3)
@given(problem=problems(elements=huge_deltas))
def test_no_expert_ever_overflows(granularity, dtype, problem):
    layout, deltas = problem
    method = Method(layout, granularity, dtype)
    with np.errstate(over="ignore"):  # the warning that the next test checks, in this thread
        state = learn_all(method, deltas)
        for _ in range(3):
            state = reunify(method, state.unified, state.triggers, HERE)
            assert all(np.isfinite(expert).all() for expert in experts(method, state))


@each_kernel
def test_an_element_that_an_expert_does_not_own_cannot_overflow(kernels):
    state = learn_all(LINE, [vector(1e20, 2.0**-149, 0, 0), vector(-1e20, 0, 0, 0)])
    assert rescalers(state) == [[2.0**100], [1.0]]
    reunify(LINE, state.unified, state.triggers, Execution(threads=1, kernels=kernels))


@each_dtype
def test_unifying_again_clears_what_no_task_owns(dtype):
    method = Method(LINE_LAYOUT, dtype=dtype)
    both = learn_all(method, [vector(1, 2, 0, 0), vector(0, 3, 4, 0)])
    alone = reunify(method, both.unified, both.triggers[:1])
    assert stored_values(method, alone.unified)[2] == 0
    assert alone.norms == pytest.approx([3.0], rel=1e-6)


def test_an_old_unified_delta_without_a_task_counts_as_zero():
    found = unify(LINE, {"w": vector(9, 9, 9, 9)}, [], {"w": vector(1, -1, 0, 2)})
    assert_same_results(found, unify(LINE, None, [], {"w": vector(1, -1, 0, 2)}))
    assert not reunify(LINE, {"w": vector(9, 9, 9, 9)}, []).unified["w"].any()


@each_dtype
@each_granularity
def test_unifying_again_equals_learning_an_all_zero_delta(granularity, dtype):
    method = Method(ODD, granularity, dtype)
    state = learn_all(method, [usual(seed, method.layout.count) for seed in range(3)])
    again = reunify(method, state.unified, state.triggers)
    with_nothing = learn(method, state, np.zeros(method.layout.count, dtype=np.float32))
    assert not with_nothing.triggers.pop().mask.any()
    assert with_nothing.norms.pop() == with_nothing.covered.pop() == 0
    assert_same_results(again, with_nothing)


# How unify treats its inputs


FULL = ParameterLayout(("a", "b", "c"), ((200,), (3, 5), ()))


@each_kernel
@each_dtype
@each_granularity
def test_the_inputs_are_left_as_they_are_even_where_they_cannot_be_written(
    granularity, dtype, kernels
):
    method = Method(FULL, granularity, dtype)
    old = learn_all(method, [usual(1, FULL.count), usual(2, FULL.count)])
    new = named(FULL, usual(3, FULL.count))
    arrays = [*old.unified.values(), *new.values()]
    arrays += [array for trigger in old.triggers for array in (trigger.mask, trigger.rescaler)]
    before = [array.tobytes() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    result = unify(method, old.unified, old.triggers, new, Execution(64, kernels=kernels))
    reunify(method, old.unified, old.triggers, Execution(64, kernels=kernels))
    assert [array.tobytes() for array in arrays] == before
    # The result shares no memory with the inputs.
    results = [*result.unified.values(), *(t.mask for t in result.triggers)]
    assert all(array.flags.writeable for array in results)


@each_dtype
def test_memory_maps_are_read_as_arrays(dtype, tmp_path):
    method = Method(FULL, "row", dtype)
    old = learn_all(method, [usual(1, FULL.count)])
    new = named(FULL, usual(2, FULL.count))

    def mapped(label, arrays):
        found = {}
        for number, (name, array) in enumerate(arrays.items()):
            path = tmp_path / f"{label}{number}.npy"
            np.save(path, array.view(np.uint16) if dtype == "bfloat16" and label == "u" else array)
            found[name] = np.load(path, mmap_mode="r").view(array.dtype)
        return found

    found = unify(method, mapped("u", old.unified), old.triggers, mapped("d", new))
    assert_same_results(found, unify(method, old.unified, old.triggers, new))


@each_granularity
def test_sparse_masks_are_read_as_dense_ones(granularity):
    layout = ParameterLayout(("embedding", "w"), ((300, 9), (5, 64)))
    method = Method(layout, granularity)
    delta = usual(1, layout.count)
    delta[100:2600] = 0
    old = learn_all(method, [delta, delta * np.float32(0.5)])
    sparse = [Trigger(decode_mask(encode_mask(t.mask), layout), t.rescaler) for t in old.triggers]
    assert all(isinstance(trigger.mask, SparseMask) for trigger in sparse)
    new = named(layout, usual(2, layout.count))
    wanted = unify(method, old.unified, old.triggers, new)
    assert_same_results(unify(method, old.unified, sparse, new, Execution(64, 3)), wanted)


@each_granularity
def test_transposed_tensors_are_read_in_row_order(granularity):
    method = Method(ParameterLayout(("w",), ((2, 3),)), granularity)
    values = np.arange(6, dtype=np.float32).reshape(3, 2).T
    state = unify(method, None, [], {"w": values})
    assert state.unified["w"].tolist() == values.tolist()
    transposed = {"w": np.asfortranarray(state.unified["w"])}
    again = reunify(method, transposed, state.triggers)
    assert again.unified["w"].tolist() == values.tolist()


@each_dtype
@each_granularity
def test_each_array_is_fetched_once(granularity, dtype):
    method = Method(FULL, granularity, dtype)
    old = learn_all(method, [usual(1, FULL.count), usual(2, FULL.count)])
    unified, delta = LazyTensors(old.unified), LazyTensors(named(FULL, usual(3, FULL.count)))
    unify(method, unified, old.triggers, delta, Execution(block_size=64))
    assert set(unified.reads.values()) == set(delta.reads.values()) == {1}
    unified = LazyTensors(old.unified)
    reunify(method, unified, old.triggers, Execution(block_size=64))
    assert set(unified.reads.values()) == {1}


@each_dtype
@each_granularity
def test_results_have_their_promised_form(granularity, dtype):
    method = Method(FULL, granularity, dtype)
    state = learn_all(method, [usual(1, FULL.count), usual(2, FULL.count)])
    wanted = method.storage.arrays(FULL)
    assert {name: (a.dtype, a.shape) for name, a in state.unified.items()} == wanted
    assert list(state.unified) == list(wanted)
    for trigger in state.triggers:
        check_trigger(method, trigger)
    assert len(state.triggers) == len(state.norms) == len(state.covered) == 2
    assert all(type(norm) is float for norm in (*state.norms, *state.covered))


# What unify refuses


@each_kernel
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
        ({"w": vector(1, 2, 3, -2e20)}, "w", "beyond"),
    ],
)
def test_a_bad_delta_is_refused_by_name(delta, parameter, reason, kernels):
    with pytest.raises(InvalidDeltaError, match=reason) as caught:
        unify(LINE, None, [], delta, Execution(kernels=kernels))
    assert caught.value.parameter == parameter
    assert parameter in str(caught.value)


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("position", [0, 70, 4095, 4096, 8191, 9999])
def test_a_bad_value_is_found_wherever_it_is_and_the_first_parameter_named(position, threads):
    layout = ParameterLayout(("good", "bad", "worse"), ((100,), (10_000,), (10_000,)))
    delta = named(layout, usual(1, layout.count))
    delta["bad"][position] = delta["worse"][:] = math.nan
    for granularity in GRANULARITIES:
        with pytest.raises(InvalidDeltaError, match="NaN") as caught:
            unify(Method(layout, granularity), None, [], delta, Execution(64, threads))
        assert caught.value.parameter == "bad"


GOOD_MASK = np.array([15] + [0] * 7, dtype=np.uint8)
GOOD = Trigger(GOOD_MASK, vector(1))
OLD = {"w": vector(1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("unified", "trigger", "tensor"),
    [
        (None, GOOD, "w"),
        ({}, GOOD, "w"),
        ({"w": vector(1, 2, 3)}, GOOD, "w"),
        ({"w": np.zeros(4)}, GOOD, "w"),
        ({"w": vector(1, 2, math.nan, 0)}, GOOD, "w"),
        ({"w": vector(1, 2, -math.inf, 0)}, GOOD, "w"),
        ({"w": vector(1, 2, 3, 4), "v": vector(1)}, GOOD, "v"),
        (OLD, Trigger(GOOD_MASK[:4], vector(1)), "tasks[0].mask"),
        (OLD, Trigger(GOOD_MASK.view(np.int8), vector(1)), "tasks[0].mask"),
        (OLD, Trigger(GOOD_MASK | 16, vector(1)), "tasks[0].mask"),
        (OLD, Trigger(GOOD_MASK, vector(0)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(-1)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(math.nan)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(math.inf)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(2.0**101)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(2.0**-101)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, np.array([1.0])), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, vector(1, 1)), "tasks[0].rescaler"),
        (OLD, Trigger(GOOD_MASK, np.float32(1).reshape(())), "tasks[0].rescaler"),
    ],
)
def test_a_broken_state_is_refused_by_name(unified, trigger, tensor):
    with pytest.raises(InvalidStateError) as caught:
        unify(LINE, unified, [trigger], {"w": vector(1, 1, 1, 1)})
    assert caught.value.tensor == tensor
    if unified is not None:
        with pytest.raises(InvalidStateError) as caught:
            reunify(LINE, unified, [trigger])
        assert caught.value.tensor == tensor


def test_the_task_with_the_broken_trigger_is_named():
    broken = Trigger(GOOD_MASK, vector(-1))
    with pytest.raises(InvalidStateError) as caught:
        unify(LINE, OLD, [GOOD, GOOD, broken], {"w": vector(1, 1, 1, 1)})
    assert caught.value.tensor == "tasks[2].rescaler"


@pytest.mark.parametrize(
    ("dtype", "change", "tensor"),
    [
        ("bfloat16", {"w": vector(1, 2, 3, 4)}, "w"),
        ("bfloat16", {"w": np.zeros(4, np.float16)}, "w"),
        ("bfloat16", {"scale/w": vector(1)}, "scale/w"),
        ("int8", {"w": vector(1, 2, 3, 4)}, "w"),
        ("int8", {"w": np.zeros(5, np.int8)}, "w"),
        ("int8", {"scale/w": None}, "scale/w"),
        ("int8", {"scale/w": vector(1, 1)}, "scale/w"),
        ("int8", {"scale/w": np.array([1.0])}, "scale/w"),
        ("int8", {"scale/w": vector(math.nan)}, "w"),
        ("int8", {"scale/w": vector(math.inf)}, "w"),
        ("int8", {"scale/v": vector(1)}, "scale/v"),
    ],
)
def test_a_broken_unified_delta_of_another_dtype_is_refused_by_name(dtype, change, tensor):
    method = Method(LINE_LAYOUT, dtype=dtype)
    state = learn_all(method, [vector(1, -2, 3, 4)])
    unified = {n: a for n, a in {**state.unified, **change}.items() if a is not None}
    with pytest.raises(InvalidStateError) as caught:
        unify(method, unified, state.triggers, {"w": vector(1, 1, 1, 1)})
    assert caught.value.tensor == tensor


def test_a_mask_with_padding_bits_in_a_later_tensor_is_refused():
    state = learn_all(Method(FULL), [usual(1, FULL.count)])
    mask = packed_mask(
        FULL, {n: np.ones(s, bool) for n, s in zip(FULL.names, FULL.shapes, strict=True)}
    )
    mask[-1] = 128
    with pytest.raises(InvalidStateError, match="padding bits set after parameter 'c'"):
        reunify(Method(FULL), state.unified, [Trigger(mask, vector(1))])


@pytest.mark.parametrize("block_size", [0, -64, 1, 100])
def test_a_block_size_is_a_multiple_of_64(block_size):
    with pytest.raises(ValueError, match="multiple of 64"):
        unify(LINE, None, [], {"w": vector(1, 2, 3, 4)}, Execution(block_size))


def test_kernels_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="not 'fortran'"):
        unify(LINE, None, [], {"w": vector(1, 2, 3, 4)}, Execution(kernels="fortran"))


@each_dtype
@given(problem=problems(elements=usual_deltas))
def test_masks_never_grow_when_unifying_again(dtype, problem):
    layout, deltas = problem
    method = Method(layout, "tensor", dtype)
    state = learn_all(method, deltas)
    again = reunify(method, state.unified, state.triggers, HERE)
    for before, after in zip(state.triggers, again.triggers, strict=True):
        assert not (after.mask & ~before.mask).any()
