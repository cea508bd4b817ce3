"""What a training will take, measured by doing a little of it on copies that are thrown away."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from condu_cli.backbone.features import image_features
from condu_cli.data.loading import PictureSet, ReadingRules
from condu_cli.data.transforms import evaluation_transform
from condu_cli.train.finetune import Hooks, TrainingData, finetune

if TYPE_CHECKING:
    from condu_cli.backbone.base import DualEncoder
    from condu_cli.data.labelled import Sample
    from condu_cli.workflows.planning import LearnPlan

TRIAL_ITERATIONS = 3
"""The first, which also sets things up, is not counted."""
TRIAL_PICTURES = 64


@dataclass(frozen=True)
class Estimate:
    """Times in seconds; memory is the peak of this process, or of the GPU, in bytes.

    None where the system does not tell (Windows, without a GPU).
    """

    reading_seconds: float
    seconds_per_iteration: float
    train_seconds: float
    memory_bytes: int | None
    expert_bytes: int
    """What the trained expert takes on the disk until it is committed."""


def estimate(plan: LearnPlan, base: DualEncoder) -> Estimate:
    """Read a few pictures and train a few iterations of a plan.

    Raises:
        DataError: the first pictures cannot be read.

    """
    sample = _spread(plan, max(TRIAL_PICTURES, plan.recipe.batch_size))
    # A few pictures say nothing about how many are broken, and may hold a class only once.
    rules = ReadingRules(plan.request.workers, len(sample), every_class=False)
    pictures = PictureSet.for_training(sample, plan.recipe.image_size, rules=rules)
    reading = _reading_seconds(pictures, base) / len(sample)
    step = _seconds_per_iteration(plan, base, pictures)
    chosen = len(plan.data.train)
    if plan.request.prototype_images is not None:
        chosen = min(chosen, plan.request.prototype_images * len(plan.data.class_names))
    parameters = sum(p.numel() for p in base.trainable_parameters().values())
    return Estimate(
        reading_seconds=reading * chosen,
        seconds_per_iteration=step,
        train_seconds=step * plan.recipe.iterations,
        memory_bytes=_peak_bytes(base.device),
        expert_bytes=4 * parameters,
    )


def _spread(plan: LearnPlan, count: int) -> list[Sample]:
    """Some of the training pictures, from all over the set."""
    train = plan.data.train
    return list(train[:: max(1, len(train) // count)][:count])


def _reading_seconds(pictures: PictureSet, base: DualEncoder) -> float:
    """Decoding pictures once and computing their base features."""
    prep = base.preprocessing
    transform = evaluation_transform(
        prep.image_size, prep.mean, prep.std, prep.interpolation, prep.resize_mode
    )
    started = time.perf_counter()
    for _, pixels in pictures.scan(transform):
        image_features(base, pixels)
    return time.perf_counter() - started


def _seconds_per_iteration(plan: LearnPlan, base: DualEncoder, pictures: PictureSet) -> float:
    times: list[float] = []
    recipe = replace(
        plan.recipe, iterations=TRIAL_ITERATIONS, warmup_iterations=TRIAL_ITERATIONS, patience=0
    )
    data = TrainingData(pictures, plan.data.class_names)
    finetune(
        base.training_copy(),
        data,
        recipe,
        Hooks(on_step=lambda _: times.append(time.perf_counter())),
    )
    return (times[-1] - times[0]) / (len(times) - 1)


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere else
