"""Training a part of a model: the rest of every expert is the base model's."""

import pytest
import torch

from condu_cli.backbone.deltas import delta_of, weights_of
from condu_cli.backbone.dual_encoder import TRAIN_CHOICES, weights_sha256
from condu_cli.cli.hints.making import hint_of
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import BaseModelError, UsageError
from condu_cli.train.finetune import TrainingData, finetune
from condu_cli.train.recipe import Recipe


@pytest.fixture
def image(tiny):
    return tiny.restricted_to(tiny.tower_parameters("image"))


def test_the_two_towers_make_up_the_whole(tiny):
    whole, image, text = (tiny.tower_parameters(train) for train in TRAIN_CHOICES)
    assert whole == list(tiny.trainable_parameters())
    assert image
    assert text
    assert sorted(image + text) == sorted(whole)
    assert all(name.startswith("visual.") for name in image)
    assert "token_embedding.weight" in text
    assert "logit_scale" not in whole


def test_a_third_tower_is_refused(tiny):
    with pytest.raises(UsageError, match="unknown part of a model: 'audio'") as caught:
        tiny.tower_parameters("audio")
    assert "whole, image, text" in hint_of(caught.value)


def test_only_the_named_parameters_are_trainable_in_the_order_given(tiny):
    names = tiny.tower_parameters("text")[::-1]
    restricted = tiny.restricted_to(names)
    assert list(restricted.trainable_parameters()) == names
    assert list(weights_of(restricted)) == names


def test_the_base_model_itself_stays_unchanged(tiny):
    before = list(tiny.trainable_parameters())
    tiny.restricted_to(before[:1]).expert_copy()
    assert list(tiny.trainable_parameters()) == before
    assert all(p.requires_grad for p in tiny.trainable_parameters().values())


def test_a_restricted_model_is_the_same_model_and_shares_its_weights(tiny, image):
    assert image.info == tiny.info
    assert weights_sha256(image) == tiny.info.weights_sha256
    for name, parameter in image.trainable_parameters().items():
        assert parameter is tiny.trainable_parameters()[name]


def test_a_restriction_can_be_replaced(tiny, image):
    text = tiny.tower_parameters("text")
    assert list(image.restricted_to(text).trainable_parameters()) == text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["visual.proj", "nothing"], "no parameter called 'nothing'$"),
        (["a", "b", "logit_scale"], r"no parameter called 'a' \(and 2 more\)"),
        ([], "no parameters to train"),
    ],
)
def test_unknown_names_are_refused(tiny, names, message):
    with pytest.raises(BaseModelError, match=message) as caught:
        tiny.restricted_to(names)
    assert caught.value.exit_code == 13


def test_gradients_reach_the_trainable_parameters_of_a_copy_only(image):
    copy = image.expert_copy()
    trainable = {id(parameter) for parameter in copy.trainable_parameters().values()}
    assert trainable
    for parameter in copy.parameters():
        assert parameter.requires_grad is (id(parameter) in trainable)


@pytest.mark.parametrize("train", ["image", "text"])
def test_fine_tuning_changes_that_tower_and_nothing_else(tiny, train, tmp_path, make_pictures):
    data = read_folder(make_pictures(tmp_path / "colours", ("blue", "red"), 5, 16))
    restricted = tiny.restricted_to(tiny.tower_parameters(train))
    expert = restricted.training_copy()
    recipe = Recipe(3, 3e-3, image_size=32, batch_size=4)
    finetune(expert, TrainingData(PictureSet(data.train), data.class_names), recipe)
    delta = delta_of(restricted, expert)
    assert list(delta) == tiny.tower_parameters(train)
    assert any(values.any() for values in delta.values())
    before, after = tiny.clip.state_dict(), expert.clip.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= set(delta)


def test_the_towers_of_mini_are_named_too():
    from condu_cli.backbone.base_models import load_base

    mini = load_base("mini")
    image, text = mini.tower_parameters("image"), mini.tower_parameters("text")
    assert all(name.startswith("image") for name in image)
    assert all(name.startswith("text.") for name in text)
    assert image + text == list(mini.trainable_parameters())
    assert set(mini.trainable_parameters()) <= set(mini.library_model.state_dict())
    expert = mini.restricted_to(image).expert_copy()
    assert expert.temperature != mini.temperature


def test_the_late_part_of_an_image_tower_is_all_but_its_early_stages():
    from condu_cli.backbone.base_models import load_base

    mini = load_base("mini").training_copy()
    late, image = (set(mini.tuning(part).trainable_parameters()) for part in ("late", "image"))
    assert "image_projection" in late
    assert "image.blocks.3.0.conv_pw.weight" in late
    early = image - late
    assert {"image.conv_stem.weight", "image.blocks.2.0.conv_pw.weight"} <= early
    assert all(name.startswith(mini.early_stages) for name in early)
    expert = mini.tuning("late")
    assert not dict(expert.named_parameters())["image.conv_stem.weight"].requires_grad


def test_a_model_whose_early_stages_are_not_known_is_tuned_whole(tiny):
    expert = tiny.training_copy()
    late, image = (list(expert.tuning(p).trainable_parameters()) for p in ("late", "image"))
    assert late == image
