"""A registry's options, and the check of triggers from outside."""

import math
from itertools import product

import numpy as np
import pytest
from strategies import DTYPES, GRANULARITIES, learn_all, usual, vector

from condu_cli.core.arrays.coders import DTYPES as STORAGES
from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.stored_masks import decode_mask, encode_mask
from condu_cli.core.merging.method import Method, Trigger, check_trigger
from condu_cli.core.merging.rescalers import RESCALER_RANGE

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))
MASK = np.zeros(LAYOUT.mask_bytes, dtype=np.uint8)


def test_the_defaults_are_the_papers():
    method = Method(LAYOUT)
    assert (method.rescaler, method.dtype) == ("global", "float32")
    assert method == Method(LAYOUT, "global", "float32")
    assert method != Method(LAYOUT, "row")


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="not 'column'"):
        Method(LAYOUT, "column")
    with pytest.raises(ValueError, match="not 'float16'"):
        Method(LAYOUT, dtype="float16")


@pytest.mark.parametrize(("granularity", "dtype"), list(product(GRANULARITIES, DTYPES)))
def test_a_method_puts_its_choices_together(granularity, dtype):
    method = Method(LAYOUT, granularity, dtype)
    assert method.groups.count == {"global": 1, "tensor": 2, "row": 10}[granularity]
    assert method.storage is STORAGES[dtype]
    assert method.segmentation().by_row == (granularity == "row" or dtype == "int8")
    state = learn_all(method, [usual(1, LAYOUT.count)])
    stored = method.stored(state.unified)
    assert stored.tensor(0).shape == (9, 11)
    check_trigger(method, state.triggers[0])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_triggers_with_dense_and_sparse_masks_pass(granularity):
    method = Method(LAYOUT, granularity)
    count = method.groups.count
    assert "mask" not in encode_mask(MASK)
    for mask in (MASK, decode_mask(encode_mask(MASK), LAYOUT)):
        for value in (1.0, *RESCALER_RANGE):
            check_trigger(method, Trigger(mask, np.full(count, value, np.float32)))


BELOW = np.nextafter(np.float32(RESCALER_RANGE[0]), np.float32(0))
ABOVE = np.nextafter(np.float32(RESCALER_RANGE[1]), np.float32(np.inf))


@pytest.mark.parametrize(
    "value", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 2.0**-149, BELOW, ABOVE]
)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_one_rescaler_outside_the_range_is_refused(granularity, value):
    method = Method(LAYOUT, granularity)
    for position in {0, method.groups.count - 1}:
        rescaler = np.ones(method.groups.count, dtype=np.float32)
        rescaler[position] = value
        with pytest.raises(InvalidStateError, match="positive float32") as caught:
            check_trigger(method, Trigger(MASK, rescaler), "tasks[7].")
        assert caught.value.tensor == "tasks[7].rescaler"


@pytest.mark.parametrize(
    "rescaler",
    [
        np.ones(1, np.float64),
        np.ones(1, np.float16),
        np.ones(2, np.float32),
        np.ones(0, np.float32),
        np.ones((1, 1), np.float32),
        np.ones((), np.float32),
    ],
)
def test_a_rescaler_of_another_form_is_refused(rescaler):
    with pytest.raises(InvalidStateError, match=r"not float32 \(1,\)") as caught:
        check_trigger(Method(LAYOUT), Trigger(MASK, rescaler))
    assert caught.value.tensor == "rescaler"


def test_a_rescaler_of_another_granularity_is_refused():
    for have, want in product(GRANULARITIES, repeat=2):
        trigger = Trigger(MASK, np.ones(Method(LAYOUT, have).groups.count, np.float32))
        if have == want:
            check_trigger(Method(LAYOUT, want), trigger)
            continue
        with pytest.raises(InvalidStateError, match="rescaler"):
            check_trigger(Method(LAYOUT, want), trigger)


def test_a_mask_of_another_form_is_refused():
    for mask in (MASK[:-1], MASK.view(np.int8), MASK | 255):
        with pytest.raises(InvalidStateError) as caught:
            check_trigger(Method(LAYOUT), Trigger(mask, vector(1)), "tasks[2].")
        assert caught.value.tensor == "tasks[2].mask"


def test_a_parameter_cannot_have_the_name_of_a_scale():
    with pytest.raises(ValueError, match="the name of parameter 'scale/a' is reserved"):
        Method(ParameterLayout(("a", "scale/a"), ((1,), (1,))), dtype="int8")
