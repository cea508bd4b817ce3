"""Learn many tasks one after another with `condu learn`, beside probes; tables for docs/.

    python benchmarks/learning.py --data DIR [--tasks eurosat …] [--shots 5 0] [--seeds 2]
                                  [--method full] [--before CONDU] [--skip-seconds]
                                  [--keep FILE] [--write FILE]

DIR holds one folder of pictures per task (TASK/train/CLASS, TASK/test/CLASS). No option of the
recipe is given. Baselines in the same run, on the same pictures and the same frozen features: the
base model's zero-shot accuracy, a logistic regression (its C chosen on a fifth of the training
pictures, then refitted on all), a ridge regression (its alpha by its own cross-validation), and the
head in closed form as it is, not folded into a model.

    alone   the same `learn` in a registry of its own that stores the expert without loss
    last    all tasks learned one after another in one registry with its defaults, measured at the
            end, the task named
    union   the same, the task not named: task and class must be right among all classes; `paper`
            with the paper's router and vote
    seconds of whole commands, each with an empty cache: `learn` alone, `learn --quick` of the first
            task, and a program that only computes the features of its pictures (set_features.py)

`--before` names the `condu` of another revision, which learns every task in a registry of its own,
for its seconds. Seconds and the paper's vote, which is slow, are measured with the first seed only.
`--keep` names a file for the figures so far: the same command goes on where it was stopped, and
one without `--skip-seconds` adds them, on a machine that does nothing else. One standard error of
an accuracy p over n test pictures is sqrt(p (1 - p) / n).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from command_line import condu
from set_features import SetFeatures, set_features
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import train_test_split

from condu_cli.backbone.base_models import load_base
from condu_cli.core.heads import fit_head
from condu_cli.core.routing.prototypes import unit_rows
from condu_cli.data.draws import few_shot
from condu_cli.data.sources.own_data import read_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASKS = (
    "eurosat",
    "oxford_pets",
    "dtd",
    "caltech101",
    "scene15",
    "mnist",
    "cifar10",
    "stanford_cars",
)
PROBE_CS = (0.1, 1.0, 10.0, 100.0, 1000.0)
RIDGE_ALPHAS = (0.01, 0.1, 1.0, 10.0)
CONDU = (sys.executable, "-m", "condu_cli")
SET_FEATURES = Path(__file__).with_name("set_features.py")
LOSSLESS = ("--exact", "", "--trim", 0, "--rescaler", "global")
"""One task in a registry with these options is stored bit for bit."""

Rows = dict[str, dict[str, list[float]]]
"""Figures by row and task, one per seed."""
Part = dict[str, dict[str, float]]
"""One seed's figures by row and task."""


def main() -> None:
    options = parsed()
    lines = [
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, base model "
        f"{options.base}, {options.method}, {options.seeds} seeds"
    ]
    print(lines[0], flush=True)
    base = load_base(options.base)
    features = {task: set_features(base, options.data / task) for task in options.tasks}
    figures = Figures(options.keep)
    for shots in options.shots:
        for task in [] if options.skip_seconds else options.tasks:
            name = f"{task}, {shots} pictures, seconds"
            figures.once(name, time_learning, options, task, shots)
        for seed in range(options.seeds):
            for task in options.tasks:
                name = f"{task}, {shots} pictures, seed {seed}"
                figures.once(name, measure_task, options, features[task], task, shots, seed)
            name = f"all tasks, {shots} pictures, seed {seed}"
            figures.once(name, learn_all, options, shots, seed)
        rows = figures.rows(f", {shots} pictures, ")
        lines += ["", *table(rows, options, shots, features)]
        print("\n".join(lines[-len(rows) - 12 :]), flush=True)
    if options.write:
        with options.write.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


class Figures:
    """All figures by part of the work, kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._parts: dict[str, Part] = {}
        if file is not None and file.exists():
            self._parts = json.loads(file.read_text())

    def once(self, name: str, measure: Callable[..., None], *arguments: object) -> None:
        """Have a part measured unless it is known; keep and print it."""
        if name in self._parts:
            return
        part: Part = {}
        measure(part, *arguments)
        self._parts[name] = part
        print(name, part, file=sys.stderr, flush=True)
        if self._file is not None:
            self._file.write_text(json.dumps(self._parts, indent=1))

    def rows(self, having: str) -> Rows:
        """Return the figures of the parts whose names have these words, by row and task."""
        found: Rows = defaultdict(lambda: defaultdict(list))
        for name, part in self._parts.items():
            for row, by_task in part.items() if having in name else ():
                for task, value in by_task.items():
                    found[row][task].append(value)
        return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--method", default="full")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 0], help="0: all pictures")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--before", help="the `condu` of another revision, for its seconds")
    parser.add_argument("--skip-seconds", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep the figures so far in this file")
    parser.add_argument("--write", type=Path, help="also append the tables to this file")
    return parser.parse_args()


def put(rows: Part, row: str, task: str, value: float) -> None:
    """Add one figure."""
    rows.setdefault(row, {})[task] = value


def measure_task(
    rows: Part,
    options: argparse.Namespace,
    features: SetFeatures,
    task: str,
    shots: int,
    seed: int,
) -> None:
    """Measure the baselines and the expert of one task."""
    probes(rows, features, options.data / task, task, shots, seed)
    learn_alone(rows, options, task, shots, seed)


# Baselines on frozen features


def probes(
    rows: Part, features: SetFeatures, folder: Path, task: str, shots: int, seed: int
) -> None:
    """Fit the probes and the bare head; what they reach on the test pictures goes to `rows`."""
    chosen = drawn(features, folder, shots, seed)
    train, labels = unit_rows(features.train.pooled[chosen]), features.train.labels[chosen]
    test, expected = unit_rows(features.test.pooled), features.test.labels
    put(rows, "logistic probe", task, logistic(train, labels, seed).score(test, expected))
    ridge = RidgeClassifierCV(alphas=RIDGE_ALPHAS).fit(train, labels)
    put(rows, "ridge probe", task, ridge.score(test, expected))
    head = fit_head(train, labels, int(labels.max()) + 1)
    put(rows, "bare head", task, float((head.scores(test).argmax(axis=1) == expected).mean()))


def drawn(features: SetFeatures, folder: Path, shots: int, seed: int) -> np.ndarray:
    """Return the places of the training pictures that `learn --shots` draws; 0: all."""
    data = read_source(folder)
    if not shots:
        return np.arange(len(data.train))
    kept = set(few_shot(data, shots, seed).train)
    return np.flatnonzero([sample in kept for sample in data.train])


def logistic(train: np.ndarray, labels: np.ndarray, seed: int) -> LogisticRegression:
    """Choose C on held-out training pictures, then fit all of them."""
    size = max(0.2, len(set(labels.tolist())) / len(labels))
    parts = train_test_split(train, labels, test_size=size, random_state=seed, stratify=labels)
    fitting, held_out, of_fitting, of_held_out = parts

    def accuracy(c: float) -> float:
        return float(model(c).fit(fitting, of_fitting).score(held_out, of_held_out))

    def model(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1000)

    return model(max(PROBE_CS, key=accuracy)).fit(train, labels)


# Experts


def learn_alone(rows: Part, options: argparse.Namespace, task: str, shots: int, seed: int) -> None:
    """Learn a task in a registry of its own, stored without loss."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry")
        condu(registry, "init", "--base", options.base, "--method", options.method, *LOSSLESS)
        condu(registry, *learn_command(options, task, shots, seed))
        found = condu(registry, "evaluate", "--task", task, "--zero-shot")
        put(rows, "zero-shot", task, found["zero_shot"])
        put(rows, "alone", task, found["accuracy"])


def time_learning(rows: Part, options: argparse.Namespace, task: str, shots: int) -> None:
    """Measure the seconds of `learn` in new registries, beside another revision's."""
    learn = learn_command(options, task, shots, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        new = ("--base", options.base, "--registry", Path(folder, "registry"))
        put(rows, "seconds, learn", task, seconds(CONDU, *learn, *new))
        if options.before:
            other = ("--base", options.base, "--registry", Path(folder, "other"))
            put(rows, "seconds, before", task, seconds((options.before,), *learn, *other))
        if task == options.tasks[0] and not shots:
            quick = ("--base", options.base, "--registry", Path(folder, "quick"), "--quick")
            program = (sys.executable, SET_FEATURES, options.data / task, options.base)
            put(rows, "seconds, features", task, seconds(program))
            put(rows, "seconds, quick", task, seconds(CONDU, *learn, *quick))


def learn_all(rows: Part, options: argparse.Namespace, shots: int, seed: int) -> None:
    """Learn the tasks one after another, then measure each, named and not."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry")
        condu(registry, "init", "--base", options.base, "--method", options.method)
        for task in options.tasks:
            condu(registry, *learn_command(options, task, shots, seed))
            if task == options.tasks[0]:
                first = condu(registry, "evaluate", "--task", task)["accuracy"]
        for task in options.tasks:
            last = condu(registry, "evaluate", "--task", task)["accuracy"]
            put(rows, "last", task, last)
            union = ("evaluate", "--task", task, "--label-space", "union")
            put(rows, "union", task, condu(registry, *union)["accuracy"])
            if not seed:
                paper = condu(registry, *union, "--router", "paper", "--experts", 4)
                put(rows, "union, paper", task, paper["accuracy"])
        put(rows, "first, when learned", options.tasks[0], first)


def learn_command(
    options: argparse.Namespace, task: str, shots: int, seed: int
) -> tuple[object, ...]:
    few = ("--shots", shots) if shots else ()
    data = options.data / task
    return ("learn", "--task", task, "--data", data, "--seed", seed, *few)


def seconds(program: Sequence[object], *arguments: object) -> float:
    """Run a program with an empty cache; return its wall time."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        command = [*map(str, program), *map(str, arguments)]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)  # noqa: S603
        return time.perf_counter() - started


# The table


def table(
    rows: Rows, options: argparse.Namespace, shots: int, features: dict[str, SetFeatures]
) -> list[str]:
    """Return one line per row, means over seeds, and how the experts compare with the probes."""
    tasks = options.tasks
    better = {t: max(mean(rows["logistic probe"][t]), mean(rows["ridge probe"][t])) for t in tasks}
    lines = [
        f"{shots or 'all'} pictures per class" if shots else "all pictures",
        "",
        "| row | " + " | ".join(tasks) + " | mean | ratio to the better probe |",
        "|---|" + "---|" * (len(tasks) + 2),
    ]
    reference = sum(better.values()) / len(tasks)
    for name, by_task in rows.items():
        lines.append(table_row(name, {t: mean(v) for t, v in by_task.items()}, tasks, reference))
    margins = {}
    for task in tasks:
        p, n = mean(rows["last"][task]), len(features[task].test.labels)
        error = math.sqrt(p * (1 - p) / n)
        margins[task] = (p - better[task]) / error if error else 0.0
    lines += ["", "last minus the better probe, in standard errors: " + figures(margins)]
    gain = sum(mean(rows["last"][t]) for t in tasks) / len(tasks) - reference
    lines.append(f"mean of last minus mean of the better probe: {100 * gain:+.1f} points")
    return lines


def table_row(name: str, found: dict[str, float], tasks: list[str], reference: float) -> str:
    seconds = name.startswith("seconds")
    cells = [
        f"{found[t]:.0f}" if seconds else f"{found[t]:.3f}" if t in found else "" for t in tasks
    ]
    average = sum(found.values()) / len(found)
    whole = len(found) == len(tasks)
    mean_cell = f"{average:.0f}" if seconds else f"{average:.3f}" if whole else ""
    ratio = f"{average / reference:.3f}" if whole and not seconds else ""
    return f"| {name} | " + " | ".join([*cells, mean_cell, ratio]) + " |"


def figures(values: dict[str, float]) -> str:
    return ", ".join(f"{task} {value:+.1f}" for task, value in values.items())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
