"""What can be done with any codec's experts, where the codec has no way of its own."""

import math

import numpy as np
import pytest
import torch
from strategies import flat, named, same_bits, usual
from thirty_line_codec import PlainCodec

from condu_cli.core.arrays.layout import InvalidDeltaError, ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.interface import EMPTY
from condu_cli.core.codecs.operations import (
    decode_into,
    drift,
    drifts,
    overlaps,
    prepare,
    same_code,
)

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))
PLAIN = PlainCodec(LAYOUT, {})
CONDU = ConduCodec(LAYOUT, {"rescaler": "row"})
BASE = named(LAYOUT, usual(9, LAYOUT.count))


def encoded(codec, *seeds):
    state = EMPTY
    for seed in seeds:
        state = codec.encode(state, named(LAYOUT, usual(seed, LAYOUT.count)))
    return state


def nothing_yet():
    return named(LAYOUT, np.full(LAYOUT.count, np.nan, np.float32))


def test_codecs_are_the_same_code_by_name_and_options():
    assert same_code(CONDU, ConduCodec(LAYOUT, {"dtype": "float32", "rescaler": "row"}))
    assert not same_code(CONDU, ConduCodec(LAYOUT))
    assert not same_code(CONDU, PLAIN)


@pytest.mark.parametrize("codec", [PLAIN, CONDU], ids=lambda codec: codec.name)
def test_weights_are_base_plus_delta(codec):
    state, weights = encoded(codec, 1, 2), [nothing_yet(), nothing_yet()]
    decode_into(codec, state.shared, BASE, state.parts, weights)
    for part, model in zip(state.parts, weights, strict=True):
        delta = flat(LAYOUT, dict(codec.decode(state.shared, part)))
        assert same_bits(flat(LAYOUT, model), flat(LAYOUT, BASE) + delta)


@pytest.mark.parametrize("codec", [PLAIN, CONDU], ids=lambda codec: codec.name)
def test_weights_may_be_tensors(codec):
    state = encoded(codec, 1)
    base = {name: torch.from_numpy(values) for name, values in BASE.items()}
    weights = {name: torch.full_like(values, math.nan) for name, values in base.items()}
    decode_into(codec, state.shared, base, state.parts, [weights])
    for name, delta in codec.decode(state.shared, state.parts[0]):
        assert torch.equal(weights[name], base[name] + torch.from_numpy(delta))


@pytest.mark.parametrize("codec", [PLAIN, CONDU], ids=lambda codec: codec.name)
def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_written(codec):
    state, weights = encoded(codec, 1, 2), [nothing_yet(), nothing_yet()]
    weights[1]["b"] = np.zeros(8, np.float32)
    with pytest.raises(InvalidDeltaError, match="'b'"):
        decode_into(codec, state.shared, BASE, state.parts, weights)
    assert np.isnan(flat(LAYOUT, weights[0])).all()


def test_drifts_are_measured_by_decoding_where_a_codec_has_no_other_way():
    before, after = encoded(PLAIN, 1, 2), encoded(PLAIN, 1, 3, 4)
    first, second = drifts(PLAIN, before, PLAIN, after)
    assert first == 0.0
    old, new = usual(2, LAYOUT.count), usual(3, LAYOUT.count)
    assert second == pytest.approx(np.abs(new - old).sum() / np.abs(old).sum(), rel=1e-5)


def test_drifts_are_measured_across_codecs():
    condu, plain = encoded(CONDU, 1, 2), EMPTY
    for part in condu.parts:
        plain = PLAIN.encode(plain, dict(CONDU.decode(condu.shared, part)))
    assert drifts(CONDU, condu, PLAIN, plain) == [0.0, 0.0]
    assert drifts(PLAIN, plain, CONDU, condu) == [0.0, 0.0]
    assert drifts(CONDU, condu, CONDU, encoded(CONDU, 1, 2, 3)) == CONDU.drifts(
        condu, encoded(CONDU, 1, 2, 3)
    )


def test_overlaps_are_of_masks_in_one_code():
    condu, plain = encoded(CONDU, 1), encoded(PLAIN, 1)
    assert overlaps(CONDU, condu, CONDU, condu) == [1.0]
    assert overlaps(CONDU, condu, PLAIN, plain) is None
    assert overlaps(PLAIN, plain, PLAIN, plain) is None


def test_a_codec_that_needs_no_preparation_is_left_alone():
    prepare(PLAIN)
    prepare(CONDU)


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
    with pytest.raises(ValueError, match="'a' and 'a'"):
        drift([("a", np.ones(2))], [("a", np.ones(3))])
    with pytest.raises(ValueError, match="shorter"):
        drift([("a", np.ones(2)), ("b", np.ones(2))], [("a", np.ones(2))])
