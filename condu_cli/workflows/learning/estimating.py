"""Estimate what a training takes, by running a little of it on throw-away copies."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from condu_cli.backbone.features import image_features
from condu_cli.data.pictures.kept_pictures import CACHE_BYTES
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.data.pictures.transforms import view_of
from condu_cli.errors import DataError
from condu_cli.train.finetune import Hooks, TrainingData, finetune
from condu_cli.workflows.learning.choosing import PASSES
from condu_cli.workflows.learning.refitting import MOST_PICTURES
from condu_cli.workflows.opening.registry_only import FLOAT_BYTES

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import Sample
    from condu_cli.workflows.learning.planning import LearnPlan

TRIAL_ITERATIONS = 3
"""The first iteration includes set-up and is not counted."""
TRIAL_PICTURES = 64


@dataclass(frozen=True)
class Estimate:
    """Times in seconds; memory is the peak of this process, or of the GPU, in bytes.

    Memory is None if the system does not report it (Windows without a GPU).
    """

    reading_seconds: float
    seconds_per_iteration: float
    train_seconds: float
    memory_bytes: int | None
    expert_bytes: int
    """The trained expert's size on disk until it is committed."""


def estimate(plan: LearnPlan, base: DualEncoder, processes: int = 1) -> Estimate:
    """Read a few pictures and train a few iterations, as one process of a team would.

    Raises:
        DataError: none of the sampled pictures can be read.

    """
    sample = _spread(plan, max(TRIAL_PICTURES, plan.recipe.batch_size))
    # A small sample says nothing about the share of broken pictures, and may lack classes.
    rules = ReadingRules(plan.request.workers, len(sample), every_class=False)
    pictures = PictureSet.for_training(sample, plan.recipe.image_size, rules=rules)
    seconds = _reading_seconds(pictures, base)
    if not len(pictures):
        raise DataError(
            f"none of {len(sample)} sampled pictures can be read: {pictures.unreadable[0].reason}",
            reason="none-readable",
            tried=len(sample),
        )
    decoding, encoding = (part / len(pictures) for part in seconds)
    step = _seconds_per_iteration(plan, base, pictures, processes) if plan.tunes else 0.0
    count = len(plan.data.train)
    shown = count
    if plan.request.prototype_images is not None:
        shown = min(count, plan.request.prototype_images * len(plan.data.class_names))
    measured = _measurements(plan) * len(plan.validation)
    if plan.tunes and plan.request.head_first:
        measured += PASSES * (min(count, MOST_PICTURES) + len(plan.validation))
    measuring = measured * (decoding + encoding) / processes
    parameters = sum(p.numel() for p in base.trainable_parameters().values())
    return Estimate(
        reading_seconds=decoding * (count + len(plan.validation)) + encoding * shown,
        seconds_per_iteration=step,
        train_seconds=step * plan.recipe.iterations + measuring,
        memory_bytes=_memory_bytes(plan, base, pictures, parameters),
        expert_bytes=FLOAT_BYTES * parameters,
    )


def _measurements(plan: LearnPlan) -> int:
    """Return how often a training measures on the held-out pictures."""
    every = plan.recipe.validate_every
    return math.ceil(plan.recipe.iterations / every) if every else 0


def _memory_bytes(
    plan: LearnPlan, base: DualEncoder, pictures: PictureSet, parameters: int
) -> int | None:
    """Return the trial's peak, plus what a full training holds beyond it.

    That is the decoded pictures, as far as they are kept in memory, and a copy of weights and
    moments while they are saved. Neither is in a GPU's memory.
    """
    peak = _peak_bytes(base.device)
    if peak is None or base.device.type == "cuda":
        return peak
    each = pictures.kept_bytes / len(pictures)
    decoded = each * (len(plan.data.train) + len(plan.validation))
    kept = int(decoded) if decoded <= CACHE_BYTES else 0
    arrays = 4 if plan.recipe.keep == "best" else 3
    return peak + max(0, kept - pictures.kept_bytes) + arrays * FLOAT_BYTES * parameters


def _spread(plan: LearnPlan, count: int) -> list[Sample]:
    """Return some of the training pictures, spread over the set."""
    train = plan.data.train
    return list(train[:: max(1, len(train) // count)][:count])


def _reading_seconds(pictures: PictureSet, base: DualEncoder) -> tuple[float, float]:
    """Return the seconds of decoding pictures once, and of computing their base features."""
    transform = view_of(base.preprocessing)
    began = time.perf_counter()
    encoding = 0.0
    for _, pixels in pictures.scan(transform):
        started = time.perf_counter()
        image_features(base, pixels)
        encoding += time.perf_counter() - started
    return time.perf_counter() - began - encoding, encoding


def _seconds_per_iteration(
    plan: LearnPlan, base: DualEncoder, pictures: PictureSet, processes: int
) -> float:
    times: list[float] = []
    recipe = replace(
        plan.recipe,
        iterations=TRIAL_ITERATIONS,
        warmup_iterations=TRIAL_ITERATIONS,
        batch_size=max(1, plan.recipe.batch_size // processes),
        validate_every=0,
        patience=0,
        keep="last",
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
    return peak if sys.platform == "darwin" else peak * 1024  # in kilobytes on other systems
