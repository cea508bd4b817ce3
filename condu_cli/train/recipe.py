"""The recipe of a fine-tuning run: everything but the data that determines the result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """AdamW with warm-up and cosine decay, as in ConDU's released training loop.

    `image_size` is what the expert will see, in pixels; training crops have `crop_size`, 0 for the
    same. `learning_rate` is the peak; `template` is the only prompt template used in training (the
    others are used in evaluation). `batch_size` counts the pictures of an iteration over all
    processes; `accumulation` divides them into parts that are run one after another, which saves
    memory and changes nothing else. `clip_norm` is the largest norm of the gradient, 0 for no
    clipping. `precision` is what the towers compute in; weights and optimizer
    stay float32. If `validate_every` is above 0, `validation_share` of the training pictures are
    held out and measured every `validate_every` iterations; `keep` then says which weights become
    the expert, and the run ends after `patience` measurements without improvement (0: never).
    `tuned` says which of the registry's parameters are trained at all, see `DualEncoder.tuning`.
    """

    iterations: int
    learning_rate: float
    image_size: int
    batch_size: int = 32
    accumulation: int = 1
    warmup_iterations: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    label_smoothing: float = 0.2
    template: str = "a photo of a {}."
    seed: int = 0
    method: str = "full"
    precision: str = "float32"
    validate_every: int = 0
    validation_share: float = 0.0
    keep: str = "last"
    patience: int = 0
    tuned: str = "all"
    crop_size: int = 0

    def as_record(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values, for a session's training record."""
        return asdict(self)


def learning_rate_at(recipe: Recipe, iteration: int) -> float:
    """Return the rate: linear warm-up to the peak, then half a cosine to 0; counts from 0.

    Source: Loshchilov and Hutter, 2017 (arXiv 1608.03983), Eq. 5, without restarts.
    """
    if iteration < recipe.warmup_iterations:
        return recipe.learning_rate * (iteration + 1) / recipe.warmup_iterations
    decay = max(1, recipe.iterations - recipe.warmup_iterations)
    done = min(1.0, (iteration - recipe.warmup_iterations) / decay)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
