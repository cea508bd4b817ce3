"""Blocks, threads and kernels do not affect the result of a pass."""

import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    GRANULARITIES,
    KERNELS,
    assert_same_results,
    experts,
    flat,
    learn,
    learn_all,
    named,
    problems,
    same_bits,
    spread,
)

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.arrays.platforms import NUMPY
from condu_cli.core.arrays.segments import Segmentation
from condu_cli.core.merging.decouple import Target, decouple_into, moved
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.unify import reunify
from condu_cli.core.passes.streaming import WAITING, Execution, Room, Rooms, in_order

# Tensors of several segments, and of several chunks if rows are the segments.
LONG = ParameterLayout(
    ("long", "matrix", "nine", "odd", "one"), ((10_000,), (130, 70), (150, 9), (64, 65), (1,))
)
BLOCKS = (64, 128, 4096, None)
THREADS = (1, 2, 5)
WAYS = [
    Execution(block_size, threads, kernels)
    for block_size in BLOCKS
    for threads in THREADS
    for kernels in KERNELS
]
METHODS = [
    pytest.param(Method(LONG, granularity, dtype), id=f"{granularity}-{dtype}")
    for granularity in GRANULARITIES
    for dtype in DTYPES
]
METHODS += [
    pytest.param(Method(LONG, granularity, dtype, Fraction(1, 2)), id=f"{granularity}-{dtype}-trim")
    for granularity, dtype in zip(GRANULARITIES, DTYPES, strict=True)
]
each_method = pytest.mark.parametrize("method", METHODS)


def sessions(method, execution=None):
    return learn_all(method, [spread(seed, LONG.count) for seed in range(3)], execution)


@each_method
def test_blocks_threads_and_kernels_leave_no_trace_in_unify(method):
    old, delta = sessions(method, WAYS[0]), spread(3, LONG.count)
    wanted = learn(method, old, delta, WAYS[0])
    again = reunify(method, old.unified, old.triggers, WAYS[0])
    for way in WAYS[1:]:
        assert_same_results(learn(method, old, delta, way), wanted)
    for way in WAYS[-len(KERNELS) :]:
        assert_same_results(reunify(method, old.unified, old.triggers, way), again)


@pytest.mark.parametrize(
    ("shape", "granularity", "dtype"),
    [
        ((100_000,), "global", "float32"),
        ((100_000,), "tensor", "bfloat16"),
        ((2000, 9), "global", "int8"),
        ((2000, 9), "tensor", "int8"),
        ((2000, 9), "row", "float32"),
    ],
)
def test_norms_over_many_segments_are_added_up_in_one_order(shape, granularity, dtype):
    layout = ParameterLayout(("w", "b"), (shape, (70,)))
    method = Method(layout, granularity, dtype)
    for seed in range(5):
        deltas = [spread(seed, layout.count), spread(100 + seed, layout.count)]
        one, *others = [
            learn_all(method, deltas, Execution(block_size, 1)) for block_size in BLOCKS
        ]
        for other in others:
            assert_same_results(one, other)


@given(
    problems(),
    st.sampled_from(GRANULARITIES),
    st.sampled_from(DTYPES),
    st.sampled_from([64, 128, 192, 4096]),
    st.sampled_from(THREADS),
    st.sampled_from(KERNELS),
)
def test_a_whole_chain_of_sessions_is_the_same_however_it_ran(
    problem, granularity, dtype, block_size, threads, kernels
):
    layout, deltas = problem
    method = Method(layout, granularity, dtype)
    one = learn_all(method, deltas, Execution(kernels="vectorised"))
    assert_same_results(one, learn_all(method, deltas, Execution(block_size, threads, kernels)))


@each_method
def test_blocks_threads_and_kernels_leave_no_trace_in_decouple_into(method):
    state, base = sessions(method), named(LONG, spread(9, LONG.count))
    wanted = [flat(LONG, base) + expert for expert in experts(method, state)]
    for way in WAYS:
        targets = [
            Target(t, named(LONG, np.full(LONG.count, np.nan, np.float32))) for t in state.triggers
        ]
        decouple_into(method, state.unified, base, targets, way)
        for target, expert in zip(targets, wanted, strict=True):
            assert same_bits(flat(LONG, target.weights), expert)


@each_method
def test_threads_and_kernels_leave_no_trace_in_moved(method):
    before = sessions(method)
    after = learn(method, before, spread(3, LONG.count))
    for block_size in BLOCKS:
        found = {
            tuple(
                moved(
                    method,
                    before,
                    after,
                    Execution(block_size, threads, kernels),
                )
            )
            for threads in THREADS
            for kernels in KERNELS
        }
        assert len(found) == 1


@pytest.mark.parametrize("granularity", ["global", "row"])
def test_the_block_size_leaves_no_trace_in_moved(granularity):
    layout = ParameterLayout(("rows",), ((2000, 9),))
    method = Method(layout, granularity, "int8")
    for seed in range(10):
        before = learn_all(method, [spread(seed, layout.count)])
        states = before, learn(method, before, spread(100 + seed, layout.count))
        found = [moved(method, *states, Execution(block_size, 1)) for block_size in BLOCKS]
        assert all(each == found[0] for each in found)


# Order, errors and memory of a pass


def chunks_of(count):
    """Chunks of 64 elements."""
    layout = ParameterLayout(("w",), ((count, 64),))
    return list(Segmentation(layout, by_row=True).chunks(64))


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_results_come_in_the_order_of_the_chunks(threads):
    chunks = chunks_of(40)

    def work(chunk):
        time.sleep(0.002 if chunk.first % 3 == 0 else 0)
        return chunk.first

    found = list(in_order(work, chunks, threads))
    assert found == [(chunk, chunk.first) for chunk in chunks]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_no_chunks_give_no_results(threads):
    assert list(in_order(lambda chunk: chunk, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_error_in_order_is_raised_once_the_threads_have_stopped(threads):
    running, most = 0, 0
    lock = threading.Lock()

    def work(chunk):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            if chunk.first == 3:
                time.sleep(0.02)  # a later block fails first
            if chunk.first >= 3:
                raise KeyError(chunk.first)
        finally:
            with lock:
                running -= 1

    with pytest.raises(KeyError) as caught:
        list(in_order(work, chunks_of(500), threads))
    assert caught.value.args == (3,)
    assert running == 0
    assert most <= threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_has_not_begun_at_an_error_never_does(threads):
    begun = []

    def work(chunk):
        begun.append(chunk.first)
        if chunk.first == 0:
            raise KeyError
        time.sleep(0.2)

    with pytest.raises(KeyError):
        list(in_order(work, chunks_of(500), threads))
    assert len(begun) <= 2 * threads < max(3, threads * WAITING)


def test_few_chunks_wait_at_a_time():
    taken = 0

    def chunks():
        nonlocal taken
        for chunk in chunks_of(100):
            taken += 1
            yield chunk

    for position, _ in enumerate(in_order(lambda chunk: chunk.first, chunks(), 2)):
        assert taken <= position + 1 + 2 * WAITING


def test_each_thread_has_its_own_room_for_the_whole_pass():
    rooms = Rooms(NUMPY, 64, 3)
    barrier = threading.Barrier(3)
    found = {}

    def work(name):
        first = rooms.of_this_thread()
        barrier.wait(timeout=10)
        found[name] = (first, rooms.of_this_thread())

    workers = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(first is second for first, second in found.values())
    assert len({id(first) for first, _ in found.values()}) == 3


def test_a_room_holds_every_chunk_up_to_its_size():
    layout = ParameterLayout(("w",), ((200, 9),))
    chunks = list(Segmentation(layout, by_row=True).chunks(64))
    room = Room(NUMPY, max(chunk.room for chunk in chunks), tasks=2)
    for chunk in chunks:
        values = room.values(chunk)
        assert [v.shape for v in values] == [(chunk.segments, 64)] * 3
        assert {v.dtype for v in values} == {np.dtype(np.float32)}
        masks = [room.masks(chunk, 2, slot) for slot in (0, 1)]
        assert [m.shape for m in masks] == [(2, chunk.segments, 1)] * 2
        arrays = [*values, *masks]
        assert not any(
            np.shares_memory(one, other)
            for position, one in enumerate(arrays)
            for other in arrays[:position]
        )
