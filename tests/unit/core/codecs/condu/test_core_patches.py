"""Reverse patches restore an older state from a newer one, bit for bit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DTYPES,
    GRANULARITIES,
    KERNELS,
    LazyTensors,
    flat_mask,
    methods,
    named,
    problems,
    same_bits,
    usual,
)

from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.condu.entropy import compress, decompress, size_of
from condu_cli.core.codecs.condu.patches import difference, restore
from condu_cli.core.codecs.condu.stored_masks import MASK_NAMES, decode_mask, encode_mask_as
from condu_cli.core.codecs.interface import EMPTY, EncodedState
from condu_cli.core.merging.method import Method
from condu_cli.core.passes.streaming import Execution

LAYOUT = ParameterLayout(("a", "b", "none", "one"), ((9, 11), (70,), (0, 4), ()))
OPTIONS = [{"dtype": d, "rescaler": r} for d, r in product(DTYPES, GRANULARITIES)]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))


def codec_of(method):
    return ConduCodec(method.layout, {"dtype": method.dtype, "rescaler": method.rescaler})


def method_of(codec):
    return Method(codec.layout, codec.options["rescaler"], codec.options["dtype"])


def encoded(codec, deltas):
    state = EMPTY
    for delta in deltas:
        state = codec.encode(state, named(codec.layout, delta))
    return state


def usual_state(codec, *seeds):
    return encoded(codec, [usual(seed, codec.layout.count) for seed in seeds])


def assert_same(one, other):
    assert list(one.shared) == list(other.shared)
    assert len(one.parts) == len(other.parts)
    for first, second in zip([one.shared, *one.parts], [other.shared, *other.parts], strict=True):
        assert set(first) == set(second)
        for name in first:
            assert same_bits(np.asarray(first[name]), np.asarray(second[name])), name


def assert_comes_back(codec, newer, older, pairs):
    patch = codec.difference(newer, older, pairs)
    assert_same(codec.restore(newer, patch), older)
    return patch


def nbytes(*mappings):
    return sum(array.nbytes for arrays in mappings for array in arrays.values())


# Every state is restored from every other one


@given(st.data(), methods)
def test_every_session_is_restored_from_the_next(data, method):
    _, deltas = data.draw(problems(of=st.just(method.layout)))
    codec, state = codec_of(method), None
    for delta in deltas:
        newer = codec.encode(state or EMPTY, named(codec.layout, delta))
        if state is not None:
            assert_comes_back(codec, newer, state, range(len(state.parts)))
        state = newer


@given(st.data(), methods)
def test_a_forgotten_expert_is_restored(data, method):
    _, deltas = data.draw(problems(of=st.just(method.layout)))
    codec = codec_of(method)
    state = encoded(codec, deltas)
    forgotten = data.draw(st.integers(0, len(deltas) - 1))
    pairs = list(range(len(deltas) - 1))
    pairs.insert(forgotten, None)
    assert_comes_back(codec, codec.remove(state, forgotten), state, pairs)


@given(st.data(), methods)
def test_a_state_is_restored_from_an_unrelated_one(data, method):
    codec = codec_of(method)
    older, newer = (
        encoded(codec, data.draw(problems(of=st.just(method.layout)))[1]) for _ in range(2)
    )
    places = data.draw(st.permutations(range(len(newer.parts))))
    pairs = [
        data.draw(st.sampled_from([places[i], None])) if i < len(places) else None
        for i in range(len(older.parts))
    ]
    assert_comes_back(codec, newer, older, pairs)


@each_option
def test_several_sessions_are_undone_at_once_or_one_by_one(options):
    codec = ConduCodec(LAYOUT, options)
    states = [usual_state(codec, *range(1, n)) for n in range(2, 6)]
    assert_comes_back(codec, states[-1], states[0], [0])
    found = states[-1]
    for newer, older in zip(states[:0:-1], states[-2::-1], strict=True):
        patch = codec.difference(newer, older, range(len(older.parts)))
        found = codec.restore(found, patch)
    assert_same(found, states[0])


@each_option
def test_a_state_is_restored_from_itself_and_from_nothing(options):
    codec = ConduCodec(LAYOUT, options)
    state = usual_state(codec, 1, 2, 3)
    for pairs in ([0, 1, 2], [2, 0, 1], [None, 1, None], [None] * 3):
        assert_comes_back(codec, state, state, pairs)
    assert_comes_back(codec, EMPTY, state, [None] * 3)


# Whatever an older state holds


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.sampled_from(GRANULARITIES))
def test_any_bit_patterns_survive(seed, dtype, granularity):
    codec = ConduCodec(LAYOUT, {"dtype": dtype, "rescaler": granularity})
    generator = np.random.default_rng(seed)
    newer, older = usual_state(codec, 1, 2, 3), usual_state(codec, 1, 2)
    for state in (newer, older):
        for array in state.shared.values():
            if generator.random() < 0.7:
                noise = generator.integers(0, 256, array.nbytes, dtype=np.uint8)
                array.reshape(-1).view(np.uint8)[...] = noise
    older.parts[0]["l1_norm"][0] = np.nan
    older.parts[1]["covered_norm"][0] = -0.0
    assert_comes_back(codec, newer, older, [0, 1])


@pytest.mark.parametrize("value", [-0.0, 2.0**-149, -(2.0**-149), np.nan, np.inf, 3e38])
def test_odd_values_survive(value):
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    newer, older = usual_state(codec, 1, 2, 3), usual_state(codec, 1, 2)
    for state in (older, newer):
        state.shared["a"][::2] = value
        assert_comes_back(codec, newer, older, [0, 1])


def with_raw_mask(part, layout=LAYOUT):
    """The same part, its mask as packed bits."""
    rest = {name: array for name, array in part.items() if name not in MASK_NAMES}
    return encode_mask_as(np.asarray(decode_mask(part, layout)), sparse=False) | rest


def first_format(part):
    """A part as the first ones were written: float64, no norm of what it covers."""
    return {
        "mask": with_raw_mask(part)["mask"],
        "rescaler": part["rescaler"].astype(np.float64),
        "l1_norm": part["l1_norm"],
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_the_first_format_are_restored_unchanged(dtype):
    codec = ConduCodec(LAYOUT, {"dtype": dtype, "rescaler": "global"})
    state = usual_state(codec, 1, 2)
    older = EncodedState(state.shared, [first_format(state.parts[0]), state.parts[1]])
    newer = codec.encode(older, named(LAYOUT, usual(3, LAYOUT.count)))
    back = codec.restore(newer, assert_comes_back(codec, newer, older, [0, 1]))
    assert set(back.parts[0]) == {"mask", "rescaler", "l1_norm"}
    assert back.parts[0]["rescaler"].dtype == np.float64
    assert_comes_back(codec, older, older, [0, 1])


SPARSE = ParameterLayout(("embedding", "w"), ((400, 64), (5,)))


def test_masks_are_restored_in_the_form_in_which_they_were_stored():
    codec = ConduCodec(SPARSE, {"rescaler": "row"})
    delta = usual(1, SPARSE.count)
    delta[64 * 20 :] = 0
    state = encoded(codec, [delta, delta])
    assert all("mask_words" in part for part in state.parts)
    raw = with_raw_mask(state.parts[0], SPARSE)
    newer = codec.encode(state, named(SPARSE, usual(2, SPARSE.count)))
    for pairs in ([0, 1], [None, 1], [0, None]):
        for parts in (state.parts, [raw, state.parts[1]], [raw, raw]):
            assert_comes_back(codec, newer, EncodedState(state.shared, parts), pairs)
    sparse = encode_mask_as(np.full(SPARSE.mask_bytes, 0xFF, np.uint8), sparse=True)
    assert set(sparse) == {"mask_words", "mask_index"}  # even where it is larger


# How it is done leaves no trace


@given(st.data(), methods, st.sampled_from([64, 128, 4096]), st.integers(1, 3))
def test_kernels_blocks_and_threads_leave_no_trace(data, method, block_size, threads):
    _, deltas = data.draw(problems(of=st.just(method.layout)))
    codec = codec_of(method)
    newer, older = encoded(codec, deltas), encoded(codec, [*deltas[1:], deltas[0]])
    pairs = list(range(len(deltas)))[::-1]
    wanted = difference(method, newer, older, pairs)
    for kernels in KERNELS:
        way = Execution(block_size, threads, kernels)
        patch = difference(method, newer, older, pairs, way)
        assert list(patch) == list(wanted)
        assert all(same_bits(patch[name], wanted[name]) for name in wanted)
        assert_same(restore(method, newer, wanted, way), older)


def test_every_array_is_fetched_once_and_may_be_read_only():
    codec = ConduCodec(LAYOUT, {"dtype": "int8"})
    newer, older = usual_state(codec, 1, 2, 3), usual_state(codec, 1, 2)
    patch = codec.difference(newer, older, [0, 1])
    mappings = [newer.shared, *newer.parts, older.shared, *older.parts, patch]
    for arrays in mappings:
        for array in arrays.values():
            array.flags.writeable = False
    lazy = LazyTensors(patch)
    assert_same(codec.restore(newer, lazy), older)
    assert set(lazy.reads.values()) == {1}
    states = [
        EncodedState(LazyTensors(s.shared), [LazyTensors(p) for p in s.parts])
        for s in (newer, older)
    ]
    assert list(codec.difference(*states, [0, 1])) == list(patch)
    for arrays in [states[1].shared, *states[1].parts]:
        assert set(arrays.reads.values()) == {1}
    assert max(states[0].shared.reads.values()) == 1


# Size


BIG = ParameterLayout(("table", "w", "b"), ((600, 64), (300, 400), (400,)))


def plausible(seed):
    """A delta similar in direction to others, with some used rows of the embedding."""
    common, own = usual(77, BIG.count), usual(seed, BIG.count)
    delta = common + own
    used = np.random.default_rng(seed).random(600) < 0.05
    delta[: 600 * 64] *= np.repeat(used, 64)
    return delta.astype(np.float32)


@each_option
def test_a_patch_is_much_smaller_than_a_copy(options):
    codec = ConduCodec(BIG, options)
    newer = encoded(codec, [plausible(seed) for seed in range(1, 6)])
    older = encoded(codec, [plausible(seed) for seed in range(1, 5)])
    patch = assert_comes_back(codec, newer, older, range(4))
    # Where an old value is lost, its bits have to be kept.
    assert nbytes(patch) < (0.6 if options["dtype"] == "int8" else 0.4) * nbytes(
        older.shared, *older.parts
    )


def test_a_patch_to_the_same_state_is_next_to_nothing():
    codec = ConduCodec(BIG, {"rescaler": "row"})
    state = encoded(codec, [plausible(1)])
    patch = codec.difference(state, state, [0])
    rescaler = patch.pop("part/0/rescaler").nbytes
    assert nbytes(patch) < nbytes(state.shared) / 100
    assert rescaler < 4 * 901 + 100


# The format


def test_what_a_patch_says():
    layout = ParameterLayout(("w",), ((5,),))
    codec = ConduCodec(layout, {"rescaler": "global"})
    # The second task wins at 1, with the other sign, and at 3, with the same sign.
    older = encoded(codec, [np.array([1, 2, -3, -4, 0], np.float32)])
    newer = codec.encode(older, {"w": np.array([0, -9, 0, -9, 0], np.float32)})
    patch = codec.difference(newer, older, [0])
    assert {
        name: patch[name].tolist() for name in ("version", "pairs", "sparse", "everywhere")
    } == {
        "version": [1],
        "pairs": [0],
        "sparse": [0],
        "everywhere": [0],
    }
    said = {
        name: decompress(patch[name], name, size_of(patch[name], name)).tolist()
        for name in patch
        if patch[name].dtype == np.uint8 and name not in ("sparse", "everywhere")
    }
    assert said == {
        "changed": [1],  # of the candidates, which is element 1 alone
        "part/0/mask": [1],
        "part/0/rescaler": [0, 0, 0x80, 0x3F],
        "symbols/fresh": [0b1111],  # elements 1 and 3
        "symbols/rest": [0],  # elements 0, 2 and 4
        "values": [0, 0, 0, 0, 0, 0x80, 0x40, 0x40],  # 2.0, and 4.0 for -4.0
    }
    assert patch["part/0/l1_norm"].tolist() == older.parts[0]["l1_norm"].tolist()


def test_what_does_not_look_like_learning_may_change_masks_everywhere():
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    deltas = usual(1, LAYOUT.count) * (np.arange(LAYOUT.count) % 2), usual(2, LAYOUT.count)
    older, newer = (encoded(codec, [delta.astype(np.float32)]) for delta in deltas)
    assert codec.difference(newer, older, [0])["everywhere"].tolist() == [1]
    assert codec.difference(newer, older, [None])["everywhere"].tolist() == [0]


# What cannot be asked for


def test_the_empty_state_needs_no_patch():
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    with pytest.raises(ValueError, match="the empty state needs no patch"):
        codec.difference(usual_state(codec, 1), EMPTY, [])


@pytest.mark.parametrize("pairs", [[], [0], [0, 1, 2], [0, 3], [0, 0], [-1, 0], [0, -2]])
def test_pairs_are_different_places_in_the_newer_state(pairs):
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    states = usual_state(codec, 1, 2, 3), usual_state(codec, 1, 2)
    with pytest.raises(ValueError, match="these are not pairs of 2 parts"):
        codec.difference(*states, pairs)


# Broken patches


def small_case(**options):
    codec = ConduCodec(LAYOUT, {"dtype": "int8", "rescaler": "row", **options})
    newer = codec.encode(usual_state(codec, 1, 2), named(LAYOUT, usual(3, LAYOUT.count)))
    older = usual_state(codec, 1, 2)
    return codec, newer, older, codec.difference(newer, older, [0, None])


CODEC, NEWER, OLDER, PATCH = small_case()
STREAMS = [n for n in PATCH if PATCH[n].dtype == np.uint8 and n not in ("sparse", "everywhere")]


def refused(**changes):
    patch = {name: array for name, array in (PATCH | changes).items() if array is not None}
    with pytest.raises(InvalidStateError) as caught:
        CODEC.restore(NEWER, patch)
    return caught.value


def test_the_unmodified_patch_is_fine():
    assert_same(CODEC.restore(NEWER, PATCH), OLDER)


@pytest.mark.parametrize("name", sorted(PATCH))
def test_a_missing_array_is_named(name):
    error = refused(**{name: None})
    assert error.tensor == name
    assert "is missing" in str(error)


@pytest.mark.parametrize("name", ["other", "part/2/mask", "part/0/other", "scale/a", "a"])
def test_an_array_too_many_is_named(name):
    assert refused(**{name: np.zeros(3, np.uint8)}).tensor == name


@pytest.mark.parametrize("name", sorted(PATCH))
def test_an_array_of_another_form_is_named(name):
    array = PATCH[name]
    for broken in (
        array.astype(np.int16),
        array.astype(np.float32),
        array.reshape(1, -1),
        np.concatenate([array, array]),
        array[:-1],
        array[:0],
        np.array(3, array.dtype),
    ):
        found = refused(**{name: broken}).tensor
        # A shorter or longer list of pairs refers to other parts.
        assert found == name or (name == "pairs" and found.startswith("part/")), broken


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_of_another_length_is_named(name):
    size = size_of(PATCH[name], name)
    data = decompress(PATCH[name], name, size)
    for broken in (np.append(data, data[:1]), np.append(data, [0, 0]), data[:-1], data[:0]):
        if broken.size == size:
            continue
        found = refused(**{name: compress(broken.astype(np.uint8))})
        assert found.tensor == name
    huge = PATCH[name].copy()
    huge[:8] = 0xFF
    assert refused(**{name: huge}).tensor == name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("version", [0]),
        ("version", [2]),
        ("pairs", [3, -1]),
        ("pairs", [-2, -1]),
        ("pairs", [1, 1]),
        ("pairs", [2**62, -1]),
        ("sparse", [2, 0]),
        ("everywhere", [255]),
    ],
)
def test_a_number_that_means_nothing_is_named(name, content):
    assert refused(**{name: np.array(content, PATCH[name].dtype)}).tensor == name


def test_a_patch_without_parts_is_refused():
    patch = {name: array for name, array in PATCH.items() if not name.startswith("part/")}
    patch |= {"pairs": np.zeros(0, np.int64), "sparse": np.zeros(0, np.uint8)}
    with pytest.raises(InvalidStateError, match="'pairs' holds no places"):
        CODEC.restore(NEWER, patch)


def test_an_absurd_number_of_parts_is_refused_at_once():
    assert refused(pairs=np.full(10**6, -1)).tensor.startswith("part/")


def test_padding_bits_of_a_mask_are_named():
    name = "part/1/mask"  # has no pair: whole
    assert refused(**{name: compress(np.full(LAYOUT.mask_bytes, 0xFF, np.uint8))}).tensor == name


def test_symbols_beyond_the_last_one_are_named():
    for name in ("symbols/fresh", "symbols/rest"):
        data = decompress(PATCH[name], name, size_of(PATCH[name], name)).copy()
        data[-1] |= 0xC0
        assert refused(**{name: compress(data)}).tensor in (name, "values")


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e-40])
def test_an_invalid_rescaler_is_named(value):
    groups = method_of(CODEC).groups.count
    for dtype in (np.float32, np.float64):
        numbers = np.full(groups, value, dtype)
        planes = numbers.view(np.uint8).reshape(groups, -1).T.copy()
        assert refused(**{"part/0/rescaler": compress(planes)}).tensor == "part/0/rescaler"


def test_a_patch_for_another_state_is_refused_or_gives_a_state():
    codec = CODEC
    for newer in (OLDER, usual_state(codec, 4, 5, 6), EMPTY):
        try:
            restored = codec.restore(newer, PATCH)
        except InvalidStateError:
            continue
        assert_well_formed(codec, restored)


def assert_well_formed(codec, state):
    """Everything except the shared values, which a patch cannot check."""
    forms = method_of(codec).storage.arrays(codec.layout)
    assert {n: (a.dtype, a.shape) for n, a in state.shared.items()} == forms
    for part in state.parts:
        mask = np.asarray(decode_mask(part, codec.layout))
        assert flat_mask(codec.layout, mask).size == codec.layout.count


@given(st.sampled_from(sorted(PATCH)), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_flipped_bits_are_refused_or_give_a_state(name, seed, flips):
    generator = np.random.default_rng(seed)
    array = PATCH[name].copy()
    if generator.random() < 0.5 and name in STREAMS:  # what the stream stands for
        data = decompress(array, name, size_of(array, name)).copy()
        flip(generator, data, flips)
        array = compress(data)
    else:
        flip(generator, array.view(np.uint8), flips)
    try:
        restored = CODEC.restore(NEWER, PATCH | {name: array})
    except InvalidStateError as error:
        assert error.tensor in PATCH or error.tensor.startswith("part/")  # noqa: PT017
    else:
        assert_well_formed(CODEC, restored)


def flip(generator, data, flips):
    if data.size:
        places = generator.integers(0, data.size, flips)
        data[places] ^= generator.integers(1, 256, flips).astype(np.uint8)


# Broken states


@pytest.mark.parametrize("which", [0, 1])
def test_a_broken_state_is_named(which):
    def broken(state, **changes):
        part = with_raw_mask(state.parts[0]) | changes
        return EncodedState(state.shared, [part, *state.parts[1:]])

    changes = [
        ("mask", PATCH["version"]),
        ("rescaler", np.zeros(method_of(CODEC).groups.count, np.float32)),
    ]
    if which:  # of the newer state only masks matter
        changes.append(("l1_norm", np.zeros(2)))
    for name, array in changes:
        states = [NEWER, OLDER]
        states[which] = broken(states[which], **{name: array})
        with pytest.raises(InvalidStateError) as caught:
            CODEC.difference(*states, [0, 1])
        assert caught.value.tensor == f"tasks[0].{name}"
    with pytest.raises(InvalidStateError, match="no unified delta"):
        CODEC.restore(EncodedState(None, NEWER.parts), PATCH)


# Overlaps


def test_overlaps_compare_masks_place_by_place():
    layout = ParameterLayout(("w",), ((5,),))
    codec = ConduCodec(layout, {"rescaler": "row"})
    older = encoded(codec, [np.array([1, 2, -3, 4, 0], np.float32)])
    newer = codec.encode(older, {"w": np.array([0, -9, 0, 9, 0], np.float32)})
    assert codec.overlaps(older, newer) == [3 / 4]
    assert codec.overlaps(newer, older) == [3 / 4]
    assert codec.overlaps(newer, newer) == [1.0, 1.0]
    assert codec.overlaps(EMPTY, newer) == []


def test_two_empty_masks_overlap():
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    zeros = encoded(codec, [np.zeros(LAYOUT.count, np.float32)])
    assert codec.overlaps(zeros, zeros) == [1.0]
    assert codec.overlaps(zeros, usual_state(codec, 1)) == [0.0]


def test_overlaps_read_both_forms_of_a_mask_and_name_a_broken_one():
    codec = ConduCodec(SPARSE, {"rescaler": "row"})
    delta = usual(1, SPARSE.count)
    delta[64 * 20 :] = 0
    sparse, full = encoded(codec, [delta]), usual_state(codec, 1)
    assert codec.overlaps(sparse, full) == [(64 * 20) / SPARSE.count]
    broken = dict(full.parts[0]) | {"mask": np.zeros(3, np.uint8)}
    with pytest.raises(InvalidStateError) as caught:
        codec.overlaps(sparse, EncodedState(full.shared, [broken]))
    assert caught.value.tensor == "tasks[0].mask"
