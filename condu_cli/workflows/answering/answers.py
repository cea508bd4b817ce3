"""The values that predict returns: candidates, probabilities, and the experts that answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.metrics import softmax
from condu_cli.data.class_names import refuse_odd_text
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from condu_cli.registry.manifest import TaskEntry


@dataclass(frozen=True)
class Candidate:
    """A label that can be the answer, with its prompt templates and its task, if any."""

    label: str
    task: str | None
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One candidate with its probability (0..1, over all candidates)."""

    label: str
    task: str | None
    probability: float


@dataclass(frozen=True)
class RoutedExpert:
    """An expert that answered; `similarity` is the router's score, None if no router was used.

    condu's own routers score with a cosine.
    """

    task: str
    similarity: float | None


@dataclass(frozen=True)
class Prediction:
    """All answers for one picture, best first, and the experts that answered.

    `unknown`: by the requested threshold the picture belongs to no learned task; the answers are
    what would have been said otherwise.
    """

    answers: tuple[Answer, ...]
    experts: tuple[RoutedExpert, ...]
    unknown: bool = False


def own_candidates(entry: TaskEntry) -> tuple[Candidate, ...]:
    """Return the classes of one task as candidates."""
    return tuple(Candidate(c, entry.name, entry.expert.templates) for c in entry.expert.classes)


def own_labels(labels: Sequence[str]) -> tuple[Candidate, ...]:
    """Return the caller's own labels as candidates of no task.

    Raises:
        UsageError: a label is not one line of text.

    """
    refuse_odd_text(labels, "label")
    return tuple(Candidate(label, None, DEFAULT_TEMPLATES) for label in labels)


def prediction(
    logits: NDArray[np.floating],
    candidates: tuple[Candidate, ...],
    route: tuple[RoutedExpert, ...],
) -> Prediction:
    """Turn one picture's logits (L,) over the candidates into a prediction.

    A logit of -inf, of a candidate that cannot be the answer, gives probability 0.
    """
    probabilities = softmax(logits[None])[0]
    order = np.argsort(-logits, kind="stable")  # equal probabilities may hide unequal logits
    answers = tuple(
        Answer(candidates[i].label, candidates[i].task, float(probabilities[i])) for i in order
    )
    return Prediction(answers, route)
