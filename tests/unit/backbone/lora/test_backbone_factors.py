"""LoRA on a base model: layers, initial factors, and merging."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from condu_cli.backbone.deltas import delta_of, put_weights, weights_of
from condu_cli.backbone.dual_encoder import weights_sha256
from condu_cli.backbone.lora.factors import (
    adaptable_layers,
    factor_shapes,
    initial_a,
    injected_name,
    update,
)
from condu_cli.backbone.lora.spec import MAX_RANK, LoraSpec
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, UsageError

FC = "visual.transformer.resblocks.0.mlp.c_fc"
TEXT_FC = "transformer.resblocks.0.mlp.c_fc"


def spec_for(base, train="whole", **values):
    return LoraSpec(**{"rank": 4, "alpha": 4.0, "targets": base.lora_targets(train), **values})


@pytest.fixture
def lora(tiny):
    return tiny.with_lora(spec_for(tiny))


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(model, seed=0, scale=0.05):
    """A training copy whose factors have moved."""
    expert = model.training_copy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return expert


def rebuilt(model, delta):
    """The expert that predict would use: base factors plus a delta, merged."""
    expert = model.expert_copy()
    base, weights = weights_of(model), weights_of(expert)
    for name in weights:
        weights[name][...] = base[name] + delta[name]
    put_weights(expert, weights)
    return expert


# The record


def test_a_spec_is_restored_from_its_record():
    spec = LoraSpec(8, 16.0, (FC, TEXT_FC), freeze_a=True, seed=7)
    assert LoraSpec.from_record(spec.to_record()) == spec
    assert spec.scale == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"rank": MAX_RANK + 1},
        {"rank": True},
        {"rank": "4"},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"alpha": "1"},
        {"targets": []},
        {"targets": [FC, FC]},
        {"targets": [1]},
        {"targets": FC},
        {"freeze_a": 1},
        {"seed": -1},
        {"seed": None},
    ],
)
def test_a_record_that_condu_never_wrote_is_refused(change):
    record = LoraSpec(4, 4.0, (FC,)).to_record()
    with pytest.raises(ValueError, match=r"."):
        LoraSpec.from_record({**record, **change})


# Layers


def test_the_default_layers_are_the_mlp_of_both_towers(tiny):
    assert tiny.lora_targets("whole") == (
        FC,
        "visual.transformer.resblocks.0.mlp.c_proj",
        TEXT_FC,
        "transformer.resblocks.0.mlp.c_proj",
    )


@pytest.mark.parametrize("train", ["image", "text"])
def test_one_tower_has_its_own_layers_only(tiny, train):
    targets = tiny.lora_targets(train)
    assert targets
    assert all(name.startswith("visual.") is (train == "image") for name in targets)


def test_patterns_choose_layers_in_the_models_order(tiny):
    patterns = ("transformer.*.c_fc", "*.mlp.c_fc")
    assert tiny.lora_targets("whole", patterns) == (FC, TEXT_FC)


def test_a_pattern_without_a_layer_is_refused_and_layers_are_named(tiny):
    with pytest.raises(UsageError, match=r"'\*\.gate'") as caught:
        tiny.lora_targets("whole", ["*.mlp.c_fc", "*.gate"])
    assert FC in hint_of(caught.value)


def test_attentions_output_projection_cannot_have_factors(tiny):
    """torch reads its weight without calling it: factors beside it would train nothing."""
    assert not [name for name in adaptable_layers(tiny.clip) if "out_proj" in name]


def test_only_1x1_convolutions_without_groups_have_factors():
    model = nn.ModuleDict(
        {
            "pointwise": nn.Conv2d(4, 6, 1),
            "wide": nn.Conv2d(4, 6, 3),
            "grouped": nn.Conv2d(4, 4, 1, groups=2),
            "linear": nn.Linear(4, 6),
        }
    )
    assert adaptable_layers(model) == ["pointwise", "linear"]


def test_a_tower_whose_layers_condu_does_not_know_is_refused(tiny):
    import open_clip

    from condu_cli.backbone.models.open_clip_models import OpenClipModel
    from condu_cli.backbone.models.open_clip_specs import OpenClipSpec

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**config)
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    resnet = OpenClipModel("rn", OpenClipSpec("rn", "", False), model, None)
    with pytest.raises(UsageError, match="MLP layers of its image tower are not known") as caught:
        resnet.lora_targets("whole")
    assert "--train text" in hint_of(caught.value)
    assert resnet.lora_targets("text")


# The shared initialisation


def test_a_is_uniform_and_depends_on_name_and_seed_alone():
    a = initial_a("x", (64, 100), 0)
    assert a.dtype == np.float32
    assert np.abs(a).max() <= 0.1
    assert np.abs(a).max() > 0.099
    assert abs(a.mean()) < 0.003
    assert np.array_equal(a, initial_a("x", (64, 100), 0))
    assert not np.array_equal(a, initial_a("y", (64, 100), 0))
    assert not np.array_equal(a, initial_a("x", (64, 100), 1))


def test_a_is_the_same_on_every_machine():
    """A change here makes every existing LoRA registry unreadable."""
    found = initial_a("layer.lora_A.weight", (2, 3), 7)
    assert found.tobytes().hex() == INITIAL_HEX


INITIAL_HEX = "f483e5be7eeb6d3d8b95583cd6b4fe3ee56a8f3d29a9df3d"


def test_b_is_zero_and_the_model_is_the_base_model(tiny, lora, pixels):
    assert not any(b.any() for name, b in weights_of(lora).items() if "lora_B" in name)
    assert lora.info == tiny.info
    assert weights_sha256(lora) == tiny.info.weights_sha256
    assert torch.equal(lora.encode_images(pixels), tiny.encode_images(pixels))


def test_an_expert_with_no_delta_is_the_base_model_bit_for_bit(tiny, lora):
    zeros = {name: np.zeros_like(values) for name, values in weights_of(lora).items()}
    state, base = rebuilt(lora, zeros).clip.state_dict(), tiny.clip.state_dict()
    assert state.keys() == base.keys()
    for name, tensor in base.items():
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes()


# What is trained


def test_the_factors_take_the_place_of_the_weights(tiny, lora):
    names = list(lora.trainable_parameters())
    assert names[:2] == [f"{FC}.lora_A.weight", f"{FC}.lora_B.weight"]
    assert lora.trainable_parameters()[names[0]].shape == (4, 32)
    assert lora.trainable_parameters()[names[1]].shape == (128, 4)
    assert lora.tower_parameters("image") == [n for n in names if n.startswith("visual.")]
    assert list(lora.restricted_to(names[2:]).trainable_parameters()) == names[2:]
    assert FC + ".weight" in tiny.trainable_parameters()


def test_with_a_frozen_only_b_is_trained(tiny):
    model = tiny.with_lora(spec_for(tiny, freeze_a=True))
    assert all(name.endswith("lora_B.weight") for name in model.trainable_parameters())
    expert = model.training_copy()
    assert list(expert.trainable_parameters()) == list(model.trainable_parameters())
    open_names = {name for name, p in expert.clip.named_parameters() if p.requires_grad}
    assert open_names == {injected_name(name) for name in model.trainable_parameters()}


def test_a_missing_layer_is_another_base_model(tiny):
    with pytest.raises(BaseModelError, match=r"no layer 'visual\.nothing'"):
        tiny.with_lora(LoraSpec(4, 4.0, ("visual.nothing",)))


def test_gradients_reach_the_factors_and_nothing_else(lora):
    expert = lora.training_copy()
    trainable = {id(p) for p in expert.trainable_parameters().values()}
    assert len(trainable) == len(lora.trainable_parameters())
    for parameter in expert.parameters():
        assert parameter.requires_grad is (id(parameter) in trainable)
    expert_for_prediction = lora.expert_copy()
    assert not any(p.requires_grad for p in expert_for_prediction.parameters())


@torch.inference_mode()
def test_training_starts_from_the_shared_initialisation(lora, pixels):
    expert = lora.training_copy()
    assert not any(d.any() for d in delta_of(lora, expert).values())
    assert torch.equal(expert.encode_images(pixels), lora.encode_images(pixels))


def test_a_text_tower_is_adapted_alone_although_its_names_end_those_of_the_image_tower(tiny):
    expert = tiny.with_lora(spec_for(tiny, "text")).training_copy()
    injected = {name for name, _ in expert.clip.named_parameters() if "lora_" in name}
    assert injected
    assert not [name for name in injected if name.startswith("visual.")]


@torch.inference_mode()
def test_the_trained_copy_and_the_merged_expert_are_one_function(tiny, lora, pixels):
    expert = trained(lora)
    merged = rebuilt(lora, delta_of(lora, expert))
    assert not torch.allclose(expert.encode_images(pixels), tiny.encode_images(pixels), atol=1e-3)
    for call, value in (("encode_images", pixels), ("encode_texts", ["a cat", "two dogs"])):
        theirs, ours = getattr(expert, call)(value), getattr(merged, call)(value)
        assert torch.allclose(theirs, ours, atol=1e-5)


@torch.inference_mode()
def test_that_holds_for_mini_and_its_convolutions_too():
    from condu_cli.backbone.base_models import load_base

    mini = load_base("mini")
    defaults = mini.lora_defaults
    spec = LoraSpec(defaults.rank, defaults.alpha, mini.lora_targets("whole"))
    model = mini.with_lora(spec)
    shapes = {name: tuple(p.shape) for name, p in model.trainable_parameters().items()}
    assert shapes["image.conv_head.lora_A.weight"] == (16, 320, 1, 1)
    assert shapes["image.conv_head.lora_B.weight"] == (1280, 16, 1, 1)
    assert not [name for name in shapes if "attention" in name or "conv_dw" in name]
    assert len([n for n in spec.targets if n.startswith("text.")]) == 12
    expert = trained(model, scale=0.02)
    merged = rebuilt(model, delta_of(model, expert))
    assert expert.temperature == merged.temperature != mini.temperature
    pictures = mini.prepare_pixels(torch.rand(2, 3, 64, 64))
    ours = merged.encode_images(pictures)
    assert torch.allclose(expert.encode_images(pictures), ours, atol=1e-5)
    assert not torch.allclose(mini.expert_copy().encode_images(pictures), ours, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_a_training_copy_can_be_copied_and_sent(lora, pixels, copied):
    expert = trained(lora)
    other = copied(expert)
    for name, parameter in expert.trainable_parameters().items():
        assert torch.equal(other.trainable_parameters()[name], parameter)
        assert other.trainable_parameters()[name] is not parameter
    assert torch.equal(other.encode_images(pixels), expert.encode_images(pixels))


# Merging


def test_merging_again_adds_nothing_up(lora):
    delta = delta_of(lora, trained(lora))
    expert = rebuilt(lora, delta)
    before = copy.deepcopy(expert.clip.state_dict())
    for _ in range(3):
        put_weights(expert, weights_of(expert))
    assert all(torch.equal(before[n], t) for n, t in expert.clip.state_dict().items())


def test_an_expert_can_be_filled_with_another_one(lora):
    one, other = (delta_of(lora, trained(lora, seed)) for seed in (1, 2))
    expert = rebuilt(lora, one)
    base, weights = weights_of(lora), weights_of(expert)
    for name in weights:
        weights[name][...] = base[name] + other[name]
    put_weights(expert, weights)
    fresh = rebuilt(lora, other).clip.state_dict()
    assert all(torch.equal(fresh[n], t) for n, t in expert.clip.state_dict().items())


def test_experts_share_the_base_models_weights_and_never_write_to_them(tiny, lora):
    expert = rebuilt(lora, delta_of(lora, trained(lora)))
    pristine = expert.factors.pristine.weights[FC]
    assert pristine.data_ptr() == tiny.clip.get_parameter(FC + ".weight").data_ptr()
    assert weights_sha256(tiny) == tiny.info.weights_sha256


@given(
    out=st.integers(1, 6),
    fan_in=st.integers(1, 6),
    rank=st.integers(1, 4),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
    convolution=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_an_update_is_the_scaled_product_of_the_factors(
    out, fan_in, rank, scale, convolution, seed
):
    generator = torch.Generator().manual_seed(seed)
    weight = (out, fan_in, 1, 1) if convolution else (out, fan_in)
    shapes = factor_shapes(weight, rank)
    a, b = (torch.randn(shape, generator=generator) for shape in shapes)
    found = update(a, b, scale)
    assert found.shape == weight
    expected = scale * b.double().reshape(out, rank) @ a.double().reshape(rank, fan_in)
    assert torch.allclose(found.double().reshape(out, fan_in), expected, atol=1e-5)
