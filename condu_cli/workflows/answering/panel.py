"""The base model's and the experts' logits for one window of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from condu_cli.backbone.classifiers import TorchHead
from condu_cli.backbone.features import class_logits, image_features
from condu_cli.core.routing.routers import Query
from condu_cli.data.pictures.transforms import view_of
from condu_cli.workflows.answering.answers import own_candidates, own_labels
from condu_cli.workflows.answering.learned_labels import LearnedLabels
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.pictures.decoding import Pixels
    from condu_cli.data.pictures.transforms import Transform
    from condu_cli.data.pictures.windows import Window
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.workflows.answering.answers import Candidate
    from condu_cli.workflows.answering.class_features import ClassFeatures
    from condu_cli.workflows.opening.workspace import Workspace

BATCH = 32
NONE_LEARNED = LearnedLabels()


class Panel:
    """Everything that a rule may ask about a window's pictures; experts are decoupled one by one.

    `labels`: the caller's own, which then are the only candidates of a vote; `learned`: which of
    them are classes of tasks. `classes`: a cache of text features, shared between windows.
    """

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        window: Window,
        classes: ClassFeatures,
        labels: Sequence[str] = (),
        learned: LearnedLabels = NONE_LEARNED,
        on_progress: ProgressCallback = silent,
    ) -> None:
        self._workspace, self._session = workspace, session
        self._window, self._classes, self._labels = window, classes, labels
        self.learned = learned
        self._queries: list[Query] = []
        self._on_progress = on_progress

    def own_candidates(self, task: str) -> tuple[Candidate, ...]:
        """Return the classes of one task."""
        return own_candidates(self._session.entry(task))

    def all_candidates(self) -> tuple[Candidate, ...]:
        """Return the caller's labels, else the classes of all learned tasks."""
        if self._labels:
            return own_labels(self._labels)
        return tuple(c for entry in self._session.entries for c in own_candidates(entry))

    def queries(self) -> Iterator[Query]:
        """Yield the base model's features of the pictures, batch by batch, computed only once."""
        if self._queries:
            yield from self._queries
            return
        base = self._workspace.base
        transform = view_of(base.preprocessing)
        found: list[Query] = []
        for pixels in _batches(self._window.views[transform.geometry], transform):
            features = image_features(base, pixels)
            found.append(Query(features.image.numpy(), features.pooled.numpy()))
            yield found[-1]
        self._queries = found

    def base_logits(self, candidates: tuple[Candidate, ...]) -> NDArray[np.float32]:
        """Return the base model's scaled cosines (N, L) between all pictures and the candidates."""
        base = self._workspace.base
        transform = view_of(base.preprocessing)
        classifier = self._classes.of(None, base, candidates)
        return logits_of(base, classifier, self._window.views[transform.geometry], transform)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress in a stage, counted in pictures of all windows."""
        window = self._window
        share = (window.end - window.start) * done // max(total, 1)
        self._on_progress(Progress(stage, window.start + share, window.total))

    def expert_logits(
        self, task: str, candidates: tuple[Candidate, ...], indices: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return an expert's logits (len(indices), L) of pictures and candidates.

        They are scaled cosines; an expert with a head beside it answers among all classes of its
        task, in their order, with the head.
        """
        entry = self._session.entry(task)
        expert = self._workspace.expert(self._session, entry)
        transform = view_of(expert.preprocessing, expert_image_size(entry))
        seen = self._window.views[transform.geometry]
        head = None
        if candidates == own_candidates(entry):
            head = self._workspace.head_beside(self._session, entry)
        classifier = (
            self._classes.of(task, expert, candidates)
            if head is None
            else TorchHead.on(expert.device, head["weights"], head["bias"])
        )
        return logits_of(expert, classifier, [seen[index] for index in indices], transform)


def expert_image_size(entry: TaskEntry) -> int:
    """Return the size in pixels at which an expert was trained."""
    return int(entry.expert.training["recipe"]["image_size"])


def logits_of(
    model: DualEncoder,
    classifier: Tensor | TorchHead,
    seen: Sequence[Pixels],
    transform: Transform,
) -> NDArray[np.float32]:
    """Return a classifier's logits (N, L) of pictures, cropped by `transform`.

    The classifier is the result of `encode_candidates` for the candidates and the same model, or a
    head beside it.
    """
    parts = [
        class_logits(model, pixels, classifier).numpy() for pixels in _batches(seen, transform)
    ]
    return np.concatenate(parts)


def _batches(seen: Sequence[Pixels], transform: Transform) -> Iterator[Tensor]:
    for start in range(0, len(seen), BATCH):
        yield transform.normalise(seen[start : start + BATCH])
