"""What is settled about open_clip weights before a model is built; nothing is downloaded."""

import json

import open_clip
import pytest

from condu_cli.backbone.models.open_clip_specs import (
    openai_preparation,
    resolve,
    tag_preparation,
    usual_preparation,
)
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, UsageError
from condu_cli.preprocessing import Preparation

HALF, ZERO, ONE = (0.5,) * 3, (0.0,) * 3, (1.0,) * 3
SIGLIP = Preparation(HALF, HALF, "bicubic", "squash")


@pytest.fixture
def weights(tmp_path):
    """The path of a checkpoint; that there is no file is found out later."""
    return tmp_path / "weights.safetensors"


def configure(folder, **config):
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("architecture", "preparation", "grounds"),
    [
        ("ViT-B-16-SigLIP", SIGLIP, "like all pretrained weights of ViT-B-16-SigLIP"),
        ("MobileCLIP-S1", Preparation(ZERO, ONE, "bilinear"), "like all pretrained weights"),
        ("ViT-B-32", openai_preparation(), "like all pretrained weights of ViT-B-32"),
        ("ViT-B-32-quickgelu", openai_preparation(), "like all pretrained weights of ViT-B-32"),
        ("ViT-L-14", openai_preparation(), "ViT-L-14's weights laion2b_s32b_b82k need another"),
        ("ViT-S-16", openai_preparation(), "like OpenAI's CLIP"),
    ],
)
def test_a_checkpoint_that_states_nothing_is_like_its_relatives(
    weights, architecture, preparation, grounds
):
    spec = resolve(architecture, str(weights))
    assert spec.preparation == preparation
    assert grounds in spec.assumed
    assert (spec.preparation, spec.assumed) == usual_preparation(architecture)


def test_every_pretrained_weight_of_open_clip_can_be_prepared_for():
    pairs = open_clip.list_pretrained()
    assert len(pairs) > 100
    assert all(isinstance(tag_preparation(*pair), Preparation) for pair in pairs)
    assert tag_preparation("ViT-B-16", "no-such-tag") is None


def test_what_open_clip_writes_beside_a_checkpoint_is_stated(weights):
    prepared = {"mean": HALF, "std": HALF, "resize_mode": "squash", "size": 224, "mode": "RGB"}
    configure(weights.parent, preprocess_cfg=prepared, model_cfg={"embed_dim": 512})
    spec = resolve("ViT-B-16", str(weights))
    assert (spec.preparation, spec.assumed, spec.quick_gelu) == (SIGLIP, None, False)


def test_values_that_the_configuration_leaves_out_are_open_clips(weights):
    configure(weights.parent, preprocess_cfg={"mean": HALF, "std": None})
    spec = resolve("ViT-B-16", str(weights))
    usual = openai_preparation()
    assert spec.preparation == Preparation(HALF, usual.std)


def test_a_configuration_of_the_model_alone_states_the_activation_alone(weights):
    configure(weights.parent, model_cfg={"embed_dim": 512, "quick_gelu": True})
    spec = resolve("ViT-B-16", str(weights))
    assert spec.quick_gelu
    assert spec.assumed is not None


def test_a_name_with_another_activation_than_stated_is_refused(weights):
    configure(weights.parent, model_cfg={"embed_dim": 512})
    with pytest.raises(UsageError, match="uses QuickGELU, but the weights") as refused:
        resolve("ViT-B-16-quickgelu", str(weights))
    assert hint_of(refused.value) == f"Use ViT-B-16:{weights}"


def test_a_configuration_of_another_model_is_refused(weights):
    configure(weights.parent, model_cfg={"embed_dim": 768}, preprocess_cfg={})
    with pytest.raises(UsageError, match="a model with 768 features, but ViT-B-16 has 512"):
        resolve("ViT-B-16", str(weights))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "cannot be read"),
        ("[]", "is not a configuration of open_clip"),
        (" " * (1 << 21), "is not a configuration of open_clip"),
        ('{"preprocess_cfg": {"resize_mode": "longest"}}', "shortest or squash, not 'longest'"),
        ('{"preprocess_cfg": {"mean": 0.5}}', "mean must be three numbers"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(weights, text, said):
    file = weights.with_name("open_clip_config.json")
    file.write_text(text)
    with pytest.raises(BaseModelError, match=said) as refused:
        resolve("ViT-B-16", str(weights))
    assert str(file) in refused.value.message
    assert "--image-mean" in hint_of(refused.value)
