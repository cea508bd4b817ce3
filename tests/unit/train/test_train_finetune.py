"""Fine-tuning learns, is reproducible bit for bit, and touches nothing else."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.dual_encoder import weights_sha256
from condu_cli.cli.hints.making import hint_of
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import seeded_training_transform
from condu_cli.data.sources.folders import read_folder
from condu_cli.errors import DataError, DivergedError, IntegrityError, UsageError
from condu_cli.train.finetune import (
    LOSS_WINDOW,
    Hooks,
    TrainingData,
    TrainingInterruptedError,
    finetune,
)
from condu_cli.train.objective import Measured, Objective
from condu_cli.train.recipe import Recipe
from condu_cli.train.run_state import RunState

RECIPE = Recipe(30, 3e-3, image_size=32, batch_size=8, warmup_iterations=3)
SHORT = replace(RECIPE, iterations=3)
NAMES = ("blue", "red")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, make_pictures):
    root = make_pictures(tmp_path_factory.mktemp("colours"), NAMES, per_class=10, size=16)
    return PictureSet(read_folder(root).train)


def train(pictures, recipe=SHORT, on_step=lambda _: None, validation=None):
    expert = load_base("tiny").training_copy()
    data = TrainingData(pictures, NAMES, validation)
    result = finetune(expert, data, recipe, Hooks(on_step=on_step))
    return expert, result


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
    assert "--lr inf" in hint_of(caught.value)


@pytest.fixture
def diverging(monkeypatch):
    """Make the loss of iteration 20 NaN."""
    accumulate, count = Objective.accumulate, iter(range(1, 1000))

    def broken(self, parts, size):
        loss = accumulate(self, parts, size)
        return loss * torch.nan if next(count) == 20 else loss

    monkeypatch.setattr(Objective, "accumulate", broken)


BEST = replace(RECIPE, keep="best", validate_every=6)


def test_where_the_best_is_kept_a_run_that_diverges_ends_with_it(pictures, diverging):
    expert, result = train(pictures, BEST, validation=pictures)
    assert result.diverged == "training diverged at iteration 20: the loss is nan"
    assert (result.iterations, result.stopped_early) == (19, True)
    assert result.kept_iteration in (6, 12, 18)
    assert all(bool(p.isfinite().all()) for p in expert.parameters())


@pytest.mark.parametrize("values", [{"keep": "last"}, {"validate_every": 25}])
def test_without_a_best_it_is_an_error(pictures, diverging, values):
    with pytest.raises(DivergedError):
        train(pictures, replace(BEST, **values), validation=pictures)


def test_a_best_no_better_than_guessing_does_not_count(pictures, diverging, monkeypatch):
    right = torch.arange(len(pictures)) % 2
    half = Measured(torch.eye(2)[(pictures.labels + right) % 2], pictures.labels)
    monkeypatch.setattr(Objective, "measure", lambda *_: half)
    with pytest.raises(DivergedError):
        train(pictures, BEST, validation=pictures)


def test_nan_weights_are_never_the_best(pictures):
    recipe = replace(BEST, learning_rate=float("inf"), warmup_iterations=0, validate_every=1)
    with pytest.raises(DivergedError):
        train(pictures, recipe, validation=pictures)


# Parts of a batch


@pytest.mark.parametrize("parts", [2, 3, 8, 50])
def test_a_batch_in_parts_gives_the_same_losses(pictures, parts):
    losses: dict[int, list[float]] = {1: [], parts: []}
    for accumulation, found in losses.items():
        recipe = replace(SHORT, accumulation=accumulation)
        train(pictures, recipe, lambda step, found=found: found.append(step.loss))
    assert losses[parts] == pytest.approx(losses[1], abs=1e-5)


def test_the_gradient_is_cut_to_the_norm(pictures):
    still, _ = train(pictures, replace(SHORT, clip_norm=1e-12, weight_decay=0.0))
    # AdamW normalises by the gradient's size: only gradients below its epsilon hardly move.
    moved = [
        float((p - q).detach().abs().max())
        for p, q in zip(
            still.trainable_parameters().values(),
            load_base("tiny").trainable_parameters().values(),
            strict=True,
        )
    ]
    assert max(moved) < 1e-5


def test_weight_decay_pulls_weights_to_zero(pictures):
    free, _ = train(pictures)
    held, _ = train(pictures, replace(SHORT, weight_decay=1.0))
    assert held.clip.visual.proj.norm() < free.clip.visual.proj.norm()


def test_bfloat16_keeps_weights_in_float32_and_comes_close(pictures):
    full, half = (
        train(pictures, replace(SHORT, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert half[1].final_loss == pytest.approx(full[1].final_loss, abs=0.05)
    assert {p.dtype for p in half[0].parameters()} == {torch.float32}


# Measuring


def test_the_run_measures_itself_on_what_was_held_out(pictures):
    _, result = train(pictures, replace(RECIPE, validate_every=10), validation=pictures)
    assert [measured["iteration"] for measured in result.validation] == [10, 20, 30]
    assert result.validation[-1]["accuracy"] > 0.9
    assert result.kept_iteration == 30


def test_the_best_weights_are_kept_where_that_is_asked_for(pictures):
    # The learning rate is so high that the best measurement is not the last.
    recipe = replace(
        RECIPE, learning_rate=0.3, warmup_iterations=0, validate_every=1, keep="best", seed=3
    )
    expert, result = train(pictures, recipe, validation=pictures)
    best = max(result.validation, key=lambda measured: measured["accuracy"])
    assert result.kept_iteration == best["iteration"] < 30
    cut, _ = train(pictures, replace(recipe, patience=30 - best["iteration"]), validation=pictures)
    assert weights_sha256(cut) == weights_sha256(expert)
    assert weights_sha256(train(pictures, replace(recipe, keep="last"))[0]) != weights_sha256(cut)


def test_a_run_that_gets_no_better_ends_early(pictures):
    recipe = replace(RECIPE, learning_rate=1e-12, validate_every=2, patience=3)
    _, result = train(pictures, recipe, validation=pictures)
    assert result.stopped_early
    assert result.iterations == 8  # the first measurement is the best, three are not


# Resuming after an interruption


def interrupted(pictures, recipe, after, validation=None) -> RunState:
    """Return the state of a run that was stopped after this many iterations."""
    expert = load_base("tiny").training_copy()
    done = []
    hooks = Hooks(on_step=done.append, stop_requested=lambda: len(done) == after)
    with pytest.raises(TrainingInterruptedError) as stopped:
        finetune(expert, TrainingData(pictures, NAMES, validation), recipe, hooks)
    return stopped.value.state


@pytest.mark.parametrize("after", [1, 4, 9])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(pictures, after, keep):
    recipe = replace(
        RECIPE, iterations=10, accumulation=2, clip_norm=1.0, validate_every=3, keep=keep
    )
    whole, expected = train(pictures, recipe, validation=pictures)
    state = interrupted(pictures, recipe, after, pictures)
    assert state.history["iteration"] == after

    resumed = load_base("tiny").training_copy()
    result = finetune(resumed, TrainingData(pictures, NAMES, pictures), recipe, start=state)

    assert weights_sha256(resumed) == weights_sha256(whole)
    assert result.final_loss == expected.final_loss
    assert result.validation == expected.validation


def test_a_state_does_not_change_when_the_run_goes_on(pictures):
    saved: list[RunState] = []
    hooks = Hooks(save=saved.append, save_every=1)
    expert = load_base("tiny").training_copy()
    finetune(expert, TrainingData(pictures, NAMES), SHORT, hooks)
    assert [state.history["iteration"] for state in saved] == [1, 2]  # the last is the result
    first, second = (state.arrays["weight/visual.proj"] for state in saved)
    assert not np.array_equal(first, second)
    assert first.dtype == np.float32


def test_a_run_can_be_saved_at_its_end_and_ends_there_again(pictures):
    saved, again = [], []
    whole = load_base("tiny").training_copy()
    data = TrainingData(pictures, NAMES)
    expected = finetune(whole, data, SHORT, Hooks(save=saved.append, save_at_end=True))
    (state,) = saved
    assert state.history["iteration"] == SHORT.iterations

    resumed = load_base("tiny").training_copy()
    hooks = Hooks(on_step=again.append, save=again.append, save_at_end=True)
    result = finetune(resumed, data, SHORT, hooks, start=state)
    assert again == []
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert (result.final_loss, result.iterations) == (expected.final_loss, SHORT.iterations)


def test_a_run_that_ended_early_is_over_when_it_is_resumed(pictures):
    recipe = replace(RECIPE, learning_rate=1e-12, validate_every=2, patience=3)
    saved = []
    data = TrainingData(pictures, NAMES, pictures)
    hooks = Hooks(save=saved.append, save_at_end=True)
    expected = finetune(load_base("tiny").training_copy(), data, recipe, hooks)
    result = finetune(load_base("tiny").training_copy(), data, recipe, start=saved[-1])
    assert result.iterations == expected.iterations < recipe.iterations


def test_a_state_of_other_parameters_is_refused(pictures):
    state = interrupted(pictures, SHORT, 1)
    arrays = {name: values for name, values in state.arrays.items() if "visual.proj" not in name}
    with pytest.raises(IntegrityError, match="other parameters"):
        finetune(
            load_base("tiny").training_copy(),
            TrainingData(pictures, NAMES),
            SHORT,
            start=RunState(arrays, state.history),
        )


def test_more_processes_than_pictures_in_a_batch_are_refused(pictures):
    class Crowd:
        rank, size, device = 0, 9, ""

    with pytest.raises(UsageError, match="cannot be divided among 9 processes"):
        finetune(
            load_base("tiny").training_copy(), TrainingData(pictures, NAMES), SHORT, team=Crowd()
        )


@pytest.mark.parametrize(("crop_size", "expected"), [(0, 32), (24, 24)])
def test_training_crops_have_their_own_size(pictures, monkeypatch, crop_size, expected):
    sizes = []

    def recorded(size, *args):
        sizes.append(size)
        return seeded_training_transform(RECIPE.image_size, *args)  # what `tiny` takes

    monkeypatch.setattr("condu_cli.train.finetune.seeded_training_transform", recorded)
    train(pictures, replace(SHORT, crop_size=crop_size))
    assert sizes == [expected]
