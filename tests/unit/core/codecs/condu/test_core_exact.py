"""Parameters that every task keeps exactly, beside what is merged."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import (
    DTYPES,
    GRANULARITIES,
    LazyTensors,
    drift,
    flat,
    named,
    problems,
    same_bits,
    trimmed,
    usual,
)

from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.condu.exact import selected
from condu_cli.core.codecs.interface import EMPTY, EncodedState, UnknownCodecError
from condu_cli.core.merging.checks import check_delta

LAYOUT = ParameterLayout(
    ("conv", "depth", "bias", "w", "scale", "end"),
    ((4, 3, 2, 2), (6, 1, 3, 3), (7,), (9, 11), (), (5, 8)),
)
SMALL = ("depth", "bias", "scale")
WORDS = "vectors,depthwise,end"
EXACT = (*SMALL, "end")
EVERYTHING = ",".join(LAYOUT.names)
OPTIONS = [
    {"dtype": dtype, "rescaler": granularity, "exact": WORDS, "trim": trim}
    for (dtype, granularity), trim in zip(
        product(DTYPES, GRANULARITIES), ("0", "0.5") * 5, strict=False
    )
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))


def delta(seed, layout=LAYOUT):
    return named(layout, usual(seed, layout.count))


def encoded(codec, *seeds):
    state = EMPTY
    for seed in seeds:
        state = codec.encode(state, delta(seed, codec.layout))
    return state


def merged(options):
    """The same codec of what is not exact."""
    layout = LAYOUT.restricted_to(set(LAYOUT.names) - set(EXACT))
    return ConduCodec(layout, {**options, "exact": ""})


def decoded(codec, state, place):
    return dict(codec.decode(state.shared, state.parts[place]))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(same_bits(found[name], wanted[name]) for name in wanted)


# What is exact


def test_words_select_parameters_by_shape_or_name():
    assert selected(LAYOUT, "") == set()
    assert selected(LAYOUT, "vectors") == {"bias", "scale"}
    assert selected(LAYOUT, "depthwise") == {"depth"}
    assert selected(LAYOUT, "vectors,depthwise") == set(SMALL)
    assert selected(LAYOUT, "end,vectors") == {"end", "bias", "scale"}
    columns = ParameterLayout(("column", "long"), ((9, 1), (4, 1, 3)))
    assert selected(columns, "depthwise") == {"long"}  # a matrix of one column is none


@pytest.mark.parametrize("words", ["biases", "vectors, depthwise", "vectors,missing"])
def test_a_word_that_selects_nothing_known_is_refused(words):
    with pytest.raises(UnknownCodecError, match="nor the name of a parameter"):
        ConduCodec(LAYOUT, {"exact": words})


@each_option
def test_exact_parameters_come_back_bit_for_bit_and_leave_the_others_alone(options):
    codec, rest = ConduCodec(LAYOUT, options), merged(options)
    state, other = encoded(codec, 1, 2, 3), EMPTY
    for seed in (1, 2, 3):
        other = rest.encode(other, {name: delta(seed)[name] for name in rest.layout.names})
    assert_same(state.shared, other.shared)
    for place, seed in enumerate((1, 2, 3)):
        found = decoded(codec, state, place)
        assert list(found) == list(LAYOUT.names)
        wanted = decoded(rest, other, place) | {name: delta(seed)[name] for name in EXACT}
        assert_same(found, {name: wanted[name] for name in LAYOUT.names})


@each_option
def test_the_arrays_of_a_part(options):
    part = encoded(ConduCodec(LAYOUT, options), 1).parts[0]
    own = {name: array for name, array in part.items() if name.startswith("exact/")}
    assert set(own) == {f"exact/{name}" for name in EXACT}
    assert_same(own, {f"exact/{name}": delta(1)[name] for name in EXACT})
    plain = encoded(ConduCodec(LAYOUT, {**options, "exact": ""}), 1).parts[0]
    assert set(part) - set(own) == set(plain)


@given(problems())
def test_with_everything_exact_every_task_comes_back_bit_for_bit(problem):
    layout, deltas = problem
    codec = ConduCodec(layout, {"rescaler": "row", "exact": ",".join(layout.names)})
    states = [EMPTY]
    for values in deltas:
        states.append(codec.encode(states[-1], named(layout, values)))
    for part, values in zip(states[-1].parts, deltas, strict=True):
        found = dict(codec.decode(states[-1].shared, part))
        assert same_bits(flat(layout, found), values)
    assert codec.drifts(states[1], states[-1]) == [0.0]
    assert codec.overlaps(states[1], states[-1]) == [1.0]
    norms = [record["l1_norm"] for record in codec.describe(states[-1])]
    assert norms == pytest.approx([np.abs(v.astype(np.float64)).sum() for v in deltas])
    patch = codec.difference(states[-1], states[1], [0])
    back = codec.restore(states[-1], patch)
    assert_same(back.parts[0], states[1].parts[0])
    left = codec.remove(states[-1], len(deltas) - 1)
    assert len(left.parts) == len(deltas) - 1


@given(problems(max_tasks=1))
def test_the_only_task_comes_back_as_its_trimmed_self(problem):
    layout, (values,) = problem
    codec = ConduCodec(layout, {"rescaler": "row", "exact": "vectors", "trim": "0.5"})
    state = codec.encode(EMPTY, named(layout, values))
    found, wanted = decoded(codec, state, 0), named(layout, trimmed(layout, values, 0.5))
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        if len(shape) <= 1:
            assert same_bits(found[name], named(layout, values)[name])
        else:
            assert same_bits(found[name], wanted[name] + np.float32(0))


def test_a_state_does_not_change_with_the_arrays_of_the_caller():
    codec, values = ConduCodec(LAYOUT, {"exact": WORDS}), delta(1)
    state = codec.encode(EMPTY, values)
    for array in values.values():
        array[...] = 7
    assert same_bits(decoded(codec, state, 0)["bias"], delta(1)["bias"])


def test_deltas_and_parts_are_fetched_once():
    codec = ConduCodec(LAYOUT, OPTIONS[0])
    lazy = LazyTensors(delta(3))
    state = encoded(codec, 1, 2)
    parts = [LazyTensors(part) for part in state.parts]
    newer = codec.encode(EncodedState(state.shared, parts), lazy)
    assert set(lazy.reads.values()) == {1}
    assert {reads for part in parts for reads in part.reads.values()} == {1}
    for use in (codec.describe, lambda s: codec.difference(newer, s, [0, None])):
        parts = [LazyTensors(part) for part in state.parts]
        use(EncodedState(state.shared, parts))
        assert {reads for part in parts for reads in part.reads.values()} == {1}


def test_torch_tensors_are_encoded_like_arrays():
    codec = ConduCodec(LAYOUT, OPTIONS[1])
    tensors = {name: torch.from_numpy(array) for name, array in delta(1).items()}
    for given_delta in (tensors, check_delta(LAYOUT, tensors)):
        found = codec.encode(EMPTY, given_delta)
        wanted = encoded(codec, 1)
        assert_same(found.shared, wanted.shared)
        assert all(isinstance(array, np.ndarray) for array in found.parts[0].values())
        exact = {name: found.parts[0][name] for name in found.parts[0] if "exact/" in name}
        assert_same(exact, {name: wanted.parts[0][name] for name in exact})


# Figures


@each_option
def test_records_count_exact_parameters(options):
    codec, rest = ConduCodec(LAYOUT, options), merged(options)
    state, other = encoded(codec, 1, 2), EMPTY
    for seed in (1, 2):
        other = rest.encode(other, {name: delta(seed)[name] for name in rest.layout.names})
    inner = rest.describe(other)
    for place, record in enumerate(codec.describe(state)):
        values = flat(LAYOUT, decoded(codec, state, place))
        assert list(record) == ["rescaler", "mask_density", "l1_norm"]
        assert record["rescaler"] == inner[place]["rescaler"]
        assert record["mask_density"] == np.count_nonzero(values) / LAYOUT.count
        assert record["l1_norm"] == pytest.approx(np.abs(values).sum(dtype=np.float64), rel=1e-6)


@each_option
def test_drifts_and_overlaps_are_those_of_the_decoded_experts(options):
    codec = ConduCodec(LAYOUT, options)
    before, after = encoded(codec, 1, 2), encoded(codec, 1, 2, 3)
    for place, (moved, kept) in enumerate(
        zip(codec.drifts(before, after), codec.overlaps(before, after), strict=True)
    ):
        old, new = (decoded(codec, state, place) for state in (before, after))
        assert moved == pytest.approx(drift(old.items(), new.items()), rel=1e-6)
        both = [(old[name] != 0, new[name] != 0) for name in LAYOUT.names]
        shared = sum(np.count_nonzero(a & b) for a, b in both)
        assert kept == shared / sum(np.count_nonzero(a | b) for a, b in both)
    swapped = EncodedState(before.shared, before.parts[::-1])
    wanted = drift(decoded(codec, before, 0).items(), decoded(codec, before, 1).items())
    assert codec.drifts(before, swapped)[0] == pytest.approx(wanted, rel=1e-6)


# Out of the state


@each_option
def test_weights_are_base_plus_delta(options):
    codec = ConduCodec(LAYOUT, options)
    state, base = encoded(codec, 1, 2), delta(9)
    for convert in (np.array, torch.tensor):
        targets = [{n: convert(np.full_like(a, np.nan)) for n, a in base.items()} for _ in range(2)]
        pristine = {name: convert(array) for name, array in base.items()}
        codec.decode_into(state.shared, pristine, state.parts, targets)
        for place, weights in enumerate(targets):
            for name, values in decoded(codec, state, place).items():
                assert same_bits(np.asarray(weights[name]), base[name] + values)


@pytest.mark.parametrize(
    ("base", "weights", "parameter"),
    [
        ({"bias": None}, {}, "bias"),
        ({}, {"bias": np.zeros(8, np.float32)}, "bias"),
        ({}, {"depth": np.zeros((6, 1, 3, 3))}, "depth"),
        ({"z": np.zeros(1, np.float32)}, {}, "z"),
    ],
)
def test_nothing_is_written_where_weights_do_not_fit(base, weights, parameter):
    codec = ConduCodec(LAYOUT, OPTIONS[0])
    state = encoded(codec, 1)

    def changed(changes):
        found = {name: np.zeros_like(array) for name, array in delta(1).items()} | changes
        return {name: array for name, array in found.items() if array is not None}

    target = changed(weights)
    with pytest.raises(InvalidDeltaError) as caught:
        codec.decode_into(state.shared, changed(base), state.parts, [target])
    assert caught.value.parameter == parameter
    assert not any(array.any() for array in target.values())


@each_option
def test_removing_an_expert_keeps_the_others_exact(options):
    codec = ConduCodec(LAYOUT, options)
    left = codec.remove(encoded(codec, 1, 2, 3), 1)
    assert len(left.parts) == 2
    for place, seed in enumerate((1, 3)):
        found = decoded(codec, left, place)
        assert all(same_bits(found[name], delta(seed)[name]) for name in EXACT)


# Reverse patches


@each_option
def test_a_patch_costs_nothing_for_exact_arrays_that_the_newer_state_has(options):
    codec = ConduCodec(LAYOUT, options)
    older, newer = encoded(codec, 1, 2), encoded(codec, 1, 2, 3)
    patch = codec.difference(newer, older, [0, 1])
    assert not [name for name in patch if "exact/" in name]
    back = codec.restore(newer, patch)
    assert_same(back.shared, older.shared)
    for found, wanted in zip(back.parts, older.parts, strict=True):
        assert_same(found, wanted)


@each_option
@pytest.mark.parametrize("pairs", [[None, 1], [1, 0], [None, None], [2, None]])
def test_a_patch_restores_exact_arrays_that_the_newer_state_lacks(options, pairs):
    codec = ConduCodec(LAYOUT, options)
    older, newer = encoded(codec, 1, 2), encoded(codec, 1, 2, 3)
    older.parts[0]["exact/bias"][:2] = (-0.0, 2.0**-149)
    patch = codec.difference(newer, older, pairs)
    assert f"part/{pairs.index(None) if None in pairs else 0}/exact/end" in patch
    back = codec.restore(newer, LazyTensors(patch))
    for found, wanted in zip(back.parts, older.parts, strict=True):
        assert_same(found, wanted)
    assert all(codec.describe(EncodedState(older.shared, [part])) for part in back.parts)


def test_a_state_is_restored_from_nothing():
    codec = ConduCodec(LAYOUT, OPTIONS[0])
    older = encoded(codec, 1)
    back = codec.restore(EMPTY, codec.difference(EMPTY, older, [None]))
    assert_same(back.parts[0], older.parts[0])


def test_a_corrupt_patch_is_refused_by_name():
    codec = ConduCodec(LAYOUT, OPTIONS[0])
    older, newer = encoded(codec, 1), encoded(codec, 1, 2)
    patch = codec.difference(newer, older, [None])
    name = "part/0/exact/bias"
    for changed, tensor, reason in [
        ({n: a for n, a in patch.items() if n != name}, name, "is missing"),
        ({**patch, name: patch[name][:-1]}, name, "is not as long as its pieces"),
        ({**patch, name: patch["part/0/exact/end"]}, name, "stands for 160 bytes, not 28"),
        ({**patch, "part/0/exact/w": patch[name]}, "part/0/exact/w", "is not part of this patch"),
        ({**patch, "part/7/exact/w": patch[name]}, "part/7/exact/w", "is not part of this patch"),
    ]:
        with pytest.raises(InvalidStateError, match=reason) as caught:
            codec.restore(newer, changed)
        assert caught.value.tensor == tensor


# What is refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exact/bias": None}, "is missing"),
        ({"exact/bias": np.zeros(8, np.float32)}, r"has shape \(8,\), not \(7,\)"),
        ({"exact/bias": np.zeros(7)}, "has dtype float64"),
        ({"exact/bias": np.full(7, np.nan, np.float32)}, "holds NaN or infinity"),
        ({"exact/bias": np.full(7, -np.inf, np.float32)}, "holds NaN or infinity"),
        ({"exact/w": np.zeros((9, 11), np.float32)}, "is not kept exactly in this registry"),
        ({"exact/other": np.zeros(1, np.float32)}, "is not kept exactly in this registry"),
    ],
)
def test_a_corrupt_exact_array_is_refused_by_name(change, reason):
    codec = ConduCodec(LAYOUT, OPTIONS[0])
    state, (name,) = encoded(codec, 1, 2), change
    part = {n: a for n, a in {**state.parts[1], **change}.items() if a is not None}
    broken = EncodedState(state.shared, [state.parts[0], part])
    uses = [
        codec.describe,
        lambda s: codec.encode(s, delta(3)),
        lambda s: codec.remove(s, 0),
        lambda s: codec.drifts(s, state),
        lambda s: codec.drifts(state, s),
        lambda s: codec.overlaps(state, s),
        lambda s: codec.difference(s, state, [0, 1]),
        lambda s: codec.difference(state, s, [0, 1]),
        lambda s: codec.decode(s.shared, s.parts[1]),
        lambda s: codec.decode_into(s.shared, delta(1), [s.parts[1]], [delta(1)]),
    ]
    for use in uses:
        with pytest.raises(InvalidStateError, match=reason) as caught:
            use(broken)
        assert caught.value.tensor.endswith(name)


def test_exact_arrays_where_nothing_is_exact_are_refused():
    part = {**encoded(ConduCodec(LAYOUT), 1).parts[0], "exact/bias": delta(1)["bias"]}
    with pytest.raises(InvalidStateError, match="is not kept exactly in this registry"):
        ConduCodec(LAYOUT).decode(encoded(ConduCodec(LAYOUT), 1).shared, part)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": None}, "is missing"),
        ({"bias": np.zeros(8, np.float32)}, "has shape"),
        ({"bias": np.full(7, np.nan, np.float32)}, "holds NaN or infinity"),
        ({"bias": np.full(7, 1e21, np.float32)}, r"holds a value beyond 1e\+20"),
        ({"extra": np.zeros(1, np.float32)}, "is not a trainable parameter"),
    ],
)
def test_a_bad_delta_is_refused_by_name(change, reason):
    values = {n: a for n, a in {**delta(1), **change}.items() if a is not None}
    with pytest.raises(InvalidDeltaError, match=reason) as caught:
        ConduCodec(LAYOUT, OPTIONS[0]).encode(EMPTY, values)
    assert caught.value.parameter in change
