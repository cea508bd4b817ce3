"""Parts: the trigger that a task's arrays hold, and which arrays those may be."""

import numpy as np
import pytest
from strategies import named, usual

from condu_cli.core.arrays.layout import InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.condu.parts import FIGURES, trigger_of
from condu_cli.core.codecs.interface import EMPTY
from condu_cli.core.merging.method import Method, check_trigger

LAYOUT = ParameterLayout(("a", "b"), ((9, 11), (7,)))
METHOD = Method(LAYOUT, "row")
CODEC = ConduCodec(LAYOUT, {"rescaler": "row"})
STATE = CODEC.encode(EMPTY, named(LAYOUT, usual(1, LAYOUT.count)))
PART = dict(STATE.parts[0])


def test_the_mask_and_the_rescaler_are_a_trigger():
    trigger = trigger_of(METHOD, PART)
    check_trigger(METHOD, trigger)
    assert trigger.mask is PART["mask"]
    assert trigger.rescaler is PART["rescaler"]


def test_a_rescaler_first_written_as_float64_is_the_same_float32():
    trigger = trigger_of(METHOD, PART | {"rescaler": PART["rescaler"].astype(np.float64)})
    assert trigger.rescaler.dtype == np.float32
    assert np.array_equal(trigger.rescaler, PART["rescaler"])


@pytest.mark.parametrize("value", [0.1, 1e300, np.nan])
def test_float64_that_is_not_a_float32_is_named(value):
    rescaler = np.full(10, value)
    with pytest.raises(InvalidStateError, match="does not hold float32 values") as caught:
        trigger_of(METHOD, PART | {"rescaler": rescaler}, "tasks[3].")
    assert caught.value.tensor == "tasks[3].rescaler"


@pytest.mark.parametrize("name", [*FIGURES, "mask"])
def test_a_missing_array_is_named(name):
    part = {other: array for other, array in PART.items() if other != name}
    with pytest.raises(InvalidStateError, match="is missing") as caught:
        trigger_of(METHOD, part, "x.")
    assert caught.value.tensor == f"x.{name}"


def test_only_a_single_rescaler_may_lack_the_covered_norm():
    part = {name: array for name, array in PART.items() if name != "covered_norm"}
    assert trigger_of(Method(LAYOUT, "global"), part).mask is PART["mask"]


def test_an_array_too_many_is_named():
    with pytest.raises(InvalidStateError, match="is not part of a trigger") as caught:
        trigger_of(METHOD, PART | {"other": np.zeros(1)}, "x.")
    assert caught.value.tensor == "x.other"
