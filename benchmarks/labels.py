"""Who should answer for labels of your own: the base model, experts, or a vote; tables for docs/.

    python benchmarks/labels.py --data DIR [--learned eurosat …] [--unseen dtd …] [--iterations 50]

DIR holds one folder of pictures per set. Experts of the learned sets are trained in the run, from
`--shots` pictures of each class. Three cases: all labels are learned, none is, or the labels are
all learned ones and those of one set that was not learned. The baseline in the same run is
zero-shot. Pictures of the training split that no expert was trained on choose between the ways;
test pictures are only reported.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from command_line import condu

from condu_cli.backbone.features import image_features
from condu_cli.core.routing.routers import Query
from condu_cli.data.draws import few_shot
from condu_cli.data.labelled import by_hash
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.sources.own_data import read_source
from condu_cli.registry.repository import Registry
from condu_cli.workflows.answering.answers import own_candidates, own_labels
from condu_cli.workflows.answering.class_features import encode_candidates
from condu_cli.workflows.answering.learned_labels import LearnedLabels
from condu_cli.workflows.answering.panel import expert_image_size
from condu_cli.workflows.answering.routing import Routing
from condu_cli.workflows.answering.rules import among_labels, vote
from condu_cli.workflows.opening.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import LabelledPictures, Sample
    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.answering.answers import Candidate, Prediction

LEARNED = ("eurosat", "oxford_pets", "scene15")
UNSEEN = ("dtd", "caltech101", "cifar10", "mnist", "food101")


@dataclass(frozen=True)
class Group:
    """The pictures of one set in one split, as rows of all features, with their class names."""

    rows: np.ndarray
    names: list[str]


class Model:
    """One model's features of all pictures, and of every candidate that is asked for."""

    def __init__(self, model: DualEncoder, size: int, pictures: Sequence[Sample]) -> None:
        view = view_of(model.preprocessing, size)
        found = [image_features(model, p) for _, p in PictureSet(pictures).scan(view)]
        self.image, self.pooled = (
            torch.cat([getattr(part, kind) for part in found]).numpy()
            for kind in ("image", "pooled")
        )
        self.scale = float(model.logit_scale_value)
        self.texts: dict[Candidate, np.ndarray] = {}

    def encode(self, model: DualEncoder, candidates: Sequence[Candidate]) -> None:
        features = encode_candidates(model, candidates).numpy()
        self.texts.update(zip(candidates, features, strict=True))

    def logits(self, rows: np.ndarray, candidates: Sequence[Candidate]) -> np.ndarray:
        return self.scale * self.image[rows] @ np.stack([self.texts[c] for c in candidates]).T


class TablePanel:
    """What a rule asks of a panel, from features computed before."""

    def __init__(
        self,
        session: Session,
        models: dict[str | None, Model],
        rows: np.ndarray,
        labels: Sequence[str],
        learned: LearnedLabels,
    ) -> None:
        self._session, self._models, self._rows = session, models, rows
        self._labels = own_labels(labels)
        self.learned = learned

    def own_candidates(self, task: str) -> tuple[Candidate, ...]:
        return own_candidates(self._session.entry(task))

    def all_candidates(self) -> tuple[Candidate, ...]:
        return self._labels

    def queries(self) -> Iterator[Query]:
        base = self._models[None]
        yield Query(base.image[self._rows], base.pooled[self._rows])

    def base_logits(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return self._models[None].logits(self._rows, candidates)

    def expert_logits(
        self, task: str, candidates: Sequence[Candidate], indices: Sequence[int]
    ) -> np.ndarray:
        return self._models[task].logits(self._rows[list(indices)], candidates)

    def report(self, stage: str, done: int, total: int) -> None:
        pass


class Ways:
    """The ways to answer, each from a panel's pictures and labels to their predictions."""

    def __init__(self, registry: Path, models: dict[str | None, Model]) -> None:
        self._workspace = Workspace(Registry.open(registry))
        self._session, self._models = self._workspace.head(), models
        self._everywhere = Routing(self._workspace, self._session, "pooled", None)
        self.all: dict[str, Callable[[np.ndarray, Sequence[str]], list[Prediction]]] = {
            "zero-shot": self.zero_shot,
            "vote of base and 1 expert": lambda rows, labels: self.vote(rows, labels, 1),
            "vote of base and all experts": lambda rows, labels: self.vote(rows, labels, 99),
            "labels": self.by_labels,
        }

    def _panel(self, rows: np.ndarray, labels: Sequence[str], learned: LearnedLabels) -> TablePanel:
        return TablePanel(self._session, self._models, rows, labels, learned)

    def zero_shot(self, rows: np.ndarray, labels: Sequence[str]) -> list[Prediction]:
        return among_labels(self._panel(rows, labels, LearnedLabels()), [()] * len(rows))

    def vote(self, rows: np.ndarray, labels: Sequence[str], experts: int) -> list[Prediction]:
        panel = self._panel(rows, labels, LearnedLabels())
        return vote(panel, self._everywhere.routes(panel, experts, len(rows)))

    def by_labels(self, rows: np.ndarray, labels: Sequence[str]) -> list[Prediction]:
        routing = Routing(self._workspace, self._session, "pooled", labels)
        panel = self._panel(rows, labels, routing.learned)
        return among_labels(panel, routing.routes(panel, 1, len(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--learned", nargs="+", default=list(LEARNED))
    parser.add_argument("--unseen", nargs="+", default=list(UNSEEN))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--shots", type=int, default=5, help="pictures of each class to learn from")
    parser.add_argument("--pictures", type=int, default=100, help="of each set and split")
    options = parser.parse_args()
    print(
        f"{date.today()}, {platform.machine()}, base {options.base}; learned in this run: "
        f"{', '.join(options.learned)} ({options.shots} shots, {options.iterations} steps)"
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry")
        condu(registry, "init", "--base", options.base)
        for task in options.learned:
            chosen = ["--shots", options.shots, "--iterations", options.iterations]
            condu(registry, "learn", "--task", task, "--data", options.data / task, *chosen)
        measure(registry, options)


def measure(registry: Path, options: argparse.Namespace) -> None:
    data = {n: read_source(options.data / n) for n in (*options.learned, *options.unseen)}
    pictures: list[Sample] = []
    groups: dict[tuple[str, str], Group] = {}
    for name, found in data.items():
        shots = options.shots if name in options.learned else 0
        for split, samples in (("choice", not_learned(found, shots)), ("test", found.test)):
            some = first_by_hash(samples, options.pictures)
            rows = np.arange(len(pictures), len(pictures) + len(some))
            names = [found.class_names[sample.label] for sample in some]
            groups[name, split] = Group(rows, names)
            pictures += some
    ways = Ways(registry, all_models(registry, data, pictures))
    learned = [label for name in options.learned for label in data[name].class_names]
    table("All labels learned", groups, ways, {n: (n, learned) for n in options.learned})
    only = {
        name: [label for label in data[name].class_names if label not in learned]
        for name in options.unseen
    }
    table("No label learned", groups, ways, {n: (n, only[n]) for n in options.unseen})
    mixed = {n: list(dict.fromkeys([*learned, *only[n]])) for n in options.unseen}
    table("Mixed: pictures of the unseen set", groups, ways, {n: (n, mixed[n]) for n in mixed})
    table(
        "Mixed: pictures of the learned sets",
        groups,
        ways,
        {f"{n} (+ {u})": (n, mixed[u]) for n in options.learned for u in options.unseen},
    )


def not_learned(data: LabelledPictures, shots: int) -> Sequence[Sample]:
    """The training pictures that no expert was trained on."""
    used = set(few_shot(data, shots, seed=0).train) if shots else set()
    return [sample for sample in data.train if sample not in used]


def first_by_hash(samples: Sequence[Sample], count: int) -> list[Sample]:
    by_picture = {sample.picture: sample for sample in samples}
    return [by_picture[picture] for picture in by_hash(list(by_picture), "")[:count]]


def all_models(
    registry: Path, data: dict[str, LabelledPictures], pictures: Sequence[Sample]
) -> dict[str | None, Model]:
    """Features of the base model and of every expert, for all pictures and labels."""
    workspace = Workspace(Registry.open(registry))
    session = workspace.head()
    labels = own_labels(sorted({label for one in data.values() for label in one.class_names}))
    base = workspace.base
    models: dict[str | None, Model] = {None: Model(base, base.preprocessing.image_size, pictures)}
    models[None].encode(base, labels)
    for entry in session.entries:
        expert = workspace.expert(session, entry)
        models[entry.name] = Model(expert, expert_image_size(entry), pictures)
        models[entry.name].encode(expert, [*labels, *own_candidates(entry)])
    return models


def table(
    title: str,
    groups: dict[tuple[str, str], Group],
    ways: Ways,
    columns: dict[str, tuple[str, Sequence[str]]],
) -> None:
    """Print accuracies per column (a set and its labels), their mean and its ratio to zero-shot."""
    print(f"\n{title}\n")
    print("| pictures | who answers | " + " | ".join(columns) + " | mean | ratio |")
    print("|---|---|" + "---|" * (len(columns) + 2))
    for split in ("choice", "test"):
        means: list[float] = []
        for name, answer in ways.all.items():
            cells = [accuracy(answer, groups[n, split], labels) for n, labels in columns.values()]
            mean = sum(cells) / len(cells)
            means.append(mean)
            ratio = f"{mean / means[0]:.2f}" if means[0] else "-"  # zero-shot comes first
            texts = [f"{cell:.3f}" for cell in [*cells, mean]]
            print(f"| {split} | {name} | {' | '.join(texts)} | {ratio} |", flush=True)


def accuracy(
    answer: Callable[[np.ndarray, Sequence[str]], list[Prediction]],
    group: Group,
    labels: Sequence[str],
) -> float:
    """The share of a group's pictures, of those with such a label, that get their class's name."""
    asked = [index for index, name in enumerate(group.names) if name in labels]
    found = answer(group.rows[asked], labels)
    right = [p.answers[0].label == group.names[i] for p, i in zip(found, asked, strict=True)]
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
