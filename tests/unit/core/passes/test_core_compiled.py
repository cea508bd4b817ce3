"""The compiled loops equal the array operations, bit for bit."""

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import AWKWARD, HUGE, TINY, chosen, same_bits, spread, usual

from condu_cli.core.passes import vectorised

numba = pytest.importorskip("numba")

from condu_cli.core.passes import compiled  # noqa: E402 - fails without numba

KINDS = {
    "usual": usual,
    "spread": spread,
    "awkward": lambda seed, size: chosen(AWKWARD, seed, size),
    "tiny": lambda seed, size: chosen(TINY, seed, size),
    "huge": lambda seed, size: chosen(HUGE, seed, size),
}

cases = st.tuples(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 9, 17, 65]),  # tasks
    st.sampled_from([1, 2, 7]),  # segments
    st.sampled_from([1, 2, 5, 64]),  # words
)


def working(kind, seed, segments, words):
    return KINDS[kind](seed, segments * words * 64).reshape(segments, words * 64)


def random_words(seed, *shape):
    """Draw mask words: random, empty or full."""
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 2**64, shape, dtype=np.uint64)
    words[generator.random(shape) < 0.3] = 0
    words[generator.random(shape) < 0.1] = ~np.uint64(0)
    return words


def random_rescalers(seed, *shape):
    found = 2.0 ** np.random.default_rng(seed).uniform(-10, 10, shape)
    return found.astype(np.float32).astype(np.float64)


@given(cases, st.booleans())
def test_elect_is_the_same(case, with_new_task):
    kind, seed, tasks, segments, words = case
    old, new = (working(kind, seed + i, segments, words) for i in range(2))
    masks = random_words(seed, tasks, segments, words)
    rescalers = random_rescalers(seed, tasks, segments)
    results = []
    for loops in (vectorised, compiled):
        merged = np.full_like(old, np.nan)
        out = np.full((tasks + with_new_task, segments, words), 77, dtype=np.uint64)
        loops.elect(old, new, masks, rescalers, merged, out)
        results.append((merged, out))
    assert all(same_bits(one, other) for one, other in zip(*results, strict=True))
    assert not np.signbit(results[0][0][results[0][0] == 0]).any()


@given(cases)
def test_norms_are_the_same(case):
    kind, seed, tasks, segments, words = case
    values = working(kind, seed, segments, words)
    masks = random_words(seed, tasks, segments, words)
    found = [np.full((tasks, segments), np.nan) for _ in range(2)]
    vectorised.norms(values, masks, found[0])
    compiled.norms(values, masks, found[1])
    assert same_bits(*found)
    bits = np.unpackbits(masks.view(np.uint8), axis=2, bitorder="little")
    wanted = (bits * np.abs(values.astype(np.float64))).sum(axis=2)
    assert np.allclose(found[0], wanted, rtol=1e-13, atol=0)


@given(cases)
def test_moved_is_the_same(case):
    kind, seed, tasks, segments, words = case
    old, new = (working(kind, seed + i, segments, words) for i in range(2))
    masks = [random_words(seed + i, tasks, segments, words) for i in range(2)]
    rescalers = [random_rescalers(seed + i, tasks, segments) for i in range(2)]
    found = [np.full((tasks, segments), np.nan) for _ in range(2)]
    vectorised.moved(old, new, *masks, *rescalers, found[0])
    compiled.moved(old, new, *masks, *rescalers, found[1])
    assert same_bits(*found)


@given(cases)
def test_add_expert_is_the_same(case):
    kind, seed, _, segments, words = case
    base, unified = (working(kind, seed + i, segments, words) for i in range(2))
    mask, rescalers = random_words(seed, segments, words), random_rescalers(seed, segments)
    found = [np.full_like(base, np.nan) for _ in range(2)]
    vectorised.add_expert(base, unified, mask, rescalers, found[0])
    compiled.add_expert(base, unified, mask, rescalers, found[1])
    assert same_bits(*found)


@given(cases)
def test_largest_is_the_same(case):
    _, seed, tasks, segments, words = case
    masks = random_words(seed, tasks, segments, words)
    rescalers = random_rescalers(seed, tasks, segments)
    found = [np.full((segments, words * 64), np.nan, np.float32) for _ in range(2)]
    vectorised.largest(masks, rescalers, found[0])
    compiled.largest(masks, rescalers, found[1])
    assert same_bits(*found)
    bits = np.unpackbits(masks.view(np.uint8), axis=2, bitorder="little")
    wanted = (bits * rescalers[..., None]).max(axis=0, initial=0)
    assert np.array_equal(found[0], wanted)


@pytest.mark.parametrize("name", ["elect", "norms", "moved", "largest", "add_expert"])
def test_the_loops_have_the_same_arguments(name):
    assert arguments(getattr(compiled, name).py_func) == arguments(getattr(vectorised, name))


def arguments(function):
    return function.__code__.co_varnames[: function.__code__.co_argcount]


def test_where_nothing_can_be_cached_the_loops_are_compiled_without(monkeypatch):
    real, asked = numba.njit, []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    try:
        importlib.reload(compiled)
        assert {options.get("cache", False) for options in asked} == {True, False}
        assert compiled.norms.py_func is not None
    finally:
        monkeypatch.undo()
        importlib.reload(compiled)
