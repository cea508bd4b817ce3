"""What a training will take, measured by doing a little of it on copies that are thrown away."""

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
from condu_cli.data.pictures.transforms import evaluation_transform
from condu_cli.errors import DataError
from condu_cli.train.finetune import Hooks, TrainingData, finetune
from condu_cli.workflows.opening.registry_only import FLOAT_BYTES

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import Sample
    from condu_cli.workflows.learning.planning import LearnPlan

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


def estimate(plan: LearnPlan, base: DualEncoder, processes: int = 1) -> Estimate:
    """Read a few pictures and train a few iterations of a plan, as one process of a team would.

    Raises:
        DataError: none of the pictures that were tried can be read.

    """
    sample = _spread(plan, max(TRIAL_PICTURES, plan.recipe.batch_size))
    # A few pictures say nothing about how many are broken, and may hold a class only once.
    rules = ReadingRules(plan.request.workers, len(sample), every_class=False)
    pictures = PictureSet.for_training(sample, plan.recipe.image_size, rules=rules)
    seconds = _reading_seconds(pictures, base)
    if not len(pictures):
        raise DataError(
            f"none of the {len(sample)} pictures that were tried can be read: "
            f"{pictures.unreadable[0].reason}",
            reason="none-readable",
            tried=len(sample),
        )
    decoding, encoding = (part / len(pictures) for part in seconds)
    step = _seconds_per_iteration(plan, base, pictures, processes)
    count = len(plan.data.train)
    shown = count
    if plan.request.prototype_images is not None:
        shown = min(count, plan.request.prototype_images * len(plan.data.class_names))
    measuring = _measurements(plan) * len(plan.validation) * (decoding + encoding) / processes
    parameters = sum(p.numel() for p in base.trainable_parameters().values())
    return Estimate(
        reading_seconds=decoding * (count + len(plan.validation)) + encoding * shown,
        seconds_per_iteration=step,
        train_seconds=step * plan.recipe.iterations + measuring,
        memory_bytes=_memory_bytes(plan, base, pictures, parameters),
        expert_bytes=FLOAT_BYTES * parameters,
    )


def _measurements(plan: LearnPlan) -> int:
    """How often a training looks at the pictures held out."""
    every = plan.recipe.validate_every
    return math.ceil(plan.recipe.iterations / every) if every else 0


def _memory_bytes(
    plan: LearnPlan, base: DualEncoder, pictures: PictureSet, parameters: int
) -> int | None:
    """The peak of the trial, and what a whole training holds beyond it.

    That is the decoded pictures, as far as they are kept in memory, and the copy of weights and
    moments while they are saved. Neither is on a GPU.
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
    """Some of the training pictures, from all over the set."""
    train = plan.data.train
    return list(train[:: max(1, len(train) // count)][:count])


def _reading_seconds(pictures: PictureSet, base: DualEncoder) -> tuple[float, float]:
    """Decoding pictures once, and computing their base features."""
    prep = base.preprocessing
    transform = evaluation_transform(
        prep.image_size, prep.mean, prep.std, prep.interpolation, prep.resize_mode
    )
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
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere else
