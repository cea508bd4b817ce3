"""What `learn --prototype-images N` costs in routing accuracy, and how much work it saves.

    python benchmarks/prototypes.py --data DIR [--tasks eurosat dtd …] [--base mini]

DIR holds one folder of pictures per task. Nothing is trained: prototypes come from the base model.
For every N the prototypes of all tasks are built from N pictures of each class, and every test
picture is routed among the tasks; the baseline is all pictures, in the same run.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from learning import features_of

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.classifiers import text_features
from condu_cli.core.routing.prototypes import PrototypeBuilder
from condu_cli.core.routing.routers import Query, rank, router_for
from condu_cli.data.sources.own_data import read_source
from condu_cli.data.sources.task_data import templates_for
from condu_cli.workflows.learning.prototyping import first_of_each_class

if TYPE_CHECKING:
    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.data.labelled import LabelledPictures

TASKS = ("eurosat", "oxford_pets", "caltech101", "dtd", "scene15", "stanford_cars")


@dataclass(frozen=True)
class Features:
    """One task's base features: text (C, E), and images (N, E), pooled (N, P) of both splits."""

    data: LabelledPictures
    text: np.ndarray
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 5, 10, 20, 0])
    options = parser.parse_args()
    base = load_base(options.base)
    tasks = [features(base, options.data / task, task) for task in options.tasks]
    total = sum(len(task.data.train) for task in tasks)
    print(f"{date.today()}, {platform.machine()}, base {options.base}, {', '.join(options.tasks)}")
    print("| images per class | images in all | share | pooled | paper |")
    print("|---|---|---|---|---|")
    for count in options.images:
        built = [prototypes(task, count) for task in tasks]
        used = sum(int(one.counts.sum()) for one in built)
        right = [f"{routed_right(name, tasks, built):.3f}" for name in ("pooled", "paper")]
        print(f"| {count or 'all'} | {used} | {used / total:.2f} | {' | '.join(right)} |")


def features(base: DualEncoder, folder: Path, task: str) -> Features:
    data = read_source(folder)
    text = text_features(base, data.class_names, templates_for(task)).cpu().numpy()
    train, test = (features_of(base, samples)[:2] for samples in (data.train, data.test))
    return Features(data, text, train, test)


def prototypes(task: Features, per_class: int) -> Prototypes:
    """From the pictures that `learn --prototype-images` would take; 0: all of them."""
    samples = task.data.train
    chosen = set(first_of_each_class(samples, per_class)) if per_class else set(samples)
    rows = [index for index, sample in enumerate(samples) if sample in chosen]
    builder = PrototypeBuilder(task.text, task.train[1].shape[1])
    labels = np.array([samples[row].label for row in rows])
    builder.add(task.train[0][rows], task.train[1][rows], labels)
    return builder.build()


def routed_right(name: str, tasks: list[Features], built: list[Prototypes]) -> float:
    """Mean over tasks of the share of test pictures whose best task is their own."""
    router = router_for(name, built)
    shares = [
        float(np.mean(rank(router.scores(Query(*task.test)), 1)[:, 0] == index))
        for index, task in enumerate(tasks)
    ]
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
