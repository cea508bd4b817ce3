"""Decoupling: experts as deltas and as weights, and how far they moved."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import one_in
from strategies import (
    DTYPES,
    GRANULARITIES,
    KERNELS,
    LazyTensors,
    experts,
    flat,
    flat_mask,
    learn,
    learn_all,
    named,
    problems,
    same_bits,
    stored_values,
    usual,
    vector,
)

from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.stored_masks import SparseMask, decode_mask, encode_mask
from condu_cli.core.merging.decouple import Target, decouple, decouple_into, moved, relative_drift
from condu_cli.core.merging.method import Method, Trigger
from condu_cli.core.merging.unify import reunify
from condu_cli.core.passes.streaming import Execution

LAYOUT = ParameterLayout(("a", "b", "c", "d"), ((9, 11), (70,), (), (3, 2, 64)))

each_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_kernel = pytest.mark.parametrize("kernels", KERNELS)


def sessions(method, count=3):
    return learn_all(method, [usual(seed, method.layout.count) for seed in range(count)])


def nothing_yet(layout):
    """Return an array of NaN to write to, so that elements never written are visible."""
    return named(layout, np.full(layout.count, np.nan, dtype=np.float32))


def targets_for(method, state):
    return [Target(trigger, nothing_yet(method.layout)) for trigger in state.triggers]


# Experts as deltas


@each_dtype
@each_granularity
def test_an_expert_is_the_unified_delta_masked_and_rescaled(granularity, dtype):
    method = Method(LAYOUT, granularity, dtype)
    state = sessions(method)
    values = stored_values(method, state.unified)
    for trigger in state.triggers:
        mask = flat_mask(LAYOUT, trigger.mask)
        factors = []
        rescalers = iter(trigger.rescaler)
        factor = next(rescalers)
        for position, (size, rows) in enumerate(zip(LAYOUT.sizes, LAYOUT.row_counts, strict=True)):
            if granularity == "tensor" and position:
                factor = next(rescalers)
            for row in range(rows):
                if granularity == "row" and (position or row):
                    factor = next(rescalers)
                factors += [factor] * (size // rows)
        assert next(rescalers, None) is None
        wanted = np.where(mask, values, np.float32(0)) * np.array(factors, dtype=np.float32)
        found = dict(decouple(method, state.unified, trigger))
        assert list(found) == list(LAYOUT.names)
        assert [t.shape for t in found.values()] == list(LAYOUT.shapes)
        assert same_bits(flat(LAYOUT, found), wanted)


@each_granularity
def test_a_sparse_mask_decouples_as_the_dense_one(granularity):
    method = Method(LAYOUT, granularity)
    delta = usual(1, LAYOUT.count)
    delta[64:300] = 0
    state = learn_all(method, [delta])
    (dense,) = state.triggers
    sparse = Trigger(decode_mask(encode_mask(dense.mask), LAYOUT), dense.rescaler)
    assert isinstance(sparse.mask, SparseMask)
    wanted = flat(LAYOUT, dict(decouple(method, state.unified, dense)))
    assert same_bits(flat(LAYOUT, dict(decouple(method, state.unified, sparse))), wanted)
    target, base = nothing_yet(LAYOUT), named(LAYOUT, usual(2, LAYOUT.count))
    decouple_into(method, state.unified, base, [Target(sparse, target)])
    assert same_bits(flat(LAYOUT, target), flat(LAYOUT, base) + wanted)


BROKEN_TRIGGERS = [
    (lambda t: Trigger(t.mask[:8], t.rescaler), "mask"),
    (lambda t: Trigger(t.mask | 255, t.rescaler), "mask"),
    (lambda t: Trigger(t.mask, t.rescaler * 0), "rescaler"),
    (lambda t: Trigger(t.mask, t.rescaler * np.float32(math.nan)), "rescaler"),
    (lambda t: Trigger(t.mask, np.append(t.rescaler, t.rescaler)), "rescaler"),
    (lambda t: Trigger(t.mask, t.rescaler.astype(np.float64)), "rescaler"),
]
BROKEN_UNIFIED = [
    (lambda u: {n: a for n, a in u.items() if n != "b"}, "b"),
    (lambda u: {**u, "b": u["b"][:5]}, "b"),
    (lambda u: {**u, "b": u["b"].astype(np.float64)}, "b"),
    (lambda u: {**u, "e": u["b"]}, "e"),
]


@each_dtype
@pytest.mark.parametrize(("change", "tensor"), BROKEN_TRIGGERS)
def test_a_broken_trigger_is_refused_by_name(change, tensor, dtype):
    method = Method(LAYOUT, dtype=dtype)
    state = sessions(method)
    with pytest.raises(InvalidStateError) as caught:
        next(decouple(method, state.unified, change(state.triggers[0])))
    assert caught.value.tensor == tensor


@each_dtype
@pytest.mark.parametrize(("change", "tensor"), BROKEN_UNIFIED)
def test_a_broken_unified_delta_is_refused_by_name(change, tensor, dtype):
    method = Method(LAYOUT, dtype=dtype)
    state = sessions(method)
    with pytest.raises(InvalidStateError) as caught:
        next(decouple(method, change(state.unified), state.triggers[0]))
    assert caught.value.tensor == tensor


# Experts as weights


@each_kernel
@each_dtype
@each_granularity
@one_in(5)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_weights_are_base_plus_delta_for_several_targets_at_once(
    granularity, dtype, kernels, problem, seed
):
    layout, deltas = problem
    method = Method(layout, granularity, dtype)
    state = learn_all(method, deltas)
    base = named(layout, usual(seed, layout.count))
    targets = targets_for(method, state)
    decouple_into(method, state.unified, base, targets, Execution(64, 1, kernels))
    for target, delta in zip(targets, experts(method, state), strict=True):
        assert same_bits(flat(layout, target.weights), flat(layout, base) + delta)


@each_kernel
@each_dtype
@each_granularity
def test_weights_may_have_any_memory_layout(granularity, dtype, kernels):
    method = Method(LAYOUT, granularity, dtype)
    state = sessions(method)
    values = named(LAYOUT, usual(7, LAYOUT.count))
    base = {name: np.copy(array, order="F") for name, array in values.items()}
    transposed = {
        "a": np.full((11, 9), np.nan, np.float32).T,
        "b": np.full(140, np.nan, np.float32)[::-2],
        "c": np.full((2, 2), np.nan, np.float32)[1, 1, ...],
        "d": np.full((64, 3, 2), np.nan, np.float32).transpose(1, 2, 0),
    }
    targets = [
        Target(state.triggers[0], nothing_yet(LAYOUT)),
        Target(state.triggers[1], transposed),
        Target(state.triggers[2], nothing_yet(LAYOUT)),
    ]
    decouple_into(method, state.unified, base, targets, Execution(64, 3, kernels))
    for target, delta in zip(targets, experts(method, state), strict=True):
        assert same_bits(flat(LAYOUT, target.weights), flat(LAYOUT, values) + delta)
    # Only the view was written to, not what lies between its elements.
    assert np.isnan(transposed["b"].base).sum() == 70
    assert np.isnan(transposed["c"].base).sum() == 3


@each_dtype
def test_long_tensors_in_any_order_are_written_by_several_threads(dtype):
    layout = ParameterLayout(("a", "b"), ((130, 70), (300, 40)))
    method = Method(layout, "row", dtype)
    state = sessions(method)
    base = named(layout, usual(7, layout.count))
    weights = {
        name: np.empty(shape[::-1], np.float32).T
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    decouple_into(
        method, state.unified, base, [Target(state.triggers[0], weights)], Execution(64, 5)
    )
    wanted = flat(layout, base) + experts(method, state)[0]
    assert same_bits(flat(layout, weights), wanted)


def test_the_same_expert_may_be_asked_for_twice_and_none_at_all():
    method = Method(LAYOUT)
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    targets = [Target(state.triggers[1], nothing_yet(LAYOUT)) for _ in range(2)]
    decouple_into(method, state.unified, base, targets)
    assert same_bits(*(flat(LAYOUT, target.weights) for target in targets))
    decouple_into(method, state.unified, base, [])


@each_dtype
def test_only_the_targets_are_written_and_arrays_may_be_read_only(dtype):
    method = Method(LAYOUT, "row", dtype)
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    arrays = [*state.unified.values(), *base.values()]
    arrays += [array for t in state.triggers for array in (t.mask, t.rescaler)]
    before = [array.tobytes() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    decouple_into(method, state.unified, base, targets_for(method, state), Execution(64))
    assert [array.tobytes() for array in arrays] == before


@each_dtype
def test_each_array_of_the_unified_delta_is_fetched_once(dtype):
    method = Method(LAYOUT, "row", dtype)
    state = sessions(method)
    unified, base = LazyTensors(state.unified), named(LAYOUT, usual(7, LAYOUT.count))
    decouple_into(method, unified, base, targets_for(method, state), Execution(64))
    assert set(unified.reads.values()) == {1}
    unified = LazyTensors(state.unified)
    list(decouple(method, unified, state.triggers[0]))
    assert set(unified.reads.values()) == {1}


BROKEN_WEIGHTS = [
    (lambda w: {n: a for n, a in w.items() if n != "d"}, "d", "is missing"),
    (lambda w: {**w, "e": w["b"]}, "e", "not a trainable parameter"),
    (lambda w: {**w, "d": w["d"][:2]}, "d", "has shape"),
    (lambda w: {**w, "a": w["a"].T}, "a", "has shape"),
    (lambda w: {**w, "d": w["d"].astype(np.float64)}, "d", "has dtype float64"),
    (lambda w: {**w, "d": w["d"].view(np.int32)}, "d", "has dtype int32"),
]


def assert_nothing_is_written(error, method, unified, base, targets):
    """Assert that the call fails before it writes, and return the error."""
    before = [array.tobytes() for target in targets for array in target.weights.values()]
    with pytest.raises(error) as caught:
        decouple_into(method, unified, base, targets, Execution(64, 1))
    after = [array.tobytes() for target in targets for array in target.weights.values()]
    assert after == before
    return caught.value


@each_dtype
@pytest.mark.parametrize(("change", "parameter", "reason"), BROKEN_WEIGHTS)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(
    change, parameter, reason, dtype
):
    method = Method(LAYOUT, dtype=dtype)
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    targets = targets_for(method, state)
    error = assert_nothing_is_written(
        InvalidDeltaError, method, state.unified, change(base), targets
    )
    assert error.parameter == parameter
    assert reason in str(error)
    targets[-1] = Target(state.triggers[-1], change(targets[-1].weights))
    error = assert_nothing_is_written(InvalidDeltaError, method, state.unified, base, targets)
    assert error.parameter == parameter
    assert reason in str(error)


@each_dtype
@pytest.mark.parametrize(("change", "tensor"), BROKEN_TRIGGERS)
def test_a_broken_trigger_is_refused_and_nothing_is_written(change, tensor, dtype):
    method = Method(LAYOUT, dtype=dtype)
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    targets = targets_for(method, state)
    targets[2] = Target(change(state.triggers[2]), targets[2].weights)
    error = assert_nothing_is_written(InvalidStateError, method, state.unified, base, targets)
    assert error.tensor == f"tasks[2].{tensor}"


@each_dtype
@pytest.mark.parametrize(("change", "tensor"), BROKEN_UNIFIED)
def test_a_broken_unified_delta_is_refused_and_nothing_is_written(change, tensor, dtype):
    method = Method(LAYOUT, dtype=dtype)
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    error = assert_nothing_is_written(
        InvalidStateError, method, change(state.unified), base, targets_for(method, state)
    )
    assert error.tensor == tensor


def test_a_missing_scale_is_refused_and_nothing_is_written():
    method = Method(LAYOUT, dtype="int8")
    state = sessions(method)
    base = named(LAYOUT, usual(7, LAYOUT.count))
    unified = {name: array for name, array in state.unified.items() if name != "scale/d"}
    targets = targets_for(method, state)
    error = assert_nothing_is_written(InvalidStateError, method, unified, base, targets)
    assert error.tensor == "scale/d"


def test_a_way_to_run_that_does_not_exist_is_refused():
    method = Method(LAYOUT)
    state = sessions(method)
    for execution in (Execution(100), Execution(kernels="fortran")):
        with pytest.raises(ValueError, match=r"multiple of 64|not 'fortran'"):
            decouple_into(method, state.unified, nothing_yet(LAYOUT), [], execution)
        with pytest.raises(ValueError, match=r"multiple of 64|not 'fortran'"):
            moved(method, state, state, execution)


@pytest.mark.parametrize("use", ["weights", "moved"])
def test_an_element_that_an_expert_does_not_own_cannot_overflow(use):
    method = Method(ParameterLayout(("w",), ((2,),)))
    state = learn_all(method, [vector(1e20, 2.0**-149), vector(-1e20, 0)])
    execution = Execution(threads=1, kernels="vectorised")
    if use == "weights":
        base = {"w": vector(0, 0)}
        decouple_into(method, state.unified, base, targets_for(method, state), execution)
    else:
        moved(method, state, state, execution)


# How far experts moved


def distances(before, after):
    """Sum |differences| in float64, in another order than the program."""
    return [
        math.fsum(abs(float(x) - float(y)) for x, y in zip(was, now, strict=True))
        for was, now in zip(before, after, strict=False)
    ]


@each_kernel
@each_dtype
@each_granularity
@one_in(5)
@given(problem=problems())
def test_moved_is_the_sum_of_differences_of_decoded_experts(granularity, dtype, kernels, problem):
    layout, deltas = problem
    method = Method(layout, granularity, dtype)
    before = learn_all(method, deltas)
    after = learn(method, before, usual(5, layout.count))
    found = moved(method, before, after, Execution(64, 1, kernels))
    wanted = distances(experts(method, before), experts(method, after))
    assert found == pytest.approx(wanted, rel=1e-12, abs=0)
    assert all(type(distance) is float for distance in found)


@each_kernel
@each_dtype
def test_what_did_not_change_has_not_moved(dtype, kernels):
    method = Method(LAYOUT, "row", dtype)
    state = sessions(method)
    execution = Execution(kernels=kernels)
    assert moved(method, state, state, execution) == [0.0] * 3


@each_kernel
def test_nothing_moves_before_the_first_task(kernels):
    method = Method(LAYOUT)
    state = sessions(method, 1)
    before = reunify(method, state.unified, [])
    assert moved(method, before, state, Execution(kernels=kernels)) == []


@each_granularity
def test_moved_reads_sparse_masks(granularity):
    method = Method(LAYOUT, granularity)
    delta = usual(1, LAYOUT.count)
    delta[64:300] = 0
    before = learn_all(method, [delta])
    after = learn(method, before, usual(2, LAYOUT.count))
    sparse = replace(
        before,
        triggers=[
            Trigger(decode_mask(encode_mask(t.mask), LAYOUT), t.rescaler) for t in before.triggers
        ],
    )
    wanted = moved(method, before, after)
    assert moved(method, sparse, after) == wanted


@pytest.mark.parametrize(("change", "tensor"), BROKEN_UNIFIED)
@pytest.mark.parametrize("which", [0, 1])
def test_moved_refuses_a_broken_unified_delta_by_name(which, change, tensor):
    method = Method(LAYOUT)
    states = [sessions(method), sessions(method, 4)]
    states[which] = replace(states[which], unified=change(states[which].unified))
    with pytest.raises(InvalidStateError) as caught:
        moved(method, *states)
    assert caught.value.tensor == tensor


@pytest.mark.parametrize(("change", "tensor"), BROKEN_TRIGGERS)
@pytest.mark.parametrize("which", [0, 1])
def test_moved_refuses_a_broken_trigger_by_name(which, change, tensor):
    method = Method(LAYOUT)
    states = [sessions(method), sessions(method, 4)]
    first, *rest = states[which].triggers
    states[which] = replace(states[which], triggers=[change(first), *rest])
    with pytest.raises(InvalidStateError, match=tensor):
        moved(method, *states)


# Drift


def test_relative_drift_is_a_distance_over_a_norm():
    assert relative_drift(1.5, 3.0) == 0.5
    assert relative_drift(0.0, 0.0) == 0.0
    assert relative_drift(1.0, 0.0) == math.inf
