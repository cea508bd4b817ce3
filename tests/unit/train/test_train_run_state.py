"""A run between two iterations: saved, and restored bit for bit."""

import numpy as np
import pytest
import torch

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import IntegrityError
from condu_cli.train.run_state import (
    BEST,
    FIRST,
    SECOND,
    WEIGHT,
    History,
    RunState,
    capture,
    restore,
)


def parameters(seed=0):
    """Return two parameters, one of which never gets a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.nn.Parameter(torch.randn(3, 4, generator=generator)),
        "unused": torch.nn.Parameter(torch.randn(2, generator=generator)),
    }


def adamw(named):
    return torch.optim.AdamW(named.values(), lr=1e-2, weight_decay=0.1, fused=True)


def step(named, optimizer, number):
    """Run an iteration whose gradient depends only on its number."""
    optimizer.zero_grad(set_to_none=True)
    target = torch.randn(3, 4, generator=torch.Generator().manual_seed(number))
    (named["layer.weight"] - target).square().sum().backward()
    optimizer.step()


def trained(iterations):
    named = parameters()
    optimizer = adamw(named)
    for number in range(iterations):
        step(named, optimizer, number)
    return named, optimizer


def history():
    return History(
        iteration=3,
        seconds=1.5,
        losses=[0.3, 0.1 + 0.2],
        validation=[{"iteration": 2, "accuracy": 0.5}],
        best_iteration=2,
        best_accuracy=0.5,
        measured_since_best=1,
    )


@pytest.fixture
def state():
    named, optimizer = trained(3)
    best = {name: parameter.detach() - 1 for name, parameter in named.items()}
    return capture(named, optimizer, best, history())


def test_a_state_names_weights_moments_and_the_best_weights(state):
    both = ("layer.weight", "unused")
    # A parameter without a gradient has no moments.
    assert state.arrays.keys() == {
        *(WEIGHT + name for name in both),
        *(BEST + name for name in both),
        FIRST + "layer.weight",
        SECOND + "layer.weight",
    }
    assert {array.dtype for array in state.arrays.values()} == {np.dtype(np.float32)}


def test_the_state_is_restored_bit_for_bit(state):
    named, best = parameters(seed=9), {}
    optimizer = adamw(named)
    found = restore(state, named, optimizer, best)
    assert found == history()
    again = capture(named, optimizer, best, found)
    assert again.history == state.history
    assert again.arrays.keys() == state.arrays.keys()
    for name, array in state.arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes(), name


def test_a_run_goes_on_as_if_it_had_never_stopped(state):
    straight, _ = trained(6)
    named = parameters(seed=9)
    optimizer = adamw(named)
    restore(state, named, optimizer, {})
    for number in range(3, 6):
        step(named, optimizer, number)
    assert torch.equal(named["layer.weight"], straight["layer.weight"])
    assert torch.equal(named["unused"], straight["unused"])


def test_what_happens_after_a_copy_does_not_reach_it():
    named, optimizer = trained(3)
    best = {"layer.weight": torch.zeros(3, 4)}
    record = history()
    state = capture(named, optimizer, best, record)
    before = {name: array.copy() for name, array in state.arrays.items()}
    step(named, optimizer, 3)
    best["layer.weight"].add_(1)
    record.losses.append(1.0)
    record.validation[0]["accuracy"] = 0.9
    for name, array in before.items():
        assert np.array_equal(state.arrays[name], array), name
    assert state.history["losses"] == history().losses
    assert state.history["validation"] == history().validation


def test_what_happens_after_putting_back_does_not_reach_the_state(state):
    before = {name: array.copy() for name, array in state.arrays.items()}
    named, best = parameters(), {}
    optimizer = adamw(named)
    restore(state, named, optimizer, best)
    step(named, optimizer, 3)
    best["layer.weight"].add_(1)
    for name, array in before.items():
        assert np.array_equal(state.arrays[name], array), name


def test_arrays_that_cannot_be_written_to_are_enough(state):
    """A memory-mapped file yields such arrays."""
    for array in state.arrays.values():
        array.flags.writeable = False
    named = parameters(seed=9)
    restore(state, named, adamw(named), {})
    assert np.array_equal(named["unused"].detach(), state.arrays[WEIGHT + "unused"])


@pytest.mark.parametrize("other", ["missing", "another shape"])
def test_a_state_of_other_parameters_is_refused(state, other):
    arrays = dict(state.arrays)
    name = WEIGHT + "layer.weight"
    if other == "missing":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:2]
    named = parameters()
    with pytest.raises(IntegrityError, match="belongs to other parameters") as caught:
        restore(RunState(arrays, state.history), named, adamw(named), {})
    assert "--retrain" in hint_of(caught.value)
