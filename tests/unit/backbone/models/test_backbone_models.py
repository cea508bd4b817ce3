"""A base model behind the one interface: towers, frozen parts, identity, deltas."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from condu_cli.backbone.base_models import _load
from condu_cli.backbone.classifiers import fill_template, text_features
from condu_cli.backbone.deltas import delta_of, weights_of
from condu_cli.backbone.devices import resolve_device
from condu_cli.backbone.dual_encoder import weights_sha256
from condu_cli.backbone.features import class_logits, image_features
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import UsageError


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def norms(features):
    return features.norm(dim=-1).tolist()


# Towers


@torch.inference_mode()
def test_pooling_then_projecting_is_encoding(tiny, pixels):
    assert torch.equal(tiny.project_images(tiny.pool_images(pixels)), tiny.encode_images(pixels))


@torch.inference_mode()
def test_images_are_encoded_as_open_clip_does(tiny, pixels):
    theirs = functional.normalize(tiny.clip.encode_image(pixels), dim=-1)
    assert torch.allclose(tiny.encode_images(pixels), theirs, atol=1e-6)


@torch.inference_mode()
def test_texts_are_encoded_as_open_clip_does(tiny):
    texts = ["a photo of a cat.", "dog"]
    ids = tiny.tokenize(texts)["ids"]
    theirs = functional.normalize(tiny.clip.encode_text(ids), dim=-1)
    assert torch.allclose(tiny.encode_texts(texts), theirs, atol=1e-6)


@torch.inference_mode()
def test_pooled_features_are_those_before_the_projection(tiny, pixels):
    width, embedding = tiny.clip.visual.proj.shape
    assert tiny.pool_images(pixels).shape == (3, width)
    assert tiny.encode_images(pixels).shape == (3, embedding)
    assert width != embedding


@torch.inference_mode()
def test_the_linear_end_of_a_vision_transformer_is_its_projection(tiny):
    assert tiny.linear_end == "visual.proj"
    assert tiny.linear_end in tiny.trainable_parameters()


def test_features_have_unit_length(tiny, pixels):
    assert norms(tiny.encode_images(pixels)) == pytest.approx([1, 1, 1], abs=1e-5)
    assert norms(tiny.encode_texts(["a", "b"])) == pytest.approx([1, 1], abs=1e-5)


def test_image_features_are_both_kinds_in_one_pass(tiny, pixels):
    features = image_features(tiny, pixels)
    with torch.inference_mode():
        assert torch.equal(features.pooled, tiny.pool_images(pixels))
        assert torch.equal(features.image, tiny.encode_images(pixels))


def test_class_logits_are_scaled_cosines(tiny, pixels):
    classifier = text_features(tiny, ["cat", "dog"], ["a {}."])
    logits = class_logits(tiny, pixels, classifier)
    cosines = image_features(tiny, pixels).image @ classifier.T
    assert torch.allclose(logits, tiny.logit_scale_value * cosines, atol=1e-4)
    assert tiny.logit_scale_value == pytest.approx(float(tiny.clip.logit_scale.exp()))


def test_preprocessing_is_that_of_the_architecture(tiny):
    assert tiny.preprocessing.image_size == 32 == tiny.info.image_size
    assert tiny.preprocessing.fixed_size is True
    assert tiny.preprocessing.preparation.mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)


# What may change


def test_a_base_model_stays_in_evaluation_mode(tiny):
    copy = tiny.expert_copy().train()
    assert not any(module.training for module in copy.modules())


def test_the_logit_scale_is_frozen_and_everything_else_is_trainable(tiny):
    trainable = tiny.trainable_parameters()
    assert set(dict(tiny.clip.named_parameters())) - set(trainable) == {"logit_scale"}
    assert tiny.clip.logit_scale.requires_grad is False
    assert all(parameter.requires_grad for parameter in trainable.values())


def test_the_order_of_the_trainable_parameters_is_fixed(tiny):
    assert list(tiny.trainable_parameters()) == list(_load("tiny").trainable_parameters())


def test_an_expert_copy_is_independent(tiny):
    before = tiny.info.weights_sha256
    copy = tiny.expert_copy()
    with torch.no_grad():
        for parameter in copy.trainable_parameters().values():
            parameter.add_(1.0)
    assert weights_sha256(tiny) == before


def test_an_expert_copy_shares_the_tokenizer(tiny):
    """To copy it takes several times as long as to copy the weights of `tiny`."""
    assert tiny.expert_copy()._tokenizer is tiny._tokenizer


# Identity


def test_tiny_has_the_same_weights_every_time(tiny):
    assert _load("tiny").info == tiny.info
    assert tiny.info.weights_sha256 == weights_sha256(tiny)


def test_loading_leaves_the_callers_random_state_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    _load("tiny")
    assert torch.equal(torch.get_rng_state(), before)


def test_one_flipped_value_changes_the_hash(tiny):
    copy = tiny.expert_copy()
    with torch.no_grad():
        copy.clip.visual.proj[0, 0] *= -1
    assert weights_sha256(copy) != tiny.info.weights_sha256


def test_the_hash_covers_names_types_and_shapes():
    def module(name: str, tensor: torch.Tensor) -> nn.Module:
        holder = nn.Module()
        holder.register_buffer(name, tensor)
        return holder

    zeros = torch.zeros(2, 3)
    hashes = {
        weights_sha256(module("w", zeros)),
        weights_sha256(module("v", zeros)),
        weights_sha256(module("w", zeros.T.contiguous())),
        weights_sha256(module("w", zeros.to(torch.int32))),
    }
    assert len(hashes) == 4


def test_the_memory_format_does_not_change_the_hash():
    convolution = nn.Conv2d(3, 4, 3)
    before = weights_sha256(convolution)
    convolution.to(memory_format=torch.channels_last)
    assert not convolution.weight.is_contiguous()
    assert weights_sha256(convolution) == before


def test_a_module_with_a_scalar_can_be_hashed():
    holder = nn.Module()
    holder.register_buffer("scale", torch.tensor(1.5))
    other = nn.Module()
    other.register_buffer("scale", torch.tensor(1.25))
    assert weights_sha256(holder) != weights_sha256(other)


# Deltas


@pytest.fixture
def expert(tiny):
    """A copy whose parameters moved a little."""
    copy = tiny.expert_copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in copy.trainable_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-2)
    return copy


def test_a_delta_is_expert_minus_base_in_the_registrys_order(tiny, expert):
    delta = delta_of(tiny, expert)
    assert list(delta) == list(tiny.trainable_parameters())
    assert all(values.dtype == np.float32 for values in delta.values())
    name = "visual.proj"
    expected = (expert.clip.visual.proj - tiny.clip.visual.proj).detach().numpy()
    assert np.array_equal(delta[name], expected)


def test_the_weights_are_the_parameters_themselves_in_the_registrys_order(tiny):
    model = tiny.expert_copy()
    weights = weights_of(model)
    assert list(weights) == list(model.trainable_parameters())
    assert "logit_scale" not in weights
    weights["visual.proj"][...] = 3.0
    assert (model.clip.visual.proj == 3.0).all()


def test_weights_in_channels_last_layout_are_shared_too(tiny):
    model = tiny.expert_copy()
    model.clip.visual.to(memory_format=torch.channels_last)
    weights = weights_of(model)["visual.conv1.weight"]
    assert weights.shape == tuple(model.clip.visual.conv1.weight.shape)
    weights[...] = 3.0
    assert (model.clip.visual.conv1.weight == 3.0).all()


def test_an_expert_is_restored_from_its_delta(tiny, expert, pixels):
    rebuilt = tiny.expert_copy()
    base, target = weights_of(tiny), weights_of(rebuilt)
    for name, delta in delta_of(tiny, expert).items():
        target[name][...] = base[name] + delta
    for name, parameter in expert.trainable_parameters().items():
        found = rebuilt.trainable_parameters()[name]
        assert torch.allclose(found, parameter, rtol=0, atol=1e-6), name
    with torch.inference_mode():
        assert torch.allclose(
            rebuilt.encode_images(pixels), expert.encode_images(pixels), atol=1e-5
        )


# Text classifiers


def test_a_class_name_goes_where_the_template_says():
    assert fill_template("a {}, seen {from} above", "{} cat") == "a {} cat, seen {from} above"


def test_text_features_are_unit_vectors(tiny):
    features = text_features(tiny, ["cat", "dog", "sea or lake"], ["a {}.", "the {}"])
    assert features.shape[0] == 3
    assert norms(features) == pytest.approx([1, 1, 1], abs=1e-5)


def test_text_features_are_the_normalised_mean_over_templates(tiny):
    with torch.inference_mode():
        both = tiny.encode_texts(["a cat.", "the cat"])
    expected = functional.normalize(both.mean(dim=0), dim=-1)
    assert torch.allclose(text_features(tiny, ["cat"], ["a {}.", "the {}"])[0], expected, atol=1e-6)


def test_batches_of_prompts_leave_no_trace(tiny, monkeypatch):
    names, templates = ["cat", "dog", "bird"], ["a {}.", "the {}"]
    whole = text_features(tiny, names, templates)
    monkeypatch.setattr("condu_cli.backbone.classifiers.BATCH", 2)
    assert torch.allclose(text_features(tiny, names, templates), whole, atol=1e-6)


# Devices


def test_cpu_is_always_there():
    assert resolve_device("cpu") == "cpu"


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"


def test_a_numbered_gpu_must_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="'cuda:2' is not available"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["tpu", "", "cpu:0", "cuda:x", "cuda:-1", "CPU"])
def test_an_unknown_device_is_a_usage_error(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="is not available") as caught:
        resolve_device(name)
    assert "--device cpu" in hint_of(caught.value)
