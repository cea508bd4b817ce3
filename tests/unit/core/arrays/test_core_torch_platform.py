"""Unify and decouple give the same results on torch tensors, on any device, as on numpy arrays."""

import subprocess
import sys
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import named
from torch.utils._python_dispatch import TorchDispatchMode

from condu_cli.core.arrays.coders import DTYPES
from condu_cli.core.arrays.layout import InvalidDeltaError, InvalidStateError, ParameterLayout
from condu_cli.core.codecs.condu.stored_masks import SparseMask
from condu_cli.core.merging.decouple import Target, decouple_into
from condu_cli.core.merging.method import Method, Trigger
from condu_cli.core.merging.rescalers import GRANULARITIES
from condu_cli.core.merging.unify import reunify, unify
from condu_cli.core.passes.streaming import Execution

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=on_cuda)]

AWKWARD = [0.0, 0.5, 1.0, 1.0000001, 2.0, 3e-3, 2.0**-149, 2.0**-148, 1e-40, 2.0**-126]
TINY = [0.0, 2.0**-149, 2.0**-148, 3 * 2.0**-149, 1e-40, 2.0**-133, 2.0**-134, 2.0**-127]
HUGE = [0.0, 2.0**-149, 1e-20, 1.0, 1e10, 1e20]
# Around bfloat16's ties: halves of a step, just above and just below, even and odd.
HALVES = [1 + k * 2.0**-8 + e * 2.0**-23 for k in range(5) for e in (-1, 0, 1)]

SHAPES = [(), (1,), (3,), (7, 3), (8,), (9,), (63,), (64,), (65,), (0, 4), (5, 9), (6, 3, 3)]
LAYOUT = ParameterLayout(
    tuple("abcdefghij"),
    ((7, 3), (), (0, 4), (130,), (9, 3, 3), (3, 4097), (64, 64), (9000,), (300, 9), (8,)),
)
SMALL = ParameterLayout(("w", "b"), ((2, 3), (5,)))
CONVOLUTION = ParameterLayout(("norm", "conv", "bias"), ((8,), (6, 4, 3, 3), (6,)))

methods = pytest.mark.parametrize(
    ("dtype", "rescaler"), [(dtype, rescaler) for dtype in DTYPES for rescaler in GRANULARITIES]
)


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param, 0) if request.param == "cuda" else torch.device("cpu")


# From numpy to torch and back


def tensor(array, device="cpu"):
    array = np.array(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def tensors(arrays, device="cpu"):
    return arrays and {name: tensor(array, device) for name, array in arrays.items()}


def torch_triggers(triggers, device="cpu"):
    return [Trigger(tensor(t.mask, device), tensor(t.rescaler, device)) for t in triggers]


def array(tensor):
    if tensor.dtype == torch.bfloat16:
        return array(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
    return tensor.cpu().numpy()


def assert_same_bits(found, wanted):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


def assert_same_state(found, wanted, device):
    """A state is on one device, and equals a numpy state."""
    assert list(found.unified) == list(wanted.unified)
    for name, values in found.unified.items():
        assert values.device == device
        assert not values.requires_grad
        assert_same_bits(array(values), wanted.unified[name])
    for trigger, other in zip(found.triggers, wanted.triggers, strict=True):
        assert trigger.mask.device == trigger.rescaler.device == device
        assert trigger.rescaler.dtype == torch.float32
        assert_same_bits(array(trigger.mask), other.mask)
        np.testing.assert_allclose(array(trigger.rescaler), other.rescaler, rtol=1e-6)
    assert found.norms == pytest.approx(wanted.norms, rel=1e-6, abs=0)
    assert found.covered == pytest.approx(wanted.covered, rel=1e-12, abs=0)


# Difficult deltas


def picked(magnitudes, seed, size):
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], size)
    return (generator.choice(magnitudes, size) * signs).astype(np.float32)


def usual(seed, size):
    return np.random.default_rng(seed).normal(scale=1e-3, size=size).astype(np.float32)


def flat_delta(layout, kind, seed, earlier):
    """One delta of a kind; `earlier` are those of the tasks before."""
    size = layout.count
    if kind in ("identical", "opposite") and earlier:
        return earlier[-1] if kind == "identical" else -earlier[-1]
    if kind == "zero":
        return np.zeros(size, dtype=np.float32)
    if kind == "sparse":
        chosen = np.random.default_rng(seed).random(size) < 0.1
        return np.where(chosen, usual(seed, size), np.float32(-0.0))
    choices = {"awkward": AWKWARD, "tiny": TINY, "huge": HUGE, "halves": HALVES}
    return picked(choices[kind], seed, size) if kind in choices else usual(seed, size)


KINDS = ["usual", "awkward", "tiny", "halves", "sparse", "zero", "identical", "opposite"]


def deltas_of(layout, kinds, seed=0):
    deltas = []
    for task, kind in enumerate(kinds):
        deltas.append(flat_delta(layout, kind, seed + task, deltas))
    return deltas


def compare_sessions(method, deltas, device, execution=None):
    """Learn task by task in numpy; torch does every session from the same state."""
    state = None
    for flat in deltas:
        delta = named(method.layout, flat)
        unified, triggers = (state.unified, state.triggers) if state else (None, [])
        there = tensors(unified, device), torch_triggers(triggers, device)
        found = unify(method, *there, tensors(delta, device), execution)
        state = unify(method, unified, triggers, delta)
        assert_same_state(found, state, device)
    return state


def learned(method, kinds, seed=0):
    state = None
    for flat in deltas_of(method.layout, kinds, seed):
        unified, triggers = (state.unified, state.triggers) if state else (None, [])
        state = unify(method, unified, triggers, named(method.layout, flat))
    return state


# Unify


@methods
@pytest.mark.parametrize("block_size", [None, 64, 320])
def test_every_session_is_that_of_numpy(dtype, rescaler, block_size, device):
    method = Method(LAYOUT, rescaler, dtype)
    kinds = ["usual", "opposite", "awkward", "identical", "tiny", "halves", "zero", "sparse"]
    deltas = deltas_of(LAYOUT, kinds)
    compare_sessions(method, deltas, device, Execution(block_size=block_size))


@given(
    st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4),
    st.lists(st.sampled_from([*KINDS, "huge"]), min_size=1, max_size=4),
    st.integers(0, 2**32 - 9),
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from(GRANULARITIES),
)
def test_every_session_of_any_layout_is_that_of_numpy(shapes, kinds, seed, dtype, rescaler):
    layout = ParameterLayout(tuple(f"tensor{i}" for i in range(len(shapes))), tuple(shapes))
    method = Method(layout, rescaler, dtype)
    compare_sessions(method, deltas_of(layout, kinds, seed), torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "step"), [("float32", 1e-6), ("bfloat16", 2.0**-8), ("int8", 1)])
@pytest.mark.parametrize("rescaler", GRANULARITIES)
def test_tasks_learned_on_the_device_alone_stay_close(dtype, step, rescaler, device):
    method = Method(LAYOUT, rescaler, dtype)
    there = here = None
    for flat in deltas_of(LAYOUT, ["usual"] * 9):
        delta = named(LAYOUT, flat)
        here = unify(method, here and here.unified, here.triggers if here else [], delta)
        earlier = (there.unified, there.triggers) if there else (None, [])
        there = unify(method, *earlier, tensors(delta, device))
    for name, values in here.unified.items():
        found, wanted = array(there.unified[name]).astype(float), values.astype(float)
        if dtype == "int8" and not name.startswith("scale/"):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=step)
        else:
            np.testing.assert_allclose(found, wanted, rtol=min(step, 2.0**-8), atol=0)
    for trigger, other in zip(there.triggers, here.triggers, strict=True):
        np.testing.assert_allclose(array(trigger.rescaler), other.rescaler, rtol=1e-6)


@methods
def test_forgetting_is_that_of_numpy(dtype, rescaler, device):
    method = Method(LAYOUT, rescaler, dtype)
    state = learned(method, ["usual", "awkward", "opposite", "tiny"])
    kept = [state.triggers[0], *state.triggers[2:]]
    wanted = reunify(method, state.unified, kept)
    found = reunify(method, tensors(state.unified, device), torch_triggers(kept, device))
    assert_same_state(found, wanted, device)


def test_forgetting_the_last_task_leaves_zeros_on_the_device(device):
    method = Method(LAYOUT)
    state = learned(method, ["usual"])
    found = reunify(method, tensors(state.unified, device), [])
    assert_same_state(found, reunify(method, state.unified, []), device)


@pytest.mark.parametrize("power", [-100, -24, -3, 3, 100])
def test_an_element_that_underflows_loses_its_bit_as_in_numpy(power, device):
    method = Method(LAYOUT, "tensor")
    state = learned(method, ["tiny", "awkward"])
    scaled = np.full_like(state.triggers[0].rescaler, 2.0**power)
    triggers = [Trigger(state.triggers[0].mask, scaled), state.triggers[1]]
    wanted = reunify(method, state.unified, triggers)
    found = reunify(method, tensors(state.unified, device), torch_triggers(triggers, device))
    assert_same_state(found, wanted, device)


@methods
def test_a_state_in_memory_is_read_onto_the_device_of_the_delta(dtype, rescaler, device):
    method = Method(LAYOUT, rescaler, dtype)
    state = learned(method, ["usual", "awkward"])
    delta = named(LAYOUT, usual(7, LAYOUT.count))
    wanted = unify(method, state.unified, state.triggers, delta)
    found = unify(method, read_only(state.unified), sparse(state.triggers), tensors(delta, device))
    assert_same_state(found, wanted, device)


def test_tensors_that_are_not_contiguous_are_merged_alike(device):
    method = Method(CONVOLUTION, "row", "int8")
    delta = named(CONVOLUTION, usual(0, CONVOLUTION.count))
    there = tensors(delta, device)
    there["conv"] = there["conv"].contiguous(memory_format=torch.channels_last)
    there["bias"] = torch.stack([there["bias"], there["bias"]], dim=1)[:, 0]
    wanted = unify(method, None, [], delta)
    assert_same_state(unify(method, None, [], there), wanted, device)
    state = tensors(wanted.unified, device)
    state["conv"] = state["conv"].contiguous(memory_format=torch.channels_last)
    found = reunify(method, state, torch_triggers(wanted.triggers, device))
    assert_same_state(found, reunify(method, wanted.unified, wanted.triggers), device)


def test_a_delta_that_asks_for_gradients_gets_none(device):
    there = tensors(named(SMALL, usual(0, SMALL.count)), device)
    for values in there.values():
        values.requires_grad_()
    state = unify(Method(SMALL), None, [], there)
    assert not any(values.requires_grad for values in state.unified.values())
    assert torch.is_grad_enabled()


def test_the_environment_cannot_ask_for_compiled_kernels_on_tensors(monkeypatch, device):
    monkeypatch.setenv("CONDU_KERNELS", "compiled")
    compare_sessions(Method(SMALL), deltas_of(SMALL, KINDS), device, Execution(threads=3))


# Errors are numpy's, by name


def error_of(call):
    with pytest.raises((InvalidDeltaError, InvalidStateError)) as caught:
        call()
    error = caught.value
    name = error.parameter if isinstance(error, InvalidDeltaError) else error.tensor
    return type(error), name, str(error).replace("torch.", "")


def put(arrays, name, values):
    return {**arrays, name: values}


def first_is(value):
    def spoil(arrays, name="b"):
        values = arrays[name].copy()
        values.reshape(-1)[0] = value
        return put(arrays, name, values)

    return spoil


def without(arrays, name="w"):
    return {other: values for other, values in arrays.items() if other != name}


@pytest.mark.parametrize(
    "spoil",
    [
        first_is(np.nan),
        first_is(np.inf),
        first_is(-np.inf),
        first_is(1.1e20),
        without,
        lambda delta: put(delta, "x", delta["b"]),
        lambda delta: put(delta, "w", delta["w"].T.copy()),
        lambda delta: put(delta, "b", delta["b"].astype(np.float64)),
    ],
)
def test_a_delta_is_refused_as_numpys_is(spoil, device):
    delta = spoil(named(SMALL, usual(0, SMALL.count)))
    method = Method(SMALL)
    wanted = error_of(lambda: unify(method, None, [], delta))
    assert error_of(lambda: unify(method, None, [], tensors(delta, device))) == wanted


def test_the_largest_value_is_let_in(device):
    delta = first_is(1e20)(named(SMALL, usual(0, SMALL.count)))
    found = unify(Method(SMALL), None, [], tensors(delta, device))
    assert_same_state(found, unify(Method(SMALL), None, [], delta), device)


def spoiled_trigger(mask=None, rescaler=None):
    def spoil(triggers):
        first = triggers[0]
        kept = mask(first.mask) if mask else first.mask
        return [Trigger(kept, first.rescaler if rescaler is None else rescaler), *triggers[1:]]

    return spoil


def padding_set(mask):
    mask = mask.copy()
    mask[-1] |= 128
    return mask


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled_trigger(mask=padding_set),
        spoiled_trigger(mask=lambda mask: mask[:-8]),
        spoiled_trigger(mask=lambda mask: mask.astype(np.int8)),
        spoiled_trigger(rescaler=np.array([0], dtype=np.float32)),
        spoiled_trigger(rescaler=np.array([np.nan], dtype=np.float32)),
        spoiled_trigger(rescaler=np.array([1, 1], dtype=np.float32)),
        spoiled_trigger(rescaler=np.array([1], dtype=np.float64)),
    ],
)
def test_a_trigger_is_refused_as_numpys_is(spoil, device):
    method = Method(SMALL)
    state = learned(method, ["usual", "usual"])
    triggers, there = spoil(state.triggers), tensors(state.unified, device)
    wanted = error_of(lambda: reunify(method, state.unified, triggers))
    assert error_of(lambda: reunify(method, there, torch_triggers(triggers, device))) == wanted
    assert error_of(lambda: reunify(method, there, triggers)) == wanted


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: without(arrays, "scale/b"),
        lambda arrays: put(arrays, "x", arrays["b"]),
        lambda arrays: put(arrays, "w", arrays["w"].T.copy()),
        lambda arrays: put(arrays, "w", arrays["w"].astype(np.float32)),
        lambda arrays: first_is(np.nan)(arrays, "scale/b"),
        lambda arrays: first_is(np.inf)(arrays, "scale/w"),
    ],
)
def test_a_unified_delta_is_refused_as_numpys_is(spoil, device):
    method = Method(SMALL, "global", "int8")
    state = learned(method, ["halves"])
    unified, triggers = spoil(state.unified), torch_triggers(state.triggers, device)
    wanted = error_of(lambda: reunify(method, unified, state.triggers))
    assert error_of(lambda: reunify(method, tensors(unified, device), triggers)) == wanted


def test_tensors_in_two_places_are_refused_by_name(device):
    delta = named(SMALL, usual(0, SMALL.count))
    there = tensors(delta, device)
    for stranger in (there["b"].to("meta"), delta["b"]):
        with pytest.raises(InvalidDeltaError, match=f"'b' .* {device}"):
            unify(Method(SMALL), None, [], put(there, "b", stranger))
    with pytest.raises(InvalidDeltaError, match=r"'b' has dtype torch\.float32"):
        unify(Method(SMALL), None, [], put(delta, "b", there["b"]))


def test_tensors_beside_a_delta_in_memory_are_refused_by_name(device):
    state = learned(Method(SMALL), ["usual"])
    delta = named(SMALL, usual(1, SMALL.count))
    with pytest.raises(InvalidStateError, match=r"'tasks\[0\]\.mask' is torch\.uint8"):
        unify(Method(SMALL), state.unified, torch_triggers(state.triggers, device), delta)
    with pytest.raises(InvalidStateError, match=r"'w' is torch\.float32"):
        unify(Method(SMALL), tensors(state.unified, device), state.triggers, delta)


def test_a_block_size_that_is_not_a_multiple_of_64_is_refused(device):
    delta = tensors(named(SMALL, usual(0, SMALL.count)), device)
    for block_size in (0, -64, 100):
        with pytest.raises(ValueError, match="block size"):
            unify(Method(SMALL), None, [], delta, Execution(block_size=block_size))


# Decouple


def read_only(arrays):
    """As memory maps of a file are."""
    copies = {name: values.copy() for name, values in arrays.items()}
    for values in copies.values():
        values.flags.writeable = False
    return copies


def sparse(triggers):
    return [Trigger(sparse_mask(trigger.mask), trigger.rescaler) for trigger in triggers]


def sparse_mask(packed):
    words = packed.view(np.uint64)
    index = np.packbits(words != 0, bitorder="little")
    return SparseMask(words[words != 0], index, packed.size)


STATES = {
    "tensors": lambda state, device: (
        tensors(state.unified, device),
        torch_triggers(state.triggers, device),
    ),
    "arrays": lambda state, device: (state.unified, state.triggers),
    "memory maps": lambda state, device: (read_only(state.unified), sparse(state.triggers)),
}


def experts(method, unified, triggers, base, weights):
    """Decouple all triggers at once into the given weights."""
    targets = [Target(t, w) for t, w in zip(triggers, weights, strict=True)]
    decouple_into(method, unified, base, targets)


@methods
@pytest.mark.parametrize("kept_as", STATES)
def test_experts_on_the_device_are_those_of_numpy(dtype, rescaler, kept_as, device):
    method = Method(LAYOUT, rescaler, dtype)
    state = learned(method, ["usual", "awkward", "tiny"])
    base = named(LAYOUT, usual(9, LAYOUT.count))
    wanted = [{name: np.empty_like(values) for name, values in base.items()} for _ in range(3)]
    experts(method, state.unified, state.triggers, base, wanted)
    there = tensors(base, device)
    found = [{name: torch.empty_like(values) for name, values in there.items()} for _ in range(3)]
    experts(method, *STATES[kept_as](state, device), there, found)
    for one, other in zip(found, wanted, strict=True):
        for name, values in one.items():
            assert_same_bits(array(values), other[name])


class Recorded:
    """A mask in memory that records how many bytes are read at once."""

    def __init__(self, mask):
        self._mask = mask
        self.dtype, self.shape = mask.dtype, mask.shape
        self.largest = 0

    def __getitem__(self, part):
        found = self._mask[part]
        self.largest = max(self.largest, found.size)
        return found


def test_a_mask_in_memory_is_moved_chunk_by_chunk(device):
    layout = ParameterLayout(("w",), ((100_000,),))
    method = Method(layout)
    state = learned(method, ["usual"])
    mask = Recorded(state.triggers[0].mask)
    base = tensors(named(layout, usual(9, layout.count)), device)
    target = {"w": torch.empty_like(base["w"])}
    trigger = Trigger(mask, state.triggers[0].rescaler)
    decouple_into(
        method, state.unified, base, [Target(trigger, target)], Execution(block_size=8192)
    )
    assert mask.largest == 1024
    assert torch.equal(target["w"], base["w"] + tensor(state.unified["w"], device))


@pytest.mark.parametrize("kept_as", STATES)
@pytest.mark.parametrize("block_size", [None, 64])
def test_weights_that_are_not_contiguous_are_written_in_place(kept_as, block_size, device):
    method = Method(CONVOLUTION, "row", "bfloat16")
    state = learned(method, ["usual"])
    base = named(CONVOLUTION, usual(9, CONVOLUTION.count))
    wanted = {name: np.empty_like(values) for name, values in base.items()}
    experts(method, state.unified, state.triggers, base, [wanted])
    model = torch.nn.Conv2d(4, 6, 3, device=device).to(memory_format=torch.channels_last)
    spaced = torch.zeros(8, 3, device=device)
    target = {"norm": spaced[:, 1], "conv": model.weight.data, "bias": model.bias.data}
    there = tensors(base, device)
    there["conv"] = there["conv"].contiguous(memory_format=torch.channels_last)
    unified, triggers = STATES[kept_as](state, device)
    execution = Execution(block_size=block_size)
    decouple_into(method, unified, there, [Target(triggers[0], target)], execution)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    for name, values in wanted.items():
        assert_same_bits(array(target[name]), values)
    assert_same_bits(array(model.weight.detach().contiguous()), wanted["conv"])
    assert spaced[:, [0, 2]].count_nonzero() == 0


def test_parameters_that_train_are_written_without_gradients(device):
    method = Method(CONVOLUTION)
    state = learned(method, ["usual"])
    base = named(CONVOLUTION, usual(9, CONVOLUTION.count))
    wanted = {name: np.empty_like(values) for name, values in base.items()}
    experts(method, state.unified, state.triggers, base, [wanted])
    there = {n: torch.nn.Parameter(values) for n, values in tensors(base, device).items()}
    empty = torch.empty((6, 4, 3, 3), device=device, memory_format=torch.channels_last)
    target = {n: torch.nn.Parameter(torch.empty_like(values)) for n, values in there.items()}
    target["conv"] = torch.nn.Parameter(empty)
    experts(method, state.unified, state.triggers, there, [target])
    for name, values in wanted.items():
        assert target[name].requires_grad
        assert_same_bits(array(target[name].detach().contiguous()), values)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "spoil",
    [
        without,
        lambda weights: put(weights, "x", weights["b"]),
        lambda weights: put(weights, "w", weights["w"].T.copy()),
        lambda weights: put(weights, "b", weights["b"].astype(np.float64)),
    ],
)
def test_weights_are_refused_as_numpys_are_and_nothing_is_written(spoil, device):
    method = Method(SMALL)
    state = learned(method, ["usual"])
    base = named(SMALL, usual(9, SMALL.count))
    zeros = {name: np.zeros_like(values) for name, values in base.items()}

    def into(base, *weights):
        triggers = state.triggers * len(weights)
        return lambda: experts(method, state.unified, triggers, base, weights)

    good, bad = tensors(zeros, device), tensors(spoil(base), device)
    wanted = error_of(into(base, spoil(base)))
    assert error_of(into(tensors(base, device), good, bad)) == wanted
    assert error_of(into(bad, good)) == wanted
    assert not any(values.any() for values in good.values())


def test_weights_in_another_place_than_the_base_are_refused_by_name(device):
    method = Method(SMALL)
    state = learned(method, ["usual"])
    base = named(SMALL, usual(9, SMALL.count))
    there = tensors(base, device)
    for stranger in (there["b"].to("meta"), base["b"]):
        target = put(there, "b", stranger)
        with pytest.raises(InvalidDeltaError, match=f"'b' .* {device}"):
            experts(method, state.unified, state.triggers, there, [target])


# What the device has to do


class Watched(TorchDispatchMode):
    """Records which operations run, and on which dtypes."""

    def __init__(self):
        super().__init__()
        self.operations = Counter()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations[function.overloadpacket.__name__] += 1
        for value in (*args, result):
            if isinstance(value, torch.Tensor):
                self.dtypes.add(value.dtype)
        return result


def watched_sessions(layout, dtype):
    """Two sessions and an expert, the second of them with elements that underflow."""
    method = Method(layout, "row", dtype)
    with Watched() as watched:
        first = unify(method, None, [], tensors(named(layout, usual(0, layout.count))))
        tiny = tensors(named(layout, picked(TINY, 1, layout.count)))
        second = unify(method, first.unified, first.triggers, tiny)
        target = {name: torch.empty_like(values) for name, values in tiny.items()}
        experts(method, second.unified, second.triggers[:1], tiny, [target])
    return watched


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_operation_is_on_a_dtype_that_torch_hardly_has(dtype):
    watched = watched_sessions(LAYOUT, dtype)
    assert watched.dtypes.isdisjoint({torch.uint16, torch.uint32, torch.uint64})
    assert torch.float64 in watched.dtypes


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_host_is_asked_as_often_for_a_large_tensor_as_for_a_small_one(dtype):
    small = ParameterLayout(("w",), ((72, 9),))
    large = ParameterLayout(("w",), ((7200, 9),))
    assert watched_sessions(small, dtype).operations == watched_sessions(large, dtype).operations


def test_numpy_arrays_need_no_torch():
    program = """
import importlib, pkgutil, sys
import numpy as np
import condu_cli.core as core
for module in pkgutil.walk_packages(core.__path__, "condu_cli.core."):
    if not module.name.endswith(".torch_platform"):
        importlib.import_module(module.name)
from condu_cli.core.merging.decouple import Target, decouple_into
from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.unify import unify
delta = {"w": np.ones((3, 9), np.float32)}
for dtype in ("float32", "bfloat16", "int8"):
    method = Method(ParameterLayout(("w",), ((3, 9),)), "row", dtype)
    state = unify(method, None, [], delta)
    weights = {"w": np.empty((3, 9), np.float32)}
    decouple_into(method, state.unified, delta, [Target(state.triggers[0], weights)])
    assert weights["w"].tolist() == [[2] * 9] * 3
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
