"""Predict: route each picture to the experts it needs, decouple only those, and answer.

Three ways to decide, the first that fits:

    task named             that expert, among that task's classes
    pooled, one expert     the best task's expert, among its own classes (the default)
    anything else          the base model and the K best experts vote over the candidate labels:
                           those given, else the union of all learned tasks' classes
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from condu_cli.backbone.classifiers import text_features
from condu_cli.backbone.features import class_logits, image_features
from condu_cli.core.metrics import softmax
from condu_cli.core.routing.routers import Query, rank, router_by_name
from condu_cli.data.pictures.transforms import evaluation_transform
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.pictures.loading import Pictures
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.workflows.opening.workspace import Workspace

BATCH = 32
DEFAULT_ROUTER = "pooled"


@dataclass(frozen=True)
class Candidate:
    """A label that can be the answer: its prompt templates, and its task where it has one."""

    label: str
    task: str | None
    templates: tuple[str, ...]


@dataclass(frozen=True)
class PredictOptions:
    """How to decide; see the module's docstring."""

    task: str | None = None
    labels: tuple[str, ...] = ()
    experts: int = 1
    router: str = DEFAULT_ROUTER


@dataclass(frozen=True)
class Answer:
    """One candidate with its probability (0..1, over all the candidates)."""

    label: str
    task: str | None
    probability: float


@dataclass(frozen=True)
class RoutedExpert:
    """An expert that answered; `similarity` is a cosine, None where the task was named."""

    task: str
    similarity: float | None


@dataclass(frozen=True)
class Prediction:
    """All answers for one picture, best first, and the experts that gave them."""

    answers: tuple[Answer, ...]
    experts: tuple[RoutedExpert, ...]


class Predictor:
    """Answers for pictures from one session; experts are decoupled one after another."""

    def __init__(self, workspace: Workspace, session: Session, options: PredictOptions) -> None:
        self._workspace = workspace
        self._session = session
        self._options = options
        if options.task is not None:
            session.entry(options.task)  # NotFoundError before any picture is decoded

    def predict(
        self, pictures: Pictures, on_progress: ProgressCallback = silent
    ) -> list[Prediction]:
        """Answer for every picture, in order."""
        options = self._options
        routes: Sequence[tuple[RoutedExpert, ...]]
        if options.task is not None:
            routes = [(RoutedExpert(options.task, None),)] * len(pictures)
        else:
            routes = self._route(pictures, on_progress)
        decide = self._ask_own_experts if self._asks_one_expert else self._vote
        return decide(pictures, routes, on_progress)

    @property
    def _asks_one_expert(self) -> bool:
        """Whether one expert answers among its own classes: the first two ways to decide."""
        options = self._options
        chosen_by_default = options.experts == 1 and options.router == DEFAULT_ROUTER
        return not options.labels and (options.task is not None or chosen_by_default)

    def _route(
        self, pictures: Pictures, on_progress: ProgressCallback
    ) -> list[tuple[RoutedExpert, ...]]:
        """The K best tasks of every picture by the base model's features."""
        entries = self._session.entries
        router = router_by_name(
            self._options.router,
            [self._workspace.prototypes(self._session, entry) for entry in entries],
        )
        routes: list[tuple[RoutedExpert, ...]] = []
        base = self._workspace.base
        indices = range(len(pictures))
        for pixels in _batches(base, pictures, indices, base.preprocessing.image_size):
            features = image_features(base, pixels)
            scores = router.scores(Query(features.image.numpy(), features.pooled.numpy()))
            for row, best in zip(scores, rank(scores, self._options.experts), strict=True):
                routes.append(tuple(RoutedExpert(entries[i].name, float(row[i])) for i in best))
            on_progress(Progress("routing", len(routes), len(pictures)))
        return routes

    def _ask_own_experts(
        self,
        pictures: Pictures,
        routes: Sequence[tuple[RoutedExpert, ...]],
        on_progress: ProgressCallback,
    ) -> list[Prediction]:
        """Each picture's one expert answers among the classes of its own task."""
        found: dict[int, Prediction] = {}
        for task, indices in _pictures_by_expert(routes).items():
            entry = self._session.entry(task)
            candidates = own_candidates(entry)
            logits = self._expert_logits(entry, candidates, pictures, indices)
            for index, row in zip(indices, logits, strict=True):
                found[index] = _prediction(row, candidates, routes[index])
            on_progress(Progress("answering", len(found), len(pictures)))
        return [found[index] for index in range(len(pictures))]

    def _vote(
        self,
        pictures: Pictures,
        routes: Sequence[tuple[RoutedExpert, ...]],
        on_progress: ProgressCallback,
    ) -> list[Prediction]:
        """Mean of the logits of the base model and of each picture's experts."""
        candidates = self._candidates()
        votes = np.array([1 + len(route) for route in routes], dtype=np.float64)
        total = self._base_logits(candidates, pictures).astype(np.float64)
        asked = 0
        for task, indices in _pictures_by_expert(routes).items():
            entry = self._session.entry(task)
            total[indices] += self._expert_logits(entry, candidates, pictures, indices)
            asked += len(indices)
            on_progress(Progress("answering", asked, sum(len(route) for route in routes)))
        mean = total / votes[:, None]
        return [
            _prediction(row, candidates, route) for row, route in zip(mean, routes, strict=True)
        ]

    def _candidates(self) -> tuple[Candidate, ...]:
        if self._options.labels:
            return tuple(
                Candidate(label, None, DEFAULT_TEMPLATES) for label in self._options.labels
            )
        return tuple(c for entry in self._session.entries for c in own_candidates(entry))

    def _base_logits(
        self, candidates: Sequence[Candidate], pictures: Pictures
    ) -> NDArray[np.float32]:
        base = self._workspace.base
        return logits_of(
            base, candidates, pictures, range(len(pictures)), base.preprocessing.image_size
        )

    def _expert_logits(
        self,
        entry: TaskEntry,
        candidates: Sequence[Candidate],
        pictures: Pictures,
        indices: Sequence[int],
    ) -> NDArray[np.float32]:
        expert = self._workspace.expert(self._session, entry)
        return logits_of(expert, candidates, pictures, indices, expert_image_size(entry))


def _pictures_by_expert(routes: Sequence[tuple[RoutedExpert, ...]]) -> dict[str, list[int]]:
    """Which pictures each expert is asked about, so that it is decoupled only once."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, route in enumerate(routes):
        for expert in route:
            indices[expert.task].append(index)
    return indices


def own_candidates(entry: TaskEntry) -> tuple[Candidate, ...]:
    """The classes of one task as candidates."""
    return tuple(Candidate(c, entry.name, entry.expert.templates) for c in entry.expert.classes)


def expert_image_size(entry: TaskEntry) -> int:
    """The size in pixels at which an expert was trained, and therefore sees best."""
    return int(entry.expert.training["recipe"]["image_size"])


def logits_of(
    model: DualEncoder,
    candidates: Sequence[Candidate],
    pictures: Pictures,
    indices: Sequence[int],
    image_size: int,
) -> NDArray[np.float32]:
    """Scaled cosines (N, L) of some pictures with all the candidates."""
    classifier = _classifier(model, candidates)
    parts = [
        class_logits(model, pixels, classifier).numpy()
        for pixels in _batches(model, pictures, indices, image_size)
    ]
    return np.concatenate(parts)


def _classifier(model: DualEncoder, candidates: Sequence[Candidate]) -> Tensor:
    """One unit text feature per candidate (L, E), each with its own templates."""
    by_templates: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, candidate in enumerate(candidates):
        by_templates[candidate.templates].append(index)
    rows: dict[int, Tensor] = {}
    for templates, indices in by_templates.items():
        features = text_features(model, [candidates[i].label for i in indices], templates)
        rows.update(zip(indices, features, strict=True))
    return torch.stack([rows[index] for index in range(len(candidates))])


def _batches(
    model: DualEncoder, pictures: Pictures, indices: Sequence[int], image_size: int
) -> Iterator[Tensor]:
    prep = model.preprocessing
    transform = evaluation_transform(
        image_size, prep.mean, prep.std, prep.interpolation, prep.resize_mode
    )
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        yield torch.stack([transform(pictures[index]) for index in batch])


def _prediction(
    logits: NDArray[np.floating], candidates: Sequence[Candidate], route: tuple[RoutedExpert, ...]
) -> Prediction:
    probabilities = softmax(logits[None])[0]
    order = np.argsort(-probabilities, kind="stable")
    answers = tuple(
        Answer(candidates[i].label, candidates[i].task, float(probabilities[i])) for i in order
    )
    return Prediction(answers, route)
