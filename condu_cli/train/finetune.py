"""Fine-tune a copy of the base model on one task's pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from condu_cli.backbone.classifiers import fill_template
from condu_cli.data.transforms import training_transform
from condu_cli.errors import DataError
from condu_cli.train.recipe import Recipe, learning_rate_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from condu_cli.backbone.base import DualEncoder
    from condu_cli.data.loading import PictureSet

LOSS_WINDOW = 10
"""The final loss is the mean over this many last iterations."""


@dataclass(frozen=True)
class Step:
    """What a progress display needs after an iteration (counted from 1)."""

    iteration: int
    iterations: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class FinetuneResult:
    """Losses of a finished run; time in seconds."""

    final_loss: float
    train_seconds: float


def finetune(
    model: DualEncoder,
    pictures: PictureSet,
    class_names: Sequence[str],
    recipe: Recipe,
    on_step: Callable[[Step], None] | None = None,
) -> FinetuneResult:
    """Train both towers in place with cross entropy over the task's class prompts.

    The class prompts are encoded again at every iteration, because the text tower learns too.
    Two runs with the same recipe, pictures and machine give the same weights; the caller's
    random state is left alone.

    Raises:
        DataError: the loss is no longer a number (the learning rate is too high).

    """
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        losses = list(_iterate(model, pictures, class_names, recipe, on_step, started))
    tail = losses[-LOSS_WINDOW:]
    return FinetuneResult(sum(tail) / max(1, len(tail)), time.perf_counter() - started)


def _iterate(
    model: DualEncoder,
    pictures: PictureSet,
    class_names: Sequence[str],
    recipe: Recipe,
    on_step: Callable[[Step], None] | None,
    started: float,
) -> Iterator[float]:
    prep = model.preprocessing
    transform = training_transform(recipe.image_size, prep.mean, prep.std, prep.interpolation)
    prompts = [fill_template(recipe.template, name) for name in class_names]
    tokens = {name: t.to(model.device) for name, t in model.tokenize(prompts).items()}
    optimizer = torch.optim.AdamW(
        list(model.trainable_parameters().values()),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    batches = shuffled_batches(len(pictures), recipe.batch_size, recipe.seed)
    seen = 0
    for iteration in range(recipe.iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, iteration)
        pixels, labels = pictures.batch(next(batches), transform)
        logits = _logits(model, pixels, tokens)
        loss = functional.cross_entropy(
            logits, labels.to(logits.device), label_smoothing=recipe.label_smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = loss.item()
        if not torch.isfinite(loss):
            raise DataError(
                f"training diverged at iteration {iteration + 1}: the loss is {value}",
                f"Lower the learning rate (it was --lr {recipe.learning_rate:g})",
            )
        seen += len(labels)
        if on_step is not None:
            speed = seen / (time.perf_counter() - started)
            on_step(Step(iteration + 1, recipe.iterations, value, speed))
        yield value


def _logits(model: DualEncoder, pixels: Tensor, tokens: dict[str, Tensor]) -> Tensor:
    """Scaled cosines of a batch with all the class prompts (B, C)."""
    images = model.encode_images(model.prepare_pixels(pixels))  # (B, E)
    texts = model.encode_tokens(tokens)  # (C, E)
    return model.logit_scale_value * images @ texts.T


def shuffled_batches(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices; every epoch is a new seeded permutation.

    A batch may span two epochs, so that all batches have the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    size = min(batch_size, count)
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
