"""What storing costs: experts unified under several choices of the codec, beside unencoded ones.

    python benchmarks/storing.py --data DIR --work DIR [--tasks …] [--seeds 0 1] [--method lora]

DIR of --data holds one folder of pictures per task (TASK/train/CLASS, TASK/test/CLASS). Each task
is learned once per seed by `condu learn`, in a registry of its own under --work that stores its
expert bit for bit; runs that find it there do not train again. All experts are then unified
one after another under every choice, and each is measured at the end: how many pictures it names
rightly, and how many as the unencoded expert does. Training sees none of the held-out pictures.
They decide between choices; test pictures are shown beside them.
"""

from __future__ import annotations

import argparse
import csv
import platform
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from single_experts import TASKS, learn_alone, trained_expert

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.classifiers import TorchHead, text_features
from condu_cli.backbone.deltas import put_weights, weights_of
from condu_cli.backbone.features import class_logits
from condu_cli.core.codecs.interface import EMPTY, Codec
from condu_cli.core.codecs.known import codec_by_name
from condu_cli.core.codecs.operations import decode_into
from condu_cli.data.draws import hold_out, limit_pictures
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.sources.own_data import read_source
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.sessions.coding import layout_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import LabelledPictures, Sample
    from condu_cli.workflows.sessions.trained_experts import TrainedExpert

SMALL = "vectors,depthwise"
PAPER = {"rescaler": "global"}
ROW = {"rescaler": "row"}
ROW_SMALL = {**ROW, "exact": SMALL}


def choices(linear_end: str | None) -> dict[str, dict[str, str]]:
    """Return the codec's options by the name of the choice."""
    found = {
        "paper": PAPER,
        "rows": ROW,
        "rows, trim 0.25": {**ROW, "trim": "0.25"},
        "rows, trim 0.5": {**ROW, "trim": "0.5"},
        "rows, trim 0.75": {**ROW, "trim": "0.75"},
        "vectors exact, trim 0.5": {**ROW, "exact": "vectors", "trim": "0.5"},
        "small exact": ROW_SMALL,
        "small exact, trim 0.25": {**ROW_SMALL, "trim": "0.25"},
        "small exact, trim 0.5": {**ROW_SMALL, "trim": "0.5"},
        "small exact, trim 0.75": {**ROW_SMALL, "trim": "0.75"},
        "small exact, trim 0.9": {**ROW_SMALL, "trim": "0.9"},
        "global, small exact, trim 0.5": {**ROW_SMALL, "rescaler": "global", "trim": "0.5"},
    }
    if linear_end is not None:
        both = {**ROW, "exact": f"{SMALL},{linear_end}"}
        found |= {
            f"small and end exact, trim {trim}": {**both, "trim": trim}
            for trim in ("0", "0.25", "0.5", "0.75", "0.9")
        }
    for dtype in ("bfloat16", "int8"):
        last = found.get("small and end exact, trim 0.5", found["small exact, trim 0.5"])
        found[f"the same, trim 0.5, {dtype}"] = {**last, "dtype": dtype}
    return found


@dataclass(frozen=True)
class Task:
    """One task: its expert as it was learned, and the pictures that measure it."""

    name: str
    expert: TrainedExpert
    held_out: Sequence[Sample]
    test: Sequence[Sample]


@dataclass(frozen=True)
class Answers:
    """The class that an expert names for each picture, held-out ones first: int64 (n,)."""

    found: np.ndarray
    labels: np.ndarray
    held_out: int

    def accuracy(self) -> tuple[float, float]:
        """Share of held-out and of test pictures that are named rightly."""
        return self._shares(self.found == self.labels)

    def agreement(self, other: Answers) -> tuple[float, float]:
        """Share of held-out and of test pictures on which two experts agree."""
        return self._shares(self.found == other.found)

    def _shares(self, right: np.ndarray) -> tuple[float, float]:
        return float(right[: self.held_out].mean()), float(right[self.held_out :].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, default=300, help="training pictures per set")
    parser.add_argument("--pictures", type=int, default=200, help="to measure with, each kind")
    parser.add_argument("--choices", nargs="+", help="only these; default: all")
    options = parser.parse_args()
    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {options.base} "
        f"({options.method}), {options.iterations} steps of {options.batch_size}, "
        f"seeds {options.seeds}",
        flush=True,
    )
    rows: dict[str, list[Row]] = {}
    for seed in options.seeds:
        for name, row in measure(options, seed).items():
            rows.setdefault(name, []).append(row)
    print_table(rows, options.tasks)


@dataclass(frozen=True)
class Row:
    """One choice: the answers of all tasks after the last, and bytes: shared, and per task."""

    answers: Sequence[Answers]
    shared: int = 0
    each: float = 0.0


def measure(options: argparse.Namespace, seed: int) -> dict[str, Row]:
    """Train or load the experts of one seed and measure every choice; the first is unencoded."""
    base = load_base(options.base)
    tasks = [ready(options, name, seed) for name in options.tasks]
    first = Workspace(Registry.open(work_of(options, seed) / f"alone-{options.tasks[0]}"))
    layout, model = layout_of(first.registry.config), first.base
    names = choices(getattr(base, "linear_end", None) if options.method == "full" else None)
    found = {"alone": Row([answers(alone(model, task), task) for task in tasks])}
    for name in options.choices or names:
        codec = codec_by_name("condu", layout, names[name])
        found[name] = encoded(codec, model, tasks)
        held_out, test = means([[a.accuracy() for a in found[name].answers]])
        print(f"seed {seed}, {name}: held-out {held_out:.2f}, test {test:.2f}", flush=True)
    return found


# Experts


def work_of(options: argparse.Namespace, seed: int) -> Path:
    path: Path = options.work / f"{options.base}-{options.method}-{seed}"
    return path


def ready(options: argparse.Namespace, name: str, seed: int) -> Task:
    """Draw a set's pictures and learn its expert, unless an earlier run did."""
    work = work_of(options, seed)
    data = read_source(options.data / name)
    share = min(options.pictures, len(data.train) * 2 // 5)
    rest, held_out = hold_out(data, share, seed)
    few = max(options.limit, 3 * len(data.folders))
    listed = write_list(work / f"{name}.csv", limit_pictures(rest, few, seed))
    learn_alone(
        work,
        listed,
        name,
        options.base,
        *("--class-names", options.data / name / "classes.json"),
        *("--iterations", options.iterations, "--batch-size", options.batch_size, "--seed", seed),
        method=options.method,
    )
    every = replace(data, train=data.test)
    test = limit_pictures(every, max(options.pictures, len(data.folders)), seed).train
    return Task(name, trained_expert(work / f"alone-{name}", name), held_out, test)


def write_list(path: Path, data: LabelledPictures) -> Path:
    """Write the pictures to learn from as a list, so that `learn` sees no others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for part, samples in (("train", data.train), ("test", data.test)):
            writer.writerows((s.picture.resolve(), data.folders[s.label], part) for s in samples)
    return path


def alone(base: DualEncoder, task: Task) -> DualEncoder:
    """Return the expert as it was learned."""
    model = base.expert_copy()
    weights, pristine = weights_of(model), weights_of(base)
    for name, delta in task.expert.delta.items():
        weights[name][...] = pristine[name] + delta
    put_weights(model, weights)
    return model


def encoded(codec: Codec, base: DualEncoder, tasks: Sequence[Task]) -> Row:
    """Unify all experts one after another, then measure each as it is decoded."""
    state = EMPTY
    for task in tasks:
        state = codec.encode(state, task.expert.delta)
    model = base.expert_copy()
    weights, found = weights_of(model), []
    for task, part in zip(tasks, state.parts, strict=True):
        decode_into(codec, state.shared, weights_of(base), [part], [weights])
        put_weights(model, weights)
        found.append(answers(model, task))
    each = sum(bytes_of(part) for part in state.parts) / len(tasks)
    return Row(found, bytes_of(state.shared or {}), each)


def bytes_of(arrays: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in arrays.values())


def answers(model: DualEncoder, task: Task) -> Answers:
    """Let an expert name every picture, by its class texts or the head beside it."""
    transform = view_of(model.preprocessing)
    pictures, head = PictureSet([*task.held_out, *task.test]), task.expert.head
    classifier = (
        text_features(model, task.expert.classes, task.expert.templates)
        if head is None
        else TorchHead.on(model.device, head["weights"], head["bias"])
    )
    logits = [class_logits(model, pixels, classifier) for _, pixels in pictures.scan(transform)]
    found = torch.cat(logits).argmax(dim=1).numpy()
    return Answers(found, pictures.labels.numpy(), len(task.held_out))


# The table


def print_table(rows: Mapping[str, Sequence[Row]], tasks: Sequence[str]) -> None:
    """Print a line per choice, means over seeds; accuracy and agreement in %."""
    print(
        "\n| choice | held-out | ratio | agreement | test | agreement | MB per task | MB shared |"
    )
    print("|---|---|---|---|---|---|---|---|")
    unencoded = rows["alone"]
    alone_at = means([[a.accuracy() for a in row.answers] for row in unencoded])
    for name, found in rows.items():
        accuracy = means([[a.accuracy() for a in row.answers] for row in found])
        agree = means(
            [
                [a.agreement(b) for a, b in zip(row.answers, first.answers, strict=True)]
                for row, first in zip(found, unencoded, strict=True)
            ]
        )
        each = np.mean([row.each for row in found]) / 1e6
        shared = np.mean([row.shared for row in found]) / 1e6
        print(
            f"| {name} | {accuracy[0]:.2f} | {accuracy[0] / alone_at[0]:.3f} | {agree[0]:.2f} | "
            f"{accuracy[1]:.2f} | {agree[1]:.2f} | {each:.2f} | {shared:.1f} |"
        )
    print("\n| choice | " + " | ".join(tasks) + " |\n|---|" + "---|" * len(tasks))
    for name, found in rows.items():
        both = np.mean([[a.accuracy() for a in row.answers] for row in found], axis=0)
        print(f"| {name} | " + " | ".join(f"{100 * h:.1f} / {100 * t:.1f}" for h, t in both) + " |")


def means(figures: Sequence[Sequence[tuple[float, float]]]) -> np.ndarray:
    """Return the means over seeds and tasks of held-out and test figures, in %."""
    return 100 * np.array(figures).mean(axis=(0, 1))


if __name__ == "__main__":
    main()
