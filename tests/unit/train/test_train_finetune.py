"""Fine-tuning: it learns, repeats bit for bit, and touches nothing else."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from condu_cli.backbone.base import weights_sha256
from condu_cli.backbone.catalog import load_base
from condu_cli.data.folders import read_folder
from condu_cli.data.loading import PictureSet
from condu_cli.errors import DataError
from condu_cli.train.finetune import LOSS_WINDOW, finetune, shuffled_batches
from condu_cli.train.recipe import Recipe

RECIPE = Recipe(30, 3e-3, image_size=32, batch_size=8, warmup_iterations=3)
SHORT = replace(RECIPE, iterations=3)
NAMES = ("blue", "red")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, make_pictures):
    root = make_pictures(tmp_path_factory.mktemp("colours"), NAMES, per_class=10, size=16)
    return PictureSet(read_folder(root).train)


def train(pictures, recipe=SHORT, on_step=None):
    expert = load_base("tiny").expert_copy()
    result = finetune(expert, pictures, NAMES, recipe, on_step)
    return expert, result


# Batches


@pytest.mark.parametrize(("count", "size"), [(10, 5), (10, 3), (7, 7), (5, 4)])
def test_every_epoch_covers_every_index_once(count, size):
    batches = shuffled_batches(count, size, seed=0)
    order = []
    while len(order) < 3 * count:
        order += next(batches)
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_are_shuffled_differently():
    batches = shuffled_batches(50, 50, seed=0)
    assert next(batches) != next(batches)


def test_all_batches_have_the_same_size():
    batches = shuffled_batches(10, 4, seed=0)
    assert {len(next(batches)) for _ in range(20)} == {4}


def test_a_batch_is_no_larger_than_the_data_set():
    assert sorted(next(shuffled_batches(3, 32, seed=0))) == [0, 1, 2]


def test_the_order_belongs_to_the_seed():
    def first(seed):
        return next(shuffled_batches(50, 20, seed))

    assert first(1) == first(1)
    assert first(1) != first(2)


# Training


def test_the_loss_falls_on_classes_that_can_be_told_apart(pictures):
    losses = []
    _, result = train(pictures, RECIPE, lambda step: losses.append(step.loss))
    assert losses[-1] < 0.75 * losses[0]
    assert result.final_loss == pytest.approx(np.mean(losses[-LOSS_WINDOW:]))


def test_every_step_is_reported_from_one_to_the_last(pictures):
    steps = []
    train(pictures, SHORT, steps.append)
    assert [(s.iteration, s.iterations) for s in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(s.images_per_second > 0 for s in steps)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(pictures):
    first, second = (train(pictures)[0] for _ in range(2))
    assert weights_sha256(first) == weights_sha256(second)
    assert weights_sha256(first) != load_base("tiny").info.weights_sha256


def test_another_seed_gives_other_weights(pictures):
    other, _ = train(pictures, replace(SHORT, seed=1))
    assert weights_sha256(other) != weights_sha256(train(pictures)[0])


def test_the_callers_random_state_neither_matters_nor_changes(pictures):
    torch.manual_seed(1)
    first, _ = train(pictures)
    torch.manual_seed(2)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    second, _ = train(pictures)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert weights_sha256(first) == weights_sha256(second)


def test_both_towers_learn(pictures):
    expert, _ = train(pictures)
    base = load_base("tiny")
    changed = {
        name
        for name, parameter in expert.trainable_parameters().items()
        if not torch.equal(parameter, base.trainable_parameters()[name])
    }
    assert "visual.proj" in changed
    assert "text_projection" in changed


def test_buffers_and_the_logit_scale_stay_those_of_the_base_model(pictures):
    expert, _ = train(pictures)
    base = load_base("tiny")
    for (name, mine), theirs in zip(expert.named_buffers(), base.buffers(), strict=True):
        assert torch.equal(mine, theirs), name
    assert torch.equal(expert.clip.logit_scale, base.clip.logit_scale)


def test_embeddings_of_words_that_no_prompt_uses_do_not_move(pictures):
    expert, _ = train(pictures)
    moved = expert.clip.token_embedding.weight != load_base("tiny").clip.token_embedding.weight
    used = set(
        expert.tokenize([f"a photo of a {name}." for name in NAMES])["ids"].flatten().tolist()
    )
    assert set(moved.any(dim=1).nonzero().flatten().tolist()) <= used


def test_the_base_model_is_not_changed(pictures):
    train(pictures)
    base = load_base("tiny")
    assert weights_sha256(base) == base.info.weights_sha256


def test_the_template_of_the_recipe_is_the_prompt(pictures):
    other, _ = train(pictures, replace(SHORT, template="{} texture."))
    assert weights_sha256(other) != weights_sha256(train(pictures)[0])


def test_training_that_diverges_is_an_error_that_names_the_learning_rate(pictures):
    with pytest.raises(DataError, match="diverged at iteration") as caught:
        train(pictures, replace(RECIPE, learning_rate=float("inf"), warmup_iterations=0))
    assert "--lr inf" in caught.value.hint
