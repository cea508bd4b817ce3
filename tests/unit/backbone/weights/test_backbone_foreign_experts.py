"""Deltas of checkpoints from elsewhere: exact, or refused by name."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from condu_cli.backbone.weights import foreign_experts
from condu_cli.backbone.weights.checkpoints import Checkpoint
from condu_cli.backbone.weights.foreign_experts import MAX_DISTANCE, exact_delta, expert_delta
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, DataError, UsageError

PATH = Path("expert.pt")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(-4, 4, width=32)


def state_of(model, noise=0.0, seed=1):
    """A copy of a model's state dict; its trainable parameters are moved by some noise."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in model.library_model.state_dict().items()}
    for name, parameter in model.trainable_parameters().items():
        state[name] += noise * torch.randn(parameter.shape, generator=generator)
    return state


def note_of(model, **changes):
    info = model.info
    note = {
        "architecture": info.architecture,
        "activation": info.activation,
        "base_weights_sha256": info.weights_sha256,
        "base": info.id,
    }
    return {**note, **changes}


def assert_exact(base, found, state):
    for name, parameter in base.trainable_parameters().items():
        sums = parameter.detach().numpy() + found.delta[name]
        assert sums.dtype == np.float32
        assert np.array_equal(sums, state[name].float().numpy()), name


# Exactness


def test_base_plus_delta_is_the_checkpoint(tiny):
    state = state_of(tiny, 0.005)
    found = expert_delta(tiny, Checkpoint(PATH, state))
    assert list(found.delta) == list(tiny.trainable_parameters())
    assert all(values.dtype == np.float32 for values in found.delta.values())
    assert 0 < found.distance < MAX_DISTANCE
    if not found.warnings:
        assert_exact(tiny, found, state)


@given(base=arrays.arrays(np.float32, 8, elements=FLOATS), data=st.data())
def test_a_weight_made_by_any_delta_is_given_back_exactly(base, data):
    made_by = data.draw(arrays.arrays(np.float32, 8, elements=FLOATS))
    with np.errstate(over="ignore"):
        weights = base + made_by
    weights[~np.isfinite(weights)] = 0
    with np.errstate(over="ignore"):
        possible = np.isfinite(weights - base)
    found = exact_delta(base[possible], weights[possible])
    assert np.array_equal(base[possible] + found, weights[possible])


@given(base=arrays.arrays(np.float32, 8, elements=ORDINARY), data=st.data())
def test_where_no_delta_is_exact_the_sum_is_off_by_rounding_only(base, data):
    weights = data.draw(arrays.arrays(np.float32, 8, elements=ORDINARY))
    found = exact_delta(base, weights)
    off = np.abs((base + found).astype(np.float64) - weights)
    largest = np.maximum(np.abs(base), np.abs(weights))
    assert (off <= np.spacing(2 * largest).astype(np.float64)).all()
    # No neighbour would be better.
    for wrong in np.flatnonzero(off):
        nearby = found[wrong].view(np.int32) + np.arange(-3, 4, dtype=np.int32)
        assert not (base[wrong] + nearby.view(np.float32) == weights[wrong]).any()


AWKWARD = [
    (1.0, 1.0000001),
    (1.0, -0.9999999),
    (-0.1, 0.3),
    (1e-8, 1.0),
    (1e-45, -1e-45),
    (0.0, 1e-45),
    (0.0, -0.0),
    (3.0e38, 3.4e38),
    (0.3333333, 0.6666667),
    (16777216.0, 16777218.0),
]


@pytest.mark.parametrize(("base", "weight"), AWKWARD)
def test_awkward_pairs_are_exact(base, weight):
    pristine, wanted = np.array([base], np.float32), np.array([weight], np.float32)
    assert pristine + exact_delta(pristine, wanted) == wanted


@pytest.mark.parametrize(("weight", "kept"), [(1e-10, 0.0), (-1.0000001, -1.0)])
def test_a_weight_far_below_the_base_models_or_across_zero_may_be_rounded(weight, kept):
    base, wanted = np.ones(1, np.float32), np.array([weight], np.float32)
    assert base + exact_delta(base, wanted) == np.float32(kept) != wanted


def test_memory_is_that_of_the_delta_and_one_block(tiny, monkeypatch):
    monkeypatch.setattr(foreign_experts, "BLOCK", 1 << 12)
    checkpoint = Checkpoint(PATH, state_of(tiny, 0.005))
    tracemalloc.start()
    found = expert_delta(tiny, checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * sum(values.nbytes for values in found.delta.values())


def test_numbers_and_matrices_keep_their_shapes():
    for shape in ((), (1,), (2, 3), (2, 0)):
        assert exact_delta(np.ones(shape, np.float32), np.zeros(shape, np.float32)).shape == shape


def test_weights_that_are_rounded_are_counted(tiny):
    state = state_of(tiny)
    name = "visual.proj"
    state[name].flatten()[:3] = 1e-30 * torch.sign(state[name].flatten()[:3])
    found = expert_delta(tiny, Checkpoint(PATH, state))
    assert any("3 weights are rounded" in line for line in found.warnings)


def test_the_memory_format_does_not_matter(tiny):
    state = state_of(tiny, 0.005)
    plain = expert_delta(tiny, Checkpoint(PATH, state))
    name = "visual.conv1.weight"
    state[name] = state[name].to(memory_format=torch.channels_last)
    copy = tiny.expert_copy()
    copy.clip.visual.to(memory_format=torch.channels_last)
    found = expert_delta(copy, Checkpoint(PATH, state))
    assert np.array_equal(found.delta[name], plain.delta[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_cast_and_that_is_reported(tiny, dtype):
    state = {name: tensor.to(dtype) for name, tensor in state_of(tiny, 0.005).items()}
    found = expert_delta(tiny, Checkpoint(PATH, state))
    assert str(dtype).removeprefix("torch.") in found.warnings[0]
    for name, parameter in tiny.trainable_parameters().items():
        sums = parameter.detach().numpy() + found.delta[name]
        np.testing.assert_allclose(sums, state[name].float().numpy(), rtol=0, atol=1e-7)
    assert not any("own values are kept" in line for line in found.warnings)


def test_the_base_model_itself_is_allowed_with_a_warning(tiny):
    found = expert_delta(tiny, Checkpoint(PATH, state_of(tiny)))
    assert found.distance == 0
    assert not any(values.any() for values in found.delta.values())
    assert found.warnings == (
        "every weight equals the base model's: this expert has learned nothing",
    )


# Names


@pytest.mark.parametrize(
    "prefix", ["module.", "clip.", "module._orig_mod.", "net.encoder.", "0.", "visual."]
)
def test_prefixes_of_wrappers_are_stripped(tiny, prefix):
    state = state_of(tiny, 0.005)
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    found = expert_delta(tiny, Checkpoint(PATH, wrapped))
    plain = expert_delta(tiny, Checkpoint(PATH, state))
    assert all(np.array_equal(found.delta[name], plain.delta[name]) for name in plain.delta)


def test_missing_parameters_are_listed_and_counted(tiny):
    state = state_of(tiny)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}
    with pytest.raises(BaseModelError, match=r"lacks \d+ of \d+ parameters") as caught:
        expert_delta(tiny, Checkpoint(PATH, kept))
    assert caught.value.exit_code == 13
    assert "visual.class_embedding" in caught.value.message
    assert "--base ID" in hint_of(caught.value)


def test_a_checkpoint_of_something_else_shows_what_it_holds(tiny):
    """Three of its names, and the one that comes closest to a missing one."""
    state = {f"net.layer{i}.weight": torch.zeros(2) for i in range(5)}
    state["trunk.class_embedding"] = torch.zeros(2)
    with pytest.raises(BaseModelError) as caught:
        expert_delta(tiny, Checkpoint(PATH, state))
    message = caught.value.message
    assert "it holds net.layer0.weight, net.layer1.weight, net.layer2.weight, …" in message
    assert "closest to positional_embedding is" in message


def test_a_classifier_beside_the_model_is_left_out_by_name(tiny):
    state = state_of(tiny, 0.005)
    extra = {"head.weight": torch.zeros(2), "head.bias": torch.zeros(2)}
    wrapped = {"model." + name: tensor for name, tensor in state.items()}
    for weights in ({**state, **extra}, {**wrapped, **extra}):
        found = expert_delta(tiny, Checkpoint(PATH, weights))
        (told,) = [line for line in found.warnings if "left out" in line]
        assert "2 tensors" in told
        assert "head.weight, head.bias" in told
        assert_exact(tiny, found, state)


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("model.", "model_ema.")])
def test_of_two_whole_models_none_is_chosen(tiny, prefixes):
    state = state_of(tiny, 0.005)
    both = {prefix + name: tensor for prefix in prefixes for name, tensor in state.items()}
    with pytest.raises(UsageError, match=" and ".join(prefixes)) as refused:
        expert_delta(tiny, Checkpoint(PATH, both))
    assert "Save one of them alone" in hint_of(refused.value)


def test_the_base_models_own_weights_beside_a_wrapped_model_change_nothing(tiny):
    state, own = state_of(tiny, 0.005), state_of(tiny)
    beside = {name: tensor for name, tensor in own.items() if name.startswith("visual.")}
    wrapped = {"clip." + name: tensor for name, tensor in state.items()}
    for weights in ({**beside, **wrapped}, {**wrapped, **beside}):
        found = expert_delta(tiny, Checkpoint(PATH, weights))
        assert_exact(tiny, found, state)
        assert any(f"left out {len(beside)} tensors" in line for line in found.warnings)


def test_a_bias_that_all_classes_share_is_harmless(tiny):
    state = state_of(tiny, 0.005)
    found = expert_delta(tiny, Checkpoint(PATH, {**state, "logit_bias": torch.tensor(-10.0)}))
    assert not any("left out" in line for line in found.warnings)


def test_parameters_in_a_part_of_the_model_are_not_left_out(tiny):
    layer = "visual.transformer.resblocks.1.ln_1.weight"
    with pytest.raises(BaseModelError, match=f"has 1 parameters that .*: {layer}"):
        expert_delta(tiny, Checkpoint(PATH, {**state_of(tiny), layer: torch.ones(32)}))


def test_sizes_and_masks_of_other_versions_are_not_parameters(tiny):
    extra = {"input_resolution": torch.tensor(32), "attn_mask": torch.zeros(24, 24)}
    found = expert_delta(tiny, Checkpoint(PATH, {**state_of(tiny, 0.005), **extra}))
    assert not any("own values" in line for line in found.warnings)


def test_another_shape_names_the_parameter_and_both_shapes(tiny):
    state = state_of(tiny)
    state["visual.proj"] = state["visual.proj"][:, :3]
    with pytest.raises(BaseModelError, match=r"visual\.proj has shape \(32, 3\), but \(32, 16\)"):
        expert_delta(tiny, Checkpoint(PATH, state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(tiny, value):
    state = state_of(tiny)
    state["visual.proj"][1, 2] = value
    with pytest.raises(DataError, match=r"visual\.proj holds NaN or infinity"):
        expert_delta(tiny, Checkpoint(PATH, state))


def test_a_double_that_float32_cannot_hold_is_refused(tiny):
    state = {name: tensor.double() for name, tensor in state_of(tiny).items()}
    state["visual.proj"][1, 2] = 1e300
    with pytest.raises(DataError, match=r"visual\.proj holds NaN or infinity as float32"):
        expert_delta(tiny, Checkpoint(PATH, state))


@pytest.mark.parametrize("change", [lambda t: t.int(), lambda t: t.to_sparse()])
def test_quantised_and_sparse_tensors_are_refused(tiny, change):
    state = state_of(tiny)
    state["visual.proj"] = change(state["visual.proj"])
    with pytest.raises(DataError, match=r"visual\.proj is not a plain tensor of floats"):
        expert_delta(tiny, Checkpoint(PATH, state))


# What is not trained


def test_another_logit_scale_is_named_and_not_kept(tiny):
    state = state_of(tiny, 0.005)
    state["logit_scale"] = torch.tensor([1.0])
    told = expert_delta(tiny, Checkpoint(PATH, state)).warnings
    assert any("own values are kept for 1 tensors: logit_scale" in line for line in told)


def test_a_missing_logit_scale_is_harmless(tiny):
    state = state_of(tiny, 0.005)
    del state["logit_scale"]
    assert not any("own" in w for w in expert_delta(tiny, Checkpoint(PATH, state)).warnings)


@pytest.fixture
def image(tiny):
    return tiny.restricted_to(tiny.tower_parameters("image"))


def test_a_checkpoint_may_hold_the_trained_part_alone(image):
    state = {name: t for name, t in state_of(image, 0.005).items() if name.startswith("visual.")}
    assert list(expert_delta(image, Checkpoint(PATH, state)).delta) == list(
        image.trainable_parameters()
    )


def test_changes_that_the_registry_could_not_keep_are_refused_by_name(tiny, image):
    with pytest.raises(UsageError, match=r"changes \d+ parameters that .* not train: ") as caught:
        expert_delta(image, Checkpoint(PATH, state_of(tiny, 0.005)))
    assert "positional_embedding" in caught.value.message
    assert "--registry" in hint_of(caught.value)


def test_a_head_folded_into_what_the_registry_does_not_train_is_called_one(tiny):
    state = state_of(tiny)
    state["visual.proj"] += 0.01
    text = tiny.restricted_to(tiny.tower_parameters("text"))
    with pytest.raises(UsageError, match=r"has a head folded into visual\.proj") as caught:
        expert_delta(text, Checkpoint(PATH, state))
    assert "new registry" in hint_of(caught.value)


def test_the_rest_may_be_the_base_models_own_in_half_precision(image):
    state = {name: tensor.half() for name, tensor in state_of(image, 0.005).items()}
    assert expert_delta(image, Checkpoint(PATH, state)).delta


# Other base models


def test_unrelated_weights_are_refused_with_their_distance(tiny):
    state = state_of(tiny)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in tiny.trainable_parameters().items():
        norm = parameter.detach().norm()
        other = torch.randn(parameter.shape, generator=generator)
        state[name] = other / other.norm() * norm
    with pytest.raises(BaseModelError, match=r"was not fine-tuned from base model tiny: .* 1\.4"):
        expert_delta(tiny, Checkpoint(PATH, state))


def test_an_expert_that_condu_knows_may_lie_anywhere(tiny):
    state = state_of(tiny, 1.0)
    found = expert_delta(tiny, Checkpoint(PATH, state, note_of(tiny)))
    assert found.distance > MAX_DISTANCE


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": "ViT-B-32"}, "architecture ViT-B-32, but tiny has condu-tiny"),
        ({"activation": "quick_gelu"}, "activation quick_gelu, but tiny has gelu"),
        ({"base_weights_sha256": "ab" * 32}, "weights abab"),
    ],
)
def test_a_note_of_another_base_model_is_refused_by_name(tiny, changes, what):
    note = note_of(tiny, base="someone", **changes)
    with pytest.raises(BaseModelError, match=f"base model someone with {what}") as caught:
        expert_delta(tiny, Checkpoint(PATH, state_of(tiny), note))
    assert caught.value.exit_code == 13
