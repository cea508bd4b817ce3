"""Measure how the softmax temperature of `mini` affects zero-shot accuracy and learning.

    python benchmarks/temperature.py --data TASK_DIR [--temperatures 1 3] [--iterations 60]

Temperature 1 is the baseline of both ratios. Everything else is the default recipe.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from condu_cli.backbone.models.mini import Mini
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.pictures.windows import windows
from condu_cli.data.sources.folders import LabelledPictures, read_folder
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.train.finetune import TrainingData, finetune
from condu_cli.train.presets import preset_for
from condu_cli.workflows.answering.answers import Candidate
from condu_cli.workflows.answering.panel import logits_of
from condu_cli.workflows.learning.planning import LearnRequest, settle_recipe

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder


def accuracy(model: DualEncoder, data: LabelledPictures, size: int) -> float:
    candidates = [Candidate(name, None, DEFAULT_TEMPLATES) for name in data.class_names]
    view = view_of(model.preprocessing, size)
    right = 0
    for window in windows([sample.picture for sample in data.test], [view.geometry]):
        predicted = logits_of(model, candidates, window.views[view.geometry], view)
        rows = zip(predicted.argmax(axis=1), window.places, strict=True)
        right += sum(int(label) == data.test[place].label for label, place in rows)
    return right / len(data.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    data = read_folder(options.data)
    base = Mini()
    request = LearnRequest("benchmark", overrides={"iterations": options.iterations})
    preset = preset_for(base.recipe_family, "full", "benchmark")
    recipe = settle_recipe(
        request, base, "full", preset, DEFAULT_TEMPLATES, pictures=len(data.train)
    )
    print(
        f"{date.today()}, {platform.machine()}, {options.data.name}, {recipe.iterations} iterations"
    )
    print("temperature | zero-shot | learned | seconds | zero-shot ratio | learned ratio")
    first: tuple[float, float] | None = None
    for temperature in options.temperatures:
        base.temperature = temperature
        zero_shot = accuracy(base, data, base.preprocessing.image_size)
        expert = base.expert_copy()
        assert isinstance(expert, Mini)
        expert.temperature = temperature
        started = time.perf_counter()
        pictures = PictureSet.for_training(data.train, recipe.image_size)
        finetune(expert, TrainingData(pictures, data.class_names), recipe)
        seconds = time.perf_counter() - started
        learned = accuracy(expert, data, recipe.image_size)
        first = first or (zero_shot, learned)
        ratios = f"{zero_shot / first[0]:.2f} | {learned / first[1]:.2f}"
        print(f"{temperature:g} | {zero_shot:.3f} | {learned:.3f} | {seconds:.0f} | {ratios}")


if __name__ == "__main__":
    main()
