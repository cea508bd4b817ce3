"""Folded batch norms: timm's outputs and gradients, with less to keep for the backward pass."""

import copy

import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.lora.spec import LoraSpec
from condu_cli.backbone.models.folded_norms import feature_map


@pytest.fixture(scope="module")
def mini():
    return load_base("mini")


@pytest.fixture
def tower(mini):
    """The image tower in float64, with every weight off the base model's, to be trained."""
    tower = copy.deepcopy(mini.image).double().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tower.parameters():
            noise = torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
            weight.mul_(0.95 + 0.1 * noise)
    return tower


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)


def gradients(tower, features):
    tower.zero_grad(set_to_none=True)
    features.square().mean().backward()
    return {n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None}


def kept_bytes(compute):
    """The bytes of the feature maps (2, C, H, W) that a forward pass keeps for the backward."""
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.ndim == 4 and len(tensor) == 2:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = compute()
    assert features.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("size", [64, 75])
def test_outputs_and_gradients_are_those_of_timm(tower, size):
    pixels = torch.randn(2, 3, size, size, dtype=torch.float64)
    theirs, ours = tower.forward_features(pixels), feature_map(tower, pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    expected, found = gradients(tower, theirs), gradients(tower, ours)
    assert found.keys() == expected.keys()
    assert {"bn1.weight", "bn1.bias", "blocks.1.0.bn3.weight", "conv_head.weight"} <= found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9 * gradient.norm())


def test_half_of_what_timm_keeps_for_the_gradient_is_kept(tower, pixels):
    ours = kept_bytes(lambda: feature_map(tower, pixels))
    theirs = kept_bytes(lambda: tower.forward_features(pixels))
    assert ours < 0.6 * theirs


def test_lora_factors_give_the_outputs_and_gradients_of_pefts_layers(mini, pixels):
    spec = LoraSpec(4, 4.0, mini.lora_targets("image"))
    expert = mini.with_lora(spec).training_copy()
    tower = expert.image.double()
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    theirs, ours = tower.forward_features(pixels), feature_map(tower, pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    expected, found = gradients(tower, theirs), gradients(tower, ours)
    assert found.keys() == expected.keys() != set()
    assert all("lora_" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9 * gradient.norm())
    ours = kept_bytes(lambda: feature_map(tower, pixels))
    assert ours < 0.5 * kept_bytes(lambda: tower.forward_features(pixels))


def test_two_passes_give_the_same_gradients_bit_for_bit(mini):
    pixels = mini.prepare_pixels(torch.rand(4, 3, 64, 64))
    first, second = (
        gradients(tower, feature_map(tower, pixels))
        for tower in (copy.deepcopy(mini.image).requires_grad_() for _ in range(2))
    )
    assert first.keys() == second.keys() != set()
    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.inference_mode()
def test_mini_computes_its_pooled_features_this_way(mini):
    pixels = mini.prepare_pixels(torch.rand(2, 3, 96, 96))
    pooled = mini.image.forward_head(feature_map(mini.image, pixels), pre_logits=True)
    assert torch.equal(mini.pool_images(pixels), pooled)
    theirs = mini.image.forward_head(mini.image.forward_features(pixels), pre_logits=True)
    assert torch.allclose(pooled, theirs, rtol=1e-4, atol=1e-5)
