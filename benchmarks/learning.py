"""Learn several tasks with both methods, with few pictures and with all; a table for docs/.

    python benchmarks/learning.py --data DIR [--tasks eurosat oxford_pets …] [--write FILE]

DIR holds one folder of pictures per task (TASK/train/CLASS, TASK/test/CLASS). Every cell is one
registry that learns the tasks one after another with `condu learn` and no option of the recipe; at
the end all of them are measured. Baselines in the same run: the base model's zero-shot accuracy,
and a linear probe on its frozen image features (logistic regression, C = 0.316, as in CLIP's own
example), trained on the same pictures.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import condu
from sklearn.linear_model import LogisticRegression

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.features import image_features
from condu_cli.data.draws import few_shot
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import evaluation_transform
from condu_cli.data.sources.own_data import read_source

TASKS = ("eurosat", "oxford_pets", "caltech101", "stanford_cars")
PROBE_C = 0.316


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--methods", nargs="+", default=["full", "lora"])
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 0], help="0: all pictures")
    parser.add_argument("--write", type=Path, help="also append the table to this file")
    options = parser.parse_args()
    lines = [
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, base model "
        f"{options.base}; accuracy at the end of all tasks, in brackets the seconds of `learn`",
        "",
        "| shots | method | " + " | ".join(options.tasks) + " | mean | ratio to zero-shot |",
        "|---|---|" + "---|" * (len(options.tasks) + 2),
    ]
    print("\n".join(lines), flush=True)
    zero_shot: list[float] = []

    def add(shots: int | None, name: str, cells: list[tuple[float, float | None]]) -> None:
        row = table_row(shots, name, cells, zero_shot)
        lines.append(row)
        print(row, flush=True)

    for shots in options.shots:
        for method in options.methods:
            # The base model answers the same in every registry: once is enough.
            found = learn_all(options, method, shots, zero_shot=not zero_shot)
            if not zero_shot:
                zero_shot += [one["zero_shot"] for one in found]
                add(None, "zero-shot", [(accuracy, None) for accuracy in zero_shot])
            add(shots, method, [(one["accuracy"], one["seconds"]) for one in found])
        add(shots, "linear probe", [probe(options, task, shots) for task in options.tasks])
    if options.write:
        with options.write.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


def table_row(
    shots: int | None,
    name: str,
    cells: list[tuple[float, float | None]],
    zero_shot: list[float],
) -> str:
    """One line of the table: accuracies with seconds, their mean, and its ratio to zero-shot's."""
    number = "" if shots is None else shots or "all"
    texts = [f"{a:.3f}" + ("" if s is None else f" ({s:.0f} s)") for a, s in cells]
    mean = sum(accuracy for accuracy, _ in cells) / len(cells)
    ratio = mean / (sum(zero_shot) / len(zero_shot))
    return f"| {number} | {name} | " + " | ".join([*texts, f"{mean:.3f}", f"{ratio:.2f}"]) + " |"


def learn_all(
    options: argparse.Namespace, method: str, shots: int, *, zero_shot: bool
) -> list[dict[str, Any]]:
    """Learn the tasks one after another, then measure each; what `evaluate` says, and seconds."""
    also = ["--zero-shot"] if zero_shot else []
    few = ["--shots", shots] if shots else []
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry")
        condu(registry, "init", "--base", options.base, "--method", method)
        seconds = {}
        for task in options.tasks:
            started = time.perf_counter()
            condu(registry, "learn", "--task", task, "--data", options.data / task, *few)
            seconds[task] = time.perf_counter() - started
        return [
            {
                **condu(registry, "evaluate", "--task", task, *also),
                "seconds": seconds[task],
            }
            for task in options.tasks
        ]


def probe(options: argparse.Namespace, task: str, shots: int) -> tuple[float, float]:
    """Test accuracy of a logistic regression on frozen features, and its seconds."""
    started = time.perf_counter()
    base = load_base(options.base)
    data = read_source(options.data / task)
    if shots:
        data = few_shot(data, shots, seed=0)
    (_, train, labels), (_, test, expected) = (
        features_of(base, samples) for samples in (data.train, data.test)
    )
    model = LogisticRegression(C=PROBE_C, max_iter=1000, random_state=0).fit(train, labels)
    return float(model.score(test, expected)), time.perf_counter() - started


def features_of(base: Any, samples: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (N, E) and pooled features (N, P) of pictures as the base sees them, labels (N,)."""
    prep = base.preprocessing
    transform = evaluation_transform(
        prep.image_size, prep.mean, prep.std, prep.interpolation, prep.resize_mode
    )
    pictures = PictureSet(samples)
    found = [image_features(base, pixels) for _, pixels in pictures.scan(transform)]
    image, pooled = (
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*found, strict=True)
    )
    return image, pooled, pictures.labels.numpy()


if __name__ == "__main__":
    main()
