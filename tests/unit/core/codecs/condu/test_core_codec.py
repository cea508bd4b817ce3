"""The codec: experts go in one by one and come out one by one."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from strategies import (
    DTYPES,
    GRANULARITIES,
    LazyTensors,
    drift,
    experts,
    flat,
    learn_all,
    named,
    problems,
    same_bits,
    stored_values,
    usual,
)

from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.condu.stored_masks import MASK_ARRAYS, decode_mask
from condu_cli.core.codecs.interface import EMPTY, EncodedState, UnknownCodecError
from condu_cli.core.codecs.known import codec_by_name
from condu_cli.core.merging.masks import count
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.unify import reunify

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))
CODEC = codec_by_name("condu", LAYOUT, {"rescaler": "global"})
OPTIONS = [
    {"dtype": dtype, "rescaler": granularity}
    for dtype, granularity in product(DTYPES, GRANULARITIES)
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))


def method_of(codec):
    return Method(codec.layout, codec.options["rescaler"], codec.options["dtype"])


def encoded(*seeds, codec=CODEC):
    state = EMPTY
    for seed in seeds:
        state = codec.encode(state, named(codec.layout, usual(seed, codec.layout.count)))
    return state


def decoded(codec, state):
    return [flat(codec.layout, dict(codec.decode(state.shared, part))) for part in state.parts]


def plain(codec, *seeds):
    return learn_all(method_of(codec), [usual(seed, codec.layout.count) for seed in seeds])


# Experts in and out


@given(problems(max_tasks=1))
def test_the_only_expert_is_restored_exactly(problem):
    layout, (delta,) = problem
    codec = ConduCodec(layout, {"rescaler": "row"})
    state = codec.encode(EMPTY, named(layout, delta))
    decoded = dict(codec.decode(state.shared, state.parts[0]))
    assert list(decoded) == list(layout.names)
    assert all(tensor.dtype == np.float32 for tensor in decoded.values())
    assert np.array_equal(flat(layout, decoded), delta)


@each_option
def test_every_expert_is_restored_as_unify_and_decouple_compute_it(options):
    codec = ConduCodec(LAYOUT, options)
    state, wanted = encoded(1, 2, 3, codec=codec), plain(codec, 1, 2, 3)
    for found, expert in zip(decoded(codec, state), experts(method_of(codec), wanted), strict=True):
        assert same_bits(found, expert)


@each_option
def test_the_parts_are_plain_arrays_of_promised_form(options):
    codec = ConduCodec(LAYOUT, options)
    state = encoded(1, 2, codec=codec)
    storage = method_of(codec).storage.arrays(LAYOUT)
    assert {n: (t.dtype, t.shape) for n, t in state.shared.items()} == storage
    for part in state.parts:
        assert {n: (t.dtype, t.shape) for n, t in part.items()} == {
            "mask": (np.uint8, (LAYOUT.mask_bytes,)),
            "rescaler": (np.float32, (method_of(codec).groups.count,)),
            "l1_norm": (np.float64, (1,)),
            "covered_norm": (np.float64, (1,)),
        }


SPARSE = ParameterLayout(("embedding", "w"), ((400, 64), (5,)))


def sparse_delta(seed):
    """A few rows of an embedding, and a bias."""
    delta = usual(seed, SPARSE.count)
    delta[64 * 20 : 400 * 64] = 0
    return delta


@each_option
def test_a_mask_is_stored_in_the_smaller_form_and_read_in_both(options):
    codec = ConduCodec(SPARSE, options)
    first = codec.encode(EMPTY, named(SPARSE, sparse_delta(1)))
    second = codec.encode(first, named(SPARSE, usual(2, SPARSE.count)))
    wanted = learn_all(method_of(codec), [sparse_delta(1), usual(2, SPARSE.count)])
    forms = [frozenset(part) & frozenset().union(*MASK_ARRAYS) for part in second.parts]
    assert forms == [frozenset({"mask_words", "mask_index"}), frozenset({"mask"})]
    assert sum(a.nbytes for n, a in second.parts[0].items() if n.startswith("mask")) < 8 * 80
    for part, trigger in zip(second.parts, wanted.triggers, strict=True):
        assert same_bits(np.asarray(decode_mask(part, SPARSE)), trigger.mask)
        (record,) = codec.describe(EncodedState(second.shared, [part]))
        assert record["mask_density"] == count(trigger.mask) / SPARSE.count
    for found, expert in zip(
        decoded(codec, second), experts(method_of(codec), wanted), strict=True
    ):
        assert same_bits(found, expert)
    assert len(codec.remove(second, 1).parts) == 1
    assert codec.drifts(first, second) == pytest.approx(
        [drift(codec.decode(*stored_expert(first, 0)), codec.decode(*stored_expert(second, 0)))],
        rel=1e-6,
    )


def described(shared, part, codec=CODEC):
    (record,) = codec.describe(EncodedState(shared, [part]))
    return record


def stored_expert(state, index):
    return state.shared, state.parts[index]


@each_option
def test_describe_agrees_with_the_decoded_expert(options):
    codec = ConduCodec(LAYOUT, options)
    state = encoded(1, 2, codec=codec)
    values = stored_values(method_of(codec), state.shared)
    for part, record, expert in zip(
        state.parts, codec.describe(state), decoded(codec, state), strict=True
    ):
        assert list(record) == ["rescaler", "mask_density", "l1_norm"]
        assert record["mask_density"] == np.count_nonzero(expert) / LAYOUT.count
        assert record["l1_norm"] == pytest.approx(np.abs(expert).sum(dtype=np.float64), rel=1e-6)
        covered = np.abs(values[expert != 0]).sum(dtype=np.float64)
        assert part["covered_norm"][0] == pytest.approx(covered, rel=1e-6)
        assert record["rescaler"] == pytest.approx(record["l1_norm"] / covered, rel=1e-6)
        if options["rescaler"] == "global":
            assert record["rescaler"] == pytest.approx(float(part["rescaler"][0]), rel=1e-12)


@each_option
def test_an_expert_of_nothing_has_rescaler_one_and_norm_zero(options):
    codec = ConduCodec(LAYOUT, options)
    state = codec.encode(EMPTY, named(LAYOUT, np.zeros(LAYOUT.count, np.float32)))
    assert codec.describe(state) == [{"rescaler": 1.0, "mask_density": 0.0, "l1_norm": 0.0}]
    assert not decoded(codec, state)[0].any()


@each_option
def test_encode_leaves_the_old_state_unchanged(options):
    codec = ConduCodec(LAYOUT, options)
    state = encoded(1, codec=codec)
    before = [array.copy() for array in (*state.shared.values(), *state.parts[0].values())]
    codec.encode(state, named(LAYOUT, usual(2, LAYOUT.count)))
    after = [*state.shared.values(), *state.parts[0].values()]
    assert all(same_bits(a, b) for a, b in zip(before, after, strict=True))


@each_option
def test_the_shared_part_is_fetched_once(options):
    codec = ConduCodec(LAYOUT, options)
    state = encoded(1, 2, codec=codec)
    base = named(LAYOUT, usual(5, LAYOUT.count))

    def fetches(use):
        shared = LazyTensors(state.shared)
        use(EncodedState(shared, state.parts))
        return set(shared.reads.values())

    assert fetches(lambda s: codec.encode(s, named(LAYOUT, usual(3, LAYOUT.count)))) == {1}
    assert fetches(lambda s: codec.remove(s, 0)) == {1}
    assert fetches(lambda s: list(codec.decode(*stored_expert(s, 0)))) == {1}
    assert fetches(lambda s: codec.drifts(s, state)) == {1}
    parts, weights = zip(*targets(state), strict=True)
    assert fetches(lambda s: codec.decode_into(s.shared, base, parts, weights)) == {1}
    assert fetches(codec.describe) == {1}


# Experts out


@each_option
def test_removing_an_expert_unifies_the_others_again(options):
    codec = ConduCodec(LAYOUT, options)
    state, wanted = encoded(1, 2, 3, codec=codec), plain(codec, 1, 2, 3)
    removed = codec.remove(state, 1)
    rest = reunify(method_of(codec), wanted.unified, [wanted.triggers[0], wanted.triggers[2]])
    assert len(removed.parts) == 2
    assert all(same_bits(removed.shared[name], array) for name, array in rest.unified.items())
    for found, expert in zip(decoded(codec, removed), experts(method_of(codec), rest), strict=True):
        assert same_bits(found, expert)
    assert len(state.parts) == 3


def test_removing_the_last_expert_leaves_nothing():
    removed = CODEC.remove(encoded(1), 0)
    assert removed.shared is None
    assert not removed.parts
    for index in (0, -1):
        with pytest.raises(IndexError):
            CODEC.remove(removed, index)


def test_removing_from_a_state_without_its_shared_part_is_refused():
    broken = EncodedState(None, encoded(1, 2, 3).parts)
    with pytest.raises(InvalidStateError, match="no unified delta"):
        CODEC.remove(broken, 0)


# Experts as weights


def targets(state):
    return [
        (part, named(LAYOUT, np.full(LAYOUT.count, np.nan, np.float32))) for part in state.parts
    ]


@each_option
def test_weights_are_base_plus_decoded_delta_for_all_experts_at_once(options):
    codec = ConduCodec(LAYOUT, options)
    state, base = encoded(1, 2, 3, codec=codec), named(LAYOUT, usual(9, LAYOUT.count))
    parts, written = zip(*targets(state), strict=True)
    codec.decode_into(state.shared, base, parts, written)
    for weights, delta in zip(written, decoded(codec, state), strict=True):
        assert same_bits(flat(LAYOUT, weights), flat(LAYOUT, base) + delta)


@pytest.mark.parametrize(
    ("shared", "part", "base", "weights", "error", "name"),
    [
        (None, {}, {}, {}, InvalidStateError, "a"),
        ({"b": None}, {}, {}, {}, InvalidStateError, "b"),
        ({"b": np.zeros(8, np.float32)}, {}, {}, {}, InvalidStateError, "b"),
        ({"z": np.zeros(8, np.float32)}, {}, {}, {}, InvalidStateError, "z"),
        ({}, {"mask": None}, {}, {}, InvalidStateError, "mask"),
        ({}, {"mask": np.zeros(3, np.uint8)}, {}, {}, InvalidStateError, "mask"),
        ({}, {"rescaler": np.zeros(1, np.float32)}, {}, {}, InvalidStateError, "rescaler"),
        ({}, {"rescaler": None}, {}, {}, InvalidStateError, "rescaler"),
        ({}, {}, {"b": None}, {}, InvalidDeltaError, "b"),
        ({}, {}, {"b": np.zeros(8, np.float32)}, {}, InvalidDeltaError, "b"),
        ({}, {}, {"z": np.zeros(8, np.float32)}, {}, InvalidDeltaError, "z"),
        ({}, {}, {}, {"b": None}, InvalidDeltaError, "b"),
        ({}, {}, {}, {"b": np.zeros((7, 1), np.float32)}, InvalidDeltaError, "b"),
        ({}, {}, {}, {"b": np.zeros(7)}, InvalidDeltaError, "b"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(shared, part, base, weights, error, name):
    def changed(arrays, changes):
        return {n: a for n, a in {**arrays, **changes}.items() if a is not None}

    state, right = encoded(1, 2), named(LAYOUT, usual(9, LAYOUT.count))
    (first, first_weights), (last, last_weights) = targets(state)
    last, last_weights = changed(last, part), changed(last_weights, weights)
    with pytest.raises(error) as caught:
        CODEC.decode_into(
            None if shared is None else changed(state.shared, shared),
            changed(right, base),
            [first, last],
            [first_weights, last_weights],
        )
    found = caught.value.tensor if error is InvalidStateError else caught.value.parameter
    assert found.endswith(name)
    for target in (first_weights, last_weights):
        assert all(np.isnan(array).all() or not array.any() for array in target.values())


# How far experts moved


@each_option
def test_drifts_are_those_of_the_decoded_experts(options):
    codec = ConduCodec(LAYOUT, options)
    before = encoded(1, 2, 3, codec=codec)
    after = codec.encode(before, named(LAYOUT, usual(4, LAYOUT.count)))
    wanted = [
        drift(
            codec.decode(*stored_expert(before, index)), codec.decode(*stored_expert(after, index))
        )
        for index in range(3)
    ]
    assert all(wanted)
    assert codec.drifts(before, after) == pytest.approx(wanted, rel=1e-6)
    assert codec.drifts(before, before) == [0.0] * 3


def test_no_drift_without_experts():
    assert CODEC.drifts(EMPTY, encoded(1)) == []
    assert CODEC.drifts(EMPTY, EMPTY) == []


def test_drifts_of_an_expert_that_was_zero():
    nothing = np.zeros(LAYOUT.count, np.float32)
    before = CODEC.encode(EMPTY, named(LAYOUT, nothing))
    after = CODEC.encode(before, named(LAYOUT, usual(1, LAYOUT.count)))
    assert CODEC.drifts(before, after) == [0.0]
    moved = EncodedState(after.shared, [after.parts[1], after.parts[0]])
    assert CODEC.drifts(before, moved) == [math.inf]


@pytest.mark.parametrize("which", [0, 1])
def test_drifts_of_a_broken_state_are_refused_by_name(which):
    def drifts(shared=None, part=None):
        states = [encoded(1, 2), encoded(1, 2, 3)]
        state = states[which]
        first = {**state.parts[0], **(part or {})}
        states[which] = EncodedState({**state.shared, **(shared or {})}, [first, *state.parts[1:]])
        return CODEC.drifts(*states)

    for shared, part, name in [
        ({"b": np.zeros(8, np.float32)}, {}, "b"),
        ({"z": np.zeros(8, np.float32)}, {}, "z"),
        ({}, {"mask": np.zeros(3, np.uint8)}, "tasks[0].mask"),
        ({}, {"surprise": np.zeros(3)}, "tasks[0].surprise"),
    ]:
        with pytest.raises(InvalidStateError) as caught:
            drifts(shared, part)
        assert caught.value.tensor == name
    if which == 0:
        with pytest.raises(InvalidStateError, match="l1_norm' is not a norm"):
            drifts(part={"l1_norm": np.array([math.nan])})
    shared_is_missing = [encoded(1), encoded(1, 2)]
    shared_is_missing[which] = EncodedState(None, shared_is_missing[which].parts)
    with pytest.raises(InvalidStateError, match="no unified delta"):
        CODEC.drifts(*shared_is_missing)


@pytest.mark.parametrize(
    "change",
    [
        {"rescaler": np.array([math.nan], np.float32)},
        {"rescaler": np.array([-1], np.float32)},
        {"mask": np.full(LAYOUT.mask_bytes, 255, np.uint8)},
    ],
)
def test_drifts_of_a_state_with_a_broken_trigger_are_refused_by_name(change):
    before, after = encoded(1), encoded(1, 2)
    broken = EncodedState(after.shared, [{**after.parts[0], **change}, after.parts[1]])
    with pytest.raises(InvalidStateError, match=r"tasks\[0\]"):
        CODEC.drifts(before, broken)


# What is refused


def test_a_bad_delta_is_refused_by_name():
    with pytest.raises(InvalidDeltaError) as caught:
        CODEC.encode(EMPTY, {"a": np.zeros((9, 11), np.float32)})
    assert caught.value.parameter == "b"


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        ({"mask": np.zeros(3, np.uint8)}, "mask"),
        ({"mask": np.zeros(LAYOUT.mask_bytes, np.int64)}, "mask"),
        ({"mask": np.full(LAYOUT.mask_bytes, 255, np.uint8)}, "mask"),
        ({"mask_words": np.zeros(0, np.uint64)}, "mask_words"),
        ({"mask_index": np.zeros(1, np.uint8)}, "mask_index"),
        ({"rescaler": np.array([0.0], np.float32)}, "rescaler"),
        ({"rescaler": np.array([0.0])}, "rescaler"),
        ({"rescaler": np.array([math.nan], np.float32)}, "rescaler"),
        ({"rescaler": np.array([1.0], np.float16)}, "rescaler"),
        ({"rescaler": np.array([1.0, 1.0], np.float32)}, "rescaler"),
        ({"l1_norm": np.array([math.nan])}, "l1_norm"),
        ({"l1_norm": np.array([math.inf])}, "l1_norm"),
        ({"l1_norm": np.array([-1.0])}, "l1_norm"),
        ({"l1_norm": np.array([1, 2])}, "l1_norm"),
        ({"l1_norm": np.array([1], np.float32)}, "l1_norm"),
        ({"covered_norm": np.array([math.nan])}, "covered_norm"),
        ({"covered_norm": np.array([-1.0])}, "covered_norm"),
        ({"covered_norm": np.array([1.0, 2.0])}, "covered_norm"),
        ({"surprise": np.array([1])}, "surprise"),
    ],
)
def test_a_broken_part_is_refused_by_name(change, tensor):
    with pytest.raises(InvalidStateError) as caught:
        described(encoded(1).shared, {**encoded(1).parts[0], **change})
    assert caught.value.tensor == f"tasks[0].{tensor}"


@pytest.mark.parametrize("name", ["mask", "rescaler", "l1_norm"])
def test_a_part_without_an_array_is_refused_by_name(name):
    part = {n: a for n, a in encoded(1).parts[0].items() if n != name}
    with pytest.raises(InvalidStateError, match=rf"'tasks\[0\]\.{name}' is missing"):
        described(encoded(1).shared, part)
    with pytest.raises(InvalidStateError, match=f"'{name}' is missing"):
        CODEC.decode(encoded(1).shared, part)


def test_a_part_of_another_granularity_is_refused():
    state = encoded(1)
    for granularity in ("tensor", "row"):
        codec = ConduCodec(LAYOUT, {"rescaler": granularity})
        with pytest.raises(InvalidStateError, match="'rescaler' is float32"):
            list(codec.decode(state.shared, state.parts[0]))


def test_a_broken_state_is_refused_by_name():
    state = encoded(1)
    part = state.parts[0]
    with pytest.raises(InvalidStateError, match="no unified delta"):
        CODEC.decode(None, part)
    with pytest.raises(InvalidStateError, match="'b' is missing"):
        list(CODEC.decode({"a": state.shared["a"]}, part))
    with pytest.raises(InvalidStateError, match=r"'b' is float32 \(8,\)"):
        list(CODEC.decode({**state.shared, "b": np.zeros(8, np.float32)}, part))
    broken = EncodedState(state.shared, [{**part, "mask": part["mask"][:8]}])
    with pytest.raises(InvalidStateError, match=r"tasks\[0\]\.mask"):
        CODEC.encode(broken, named(LAYOUT, usual(2, LAYOUT.count)))
    with pytest.raises(InvalidStateError, match="triggers without unified delta"):
        CODEC.encode(EncodedState(None, [part]), named(LAYOUT, usual(2, LAYOUT.count)))


# The first format of parts: a float64 rescaler, no covered norm, a raw mask.


def first_written(state):
    return EncodedState(
        state.shared,
        [
            {
                "mask": np.asarray(decode_mask(part, LAYOUT)),
                "rescaler": part["rescaler"].astype(np.float64),
                "l1_norm": part["l1_norm"],
            }
            for part in state.parts
        ],
    )


def test_parts_as_they_were_first_written_are_read_as_ever():
    new = encoded(1, 2)
    old = first_written(new)
    delta = named(LAYOUT, usual(3, LAYOUT.count))
    for one, other in zip(decoded(CODEC, old), decoded(CODEC, new), strict=True):
        assert same_bits(one, other)
    for one, other in zip(old.parts, new.parts, strict=True):
        found, wanted = described(old.shared, one), described(new.shared, other)
        assert found["rescaler"] == pytest.approx(wanted["rescaler"], rel=1e-12)
        assert found["mask_density"] == wanted["mask_density"]
    found, wanted = CODEC.encode(old, delta), CODEC.encode(new, delta)
    for one, other in zip(found.parts, wanted.parts, strict=True):
        assert {n: a.tobytes() for n, a in one.items()} == {
            n: a.tobytes() for n, a in other.items()
        }
    assert CODEC.drifts(old, found) == CODEC.drifts(new, wanted)


# Names and options


def test_codecs_and_options_are_known_by_name():
    assert CODEC.name == "condu"
    assert codec_by_name("condu", LAYOUT, CODEC.options).options == CODEC.options
    for options in OPTIONS:
        found = codec_by_name("condu", LAYOUT, options).options
        assert found == {"exact": "", "trim": "0", **options}
    for options in ({"dtype": "int4"}, {"rescaler": "column"}, {"colour": "red"}):
        with pytest.raises(UnknownCodecError, match="has no option"):
            codec_by_name("condu", LAYOUT, options)


@pytest.mark.parametrize("share", ["", "1", "-0.5", "1.5", "0.", "half", "1/2", "nan", "5e-1"])
def test_a_share_to_trim_is_a_decimal_from_0_to_below_1(share):
    with pytest.raises(UnknownCodecError, match="has no option trim="):
        codec_by_name("condu", LAYOUT, {"trim": share})
    assert codec_by_name("condu", LAYOUT, {"trim": "0.25"}).options["trim"] == "0.25"


@pytest.mark.parametrize("recorded", [{}, {"dtype": "int8"}, {"rescaler": "tensor"}])
def test_an_option_that_a_record_lacks_means_what_it_meant_then(recorded):
    """Float32, one global rescaler, nothing exact or trimmed, whatever the current defaults."""
    wanted = {"dtype": "float32", "rescaler": "global", "exact": "", "trim": "0", **recorded}
    assert codec_by_name("condu", LAYOUT, recorded).options == wanted


def test_no_expert_has_its_own_options():
    with pytest.raises(UnknownCodecError, match="the same options for all experts"):
        CODEC.encode(EMPTY, named(LAYOUT, usual(1, LAYOUT.count)), {"dtype": "int8"})


def test_a_codec_keeps_no_state_and_leaves_options_alone():
    options = {"dtype": "int8"}
    one, other = ConduCodec(LAYOUT, options), ConduCodec(LAYOUT, options)
    state = encoded(1, 2, codec=one)
    assert all(
        same_bits(a, b) for a, b in zip(decoded(one, state), decoded(other, state), strict=True)
    )
    assert options == {"dtype": "int8"}


def test_a_part_of_many_rescalers_needs_its_covered_norm():
    codec = ConduCodec(LAYOUT, {"rescaler": "row"})
    part = dict(encoded(1, codec=codec).parts[0])
    del part["covered_norm"]
    with pytest.raises(InvalidStateError, match=r"covered_norm' is missing"):
        described(encoded(1, codec=codec).shared, part, codec)


@pytest.mark.parametrize("value", [0.1, 1e300])
def test_a_first_rescaler_that_is_not_a_float32_value_is_refused(value):
    part = {**first_written(encoded(1)).parts[0], "rescaler": np.array([value])}
    with pytest.raises(InvalidStateError, match="rescaler' does not hold float32 values"):
        described(encoded(1).shared, part)
