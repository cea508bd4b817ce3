"""The loss of an iteration equals the plain loop's, with less work."""

import pytest
import torch
from torch.nn import functional

from condu_cli.backbone.base_models import load_base
from condu_cli.train.objective import Objective
from condu_cli.train.recipe import Recipe

NAMES = ("cat", "a very long name of a class of many words", "dog", "aeroplane", "dogs and cats")
RECIPE = Recipe(1, 1e-3, image_size=32)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, 3, 32, 32, generator=generator)
    return pixels, torch.tensor([0, 1, 2, 3, 4, 0])


def plain_loop(model, pixels, labels):
    """Compute loss and gradients like the authors' loop: one graph, the whole context."""
    tokens = model.tokenize([f"a photo of a {name}." for name in NAMES])
    logits = model.logit_scale_value * model.encode_images(pixels) @ model.encode_tokens(tokens).T
    loss = functional.cross_entropy(logits, labels, label_smoothing=RECIPE.label_smoothing)
    loss.backward()
    return loss.detach(), gradients(model)


def gradients(model):
    return {
        n: p.grad.clone() for n, p in model.trainable_parameters().items() if p.grad is not None
    }


@pytest.mark.parametrize("train", ["whole", "image", "text"])
@pytest.mark.parametrize("parts", [1, 3])
def test_loss_and_gradients_are_those_of_the_plain_loop(batch, train, parts):
    base = load_base("tiny")
    base = base.restricted_to(base.tower_parameters(train))
    loss, expected = plain_loop(base.training_copy(), *batch)

    model = base.training_copy()
    objective = Objective(model, NAMES, RECIPE)
    cut = zip(batch[0].chunk(parts), batch[1].chunk(parts), strict=True)
    found = objective.accumulate(cut, batch_size=6)

    assert found.item() == pytest.approx(loss.item(), abs=1e-5)
    assert set(gradients(model)) == set(expected)
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name


def test_lora_factors_get_the_gradient_of_the_plain_loop(batch):
    from condu_cli.workflows.opening.workspace import new_config, trained_part

    base = load_base("tiny")
    base = trained_part(base, new_config(base, "lora"))
    loss, expected = plain_loop(base.training_copy(), *batch)
    model = base.training_copy()
    found = Objective(model, NAMES, RECIPE).accumulate([batch], batch_size=6)
    assert found.item() == pytest.approx(loss.item(), abs=1e-5)
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name


def test_classes_of_one_prompt_share_its_features(batch):
    model = load_base("tiny").training_copy()
    calls = []
    encode = model.encode_tokens
    model.encode_tokens = lambda tokens: calls.append(len(tokens["ids"])) or encode(tokens)
    objective = Objective(model, ("cat", "dog", "cat"), RECIPE)
    objective.accumulate([(batch[0], batch[1] % 3)], 6)
    assert sum(calls) == 2


def test_a_frozen_text_tower_is_run_once(batch):
    base = load_base("tiny")
    model = base.restricted_to(base.tower_parameters("image")).training_copy()
    calls = []
    encode = model.encode_tokens
    model.encode_tokens = lambda tokens: calls.append(1) or encode(tokens)
    objective = Objective(model, NAMES, RECIPE)
    once = len(calls)
    objective.accumulate([batch], 6)
    objective.accumulate([batch], 6)
    assert once == len(calls) > 0


def test_right_answers_are_counted(batch):
    model = load_base("tiny").training_copy()
    objective = Objective(model, NAMES, RECIPE)
    tokens = model.tokenize([f"a photo of a {name}." for name in NAMES])
    with torch.inference_mode():
        answers = (model.encode_images(batch[0]) @ model.encode_tokens(tokens).T).argmax(dim=1)
    measured = objective.measure([(batch[0], answers)])
    assert measured.logits.shape == (6, 5)
    assert measured.right.all()
    assert not objective.measure([(batch[0], (answers + 1) % 5)]).right.any()


def test_the_loss_is_that_of_the_scores_times_the_temperature(batch):
    model = load_base("tiny").training_copy()
    measured = Objective(model, NAMES, RECIPE).measure([batch])
    objective = Objective(model, NAMES, RECIPE, temperature=3.0)
    expected = functional.cross_entropy(3 * measured.logits, batch[1], label_smoothing=0.2)
    assert objective.accumulate([batch], batch_size=6).item() == pytest.approx(expected.item())
    assert torch.equal(objective.measure([batch]).logits, measured.logits)
