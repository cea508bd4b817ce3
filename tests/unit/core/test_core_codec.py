"""The codec: experts go in one by one and come out one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import flat, learn_all, named, problems, usual

from condu_cli.core.codec import ConduCodec, EncodedState, UnknownCodecError, codec_by_name
from condu_cli.core.decouple import decouple, drift
from condu_cli.core.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.unify import reunify

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))
CODEC = codec_by_name("condu", LAYOUT)


def encoded(*seeds):
    state = CODEC.empty()
    for seed in seeds:
        state = CODEC.encode(state, named(LAYOUT, usual(seed, LAYOUT.count)))
    return state


@settings(max_examples=30, deadline=None)
@given(problems(max_tasks=1))
def test_the_only_expert_comes_back_exactly(problem):
    layout, (delta,) = problem
    codec = ConduCodec(layout)
    state = codec.encode(codec.empty(), named(layout, delta))
    decoded = dict(codec.decode(state.shared, state.parts[0]))
    assert list(decoded) == list(layout.names)
    assert all(tensor.dtype == np.float32 for tensor in decoded.values())
    assert np.array_equal(flat(layout, decoded), delta)


def test_every_expert_comes_back_as_unify_and_decouple_have_it():
    state = encoded(1, 2, 3)
    plain = learn_all(LAYOUT, [usual(seed, LAYOUT.count) for seed in (1, 2, 3)])
    for part, trigger in zip(state.parts, plain.triggers, strict=True):
        found = flat(LAYOUT, dict(CODEC.decode(state.shared, part)))
        assert np.array_equal(found, flat(LAYOUT, dict(decouple(LAYOUT, plain.unified, trigger))))


def test_the_parts_are_plain_arrays_of_promised_form():
    state = encoded(1, 2)
    assert {n: (t.dtype, t.shape) for n, t in state.shared.items()} == {
        "a": (np.float32, (9, 11)),
        "b": (np.float32, (7,)),
    }
    for part in state.parts:
        assert {n: (t.dtype, t.shape) for n, t in part.items()} == {
            "mask": (np.uint8, (LAYOUT.mask_bytes,)),
            "rescaler": (np.float64, (1,)),
            "l1_norm": (np.float64, (1,)),
        }


def test_describe_agrees_with_the_decoded_expert():
    state = encoded(1, 2)
    for part in state.parts:
        expert = flat(LAYOUT, dict(CODEC.decode(state.shared, part)))
        summary = CODEC.describe(part)
        assert summary.mask_bits == np.count_nonzero(expert)
        assert summary.mask_density == summary.mask_bits / LAYOUT.count
        assert summary.l1_norm == pytest.approx(np.abs(expert).sum(dtype=np.float64), rel=1e-6)
        assert summary.rescaler == part["rescaler"][0]


def test_encode_leaves_the_old_state_as_it_is():
    state = encoded(1)
    before = [array.copy() for array in (*state.shared.values(), *state.parts[0].values())]
    CODEC.encode(state, named(LAYOUT, usual(2, LAYOUT.count)))
    after = [*state.shared.values(), *state.parts[0].values()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_removing_an_expert_unifies_the_others_again():
    state, plain = encoded(1, 2, 3), learn_all(LAYOUT, [usual(s, LAYOUT.count) for s in (1, 2, 3)])
    removed = CODEC.remove(state, 1)
    wanted = reunify(LAYOUT, plain.unified, [plain.triggers[0], plain.triggers[2]])
    assert len(removed.parts) == 2
    assert np.array_equal(flat(LAYOUT, removed.shared), flat(LAYOUT, wanted.unified))
    assert len(state.parts) == 3


def test_removing_the_last_expert_leaves_nothing():
    removed = CODEC.remove(encoded(1), 0)
    assert removed.shared is None
    assert not removed.parts
    for index in (0, -1):
        with pytest.raises(IndexError):
            CODEC.remove(removed, index)


def test_a_bad_delta_is_refused_by_name():
    with pytest.raises(InvalidDeltaError) as caught:
        CODEC.encode(CODEC.empty(), {"a": np.zeros((9, 11), np.float32)})
    assert caught.value.parameter == "b"


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        ({"mask": np.zeros(3, np.uint8)}, "mask"),
        ({"mask": np.zeros(LAYOUT.mask_bytes, np.int64)}, "mask"),
        ({"mask": np.full(LAYOUT.mask_bytes, 255, np.uint8)}, "mask"),
        ({"rescaler": np.array([0.0])}, "rescaler"),
        ({"rescaler": np.array([1.0], np.float32)}, "rescaler"),
        ({"l1_norm": np.array([math.nan])}, "l1_norm"),
        ({"l1_norm": np.array([1, 2])}, "l1_norm"),
        ({"surprise": np.array([1])}, "surprise"),
    ],
)
def test_a_broken_part_is_refused_by_name(change, tensor):
    with pytest.raises(InvalidStateError) as caught:
        CODEC.describe({**encoded(1).parts[0], **change})
    assert caught.value.tensor == tensor


def test_a_broken_state_is_refused_by_name():
    state = encoded(1)
    part = state.parts[0]
    with pytest.raises(InvalidStateError, match="'mask' is missing"):
        CODEC.describe({"rescaler": part["rescaler"]})
    with pytest.raises(InvalidStateError, match="no unified delta"):
        CODEC.decode(None, part)
    with pytest.raises(InvalidStateError, match="'b' is missing"):
        list(CODEC.decode({"a": state.shared["a"]}, part))
    with pytest.raises(InvalidStateError, match="'b' has shape"):
        list(CODEC.decode({**state.shared, "b": np.zeros(8, np.float32)}, part))
    broken = EncodedState(state.shared, [{**part, "mask": part["mask"][:8]}])
    with pytest.raises(InvalidStateError, match=r"tasks\[0\]\.mask"):
        CODEC.encode(broken, named(LAYOUT, usual(2, LAYOUT.count)))


def test_codecs_and_options_are_known_by_name():
    assert CODEC.name == "condu"
    assert codec_by_name("condu", LAYOUT, CODEC.options).options == CODEC.options
    with pytest.raises(UnknownCodecError, match="unknown codec 'zip'; known: condu"):
        codec_by_name("zip", LAYOUT)
    for options in ({"dtype": "int4"}, {"colour": "red"}):
        with pytest.raises(UnknownCodecError, match="has no option"):
            codec_by_name("condu", LAYOUT, options)


# Drift


def test_drift_is_the_relative_l1_change():
    before = [("a", np.array([1.0, -1.0])), ("b", np.array([2.0]))]
    after = [("a", np.array([1.5, 0.0])), ("b", np.array([2.0]))]
    assert drift(before, after) == pytest.approx(1.5 / 4)
    assert drift(before, before) == 0.0


def test_drift_of_an_expert_that_was_zero():
    nothing, something = [("a", np.zeros(2))], [("a", np.ones(2))]
    assert drift(nothing, nothing) == 0.0
    assert drift(nothing, something) == math.inf


def test_drift_refuses_experts_of_different_parameters():
    with pytest.raises(ValueError, match="'a' and 'b'"):
        drift([("a", np.ones(2))], [("b", np.ones(2))])
