"""Evaluate: the accuracy of a learned task on labelled pictures.

There are two label spaces, always named with the figure:

    own     the task is named, its expert answers among its own classes
    union   the task is not named; the answer must have the right task and the right class
            among the classes of all learned tasks
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.metrics import accuracy
from condu_cli.data.class_names import name_unknown, places_among, unknown_among
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.sources.task_data import LearnedFrom, open_split
from condu_cli.errors import DataError
from condu_cli.workflows.answering.answers import own_candidates
from condu_cli.workflows.answering.class_features import encode_candidates
from condu_cli.workflows.answering.panel import logits_of
from condu_cli.workflows.answering.predictor import (
    DEFAULT_ROUTER,
    PredictOptions,
    Predictor,
    decoded_windows,
)
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.data.labelled import Sample, SplitPictures
    from condu_cli.data.pictures.decoding import Unreadable
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.answering.answers import Prediction
    from condu_cli.workflows.opening.workspace import Workspace


@dataclass(frozen=True)
class EvaluateRequest:
    """What to evaluate; without `data` and `data_root`, where the task was learned from.

    `experts`, `router` and `rule` apply to the union of all classes, as in
    `PredictOptions`.
    """

    task: str
    data: Path | None = None
    data_root: Path | None = None
    download: bool = False
    class_names: Path | None = None
    split: str = "test"
    label_space: str = "own"
    experts: int = 1
    router: str = DEFAULT_ROUTER
    rule: str | None = None
    zero_shot: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Accuracies (0..1) over `n` pictures; `experts` is how many experts answer each picture.

    `routed` is the share of pictures routed to this task, and `routed_to` their number for every
    task that took some, most first; both None in the `own` space. `unreadable` has the reason for
    each picture that was skipped; `omitted` says what was not looked at.
    """

    task: str
    accuracy: float
    n: int
    label_space: str
    experts: int
    zero_shot: float | None = None
    routed: float | None = None
    routed_to: dict[str, int] | None = None
    unreadable: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()


def evaluate(
    workspace: Workspace,
    session: Session,
    request: EvaluateRequest,
    on_progress: ProgressCallback = silent,
) -> Evaluation:
    """Measure one task of a session.

    Raises:
        NotFoundError: no such task.
        DataError: no readable pictures, or classes that the task does not have.

    """
    entry = session.entry(request.task)
    pictures, labels = _pictures(workspace.registry, entry, request)
    own = request.label_space == "own"
    options = (
        PredictOptions(task=request.task)
        if own
        else PredictOptions(experts=request.experts, router=request.router, rule=request.rule)
    )
    predictor = Predictor(workspace, session, options)
    asked = _ask(workspace, predictor, entry, pictures.samples, request.zero_shot, on_progress)
    labels = labels[asked.places]
    classes = entry.expert.classes
    predicted = np.array([_class_index(p, entry.name, classes) for p in asked.predictions])
    routed_to = None if own else _routed_to(asked.predictions)
    return Evaluation(
        task=request.task,
        accuracy=accuracy(predicted, labels),
        n=len(labels),
        label_space=request.label_space,
        experts=len(asked.predictions[0].experts),
        zero_shot=accuracy(np.array(asked.zero_shot), labels) if request.zero_shot else None,
        routed=None if routed_to is None else routed_to.get(entry.name, 0) / len(labels),
        routed_to=routed_to,
        unreadable=tuple(broken.reason for broken in asked.unreadable),
        omitted=pictures.omitted,
    )


@dataclass
class _Asked:
    """The answers so far: the places of the readable pictures, and the predictions for them.

    `zero_shot`: the base model's class for each of them, if requested.
    """

    places: list[int] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    zero_shot: list[int] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


def _ask(
    workspace: Workspace,
    predictor: Predictor,
    entry: TaskEntry,
    samples: Sequence[Sample],
    zero_shot: bool,
    on_progress: ProgressCallback,
) -> _Asked:
    """Decode every picture once, for the predictor and for the base model."""
    base = workspace.base
    view = view_of(base.preprocessing)
    asked = _Asked()
    classifier = encode_candidates(base, own_candidates(entry)) if zero_shot else None
    for window in decoded_windows([s.picture for s in samples], predictor.geometries, on_progress):
        asked.unreadable += window.unreadable.values()
        if not len(window):
            continue
        asked.places += window.places
        asked.predictions += predictor.answer(window, on_progress)
        if classifier is not None:
            logits = logits_of(base, classifier, window.views[view.geometry], view)
            asked.zero_shot += logits.argmax(axis=1).tolist()
    if not asked.places:
        first = asked.unreadable[0].error
        raise DataError(
            f"none of the pictures can be read: {first.message}", reason=first.reason, **first.facts
        )
    return asked


def _class_index(prediction: Prediction, task: str, classes: Sequence[str]) -> int:
    """Return the index of the predicted class, -1 if the answer belongs to another task."""
    best = prediction.answers[0]
    return classes.index(best.label) if best.task == task else -1


def _routed_to(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Count the pictures by the task that the router found nearest, most first."""
    nearest = Counter(prediction.experts[0].task for prediction in predictions)
    return dict(nearest.most_common())


def _pictures(
    registry: Registry, entry: TaskEntry, request: EvaluateRequest
) -> tuple[SplitPictures, np.ndarray]:
    """Return the split's pictures, and their labels (N,) in the task's order of classes."""
    found, root = open_split(
        entry.name,
        request.data,
        request.data_root,
        request.class_names,
        split=request.split,
        learned=LearnedFrom.of(entry.expert.training, learned_from_folder(registry, entry)),
        download=request.download,
    )
    if not found.samples:
        raise DataError(
            f"{root}: no {request.split} pictures",
            reason="no-pictures-in-split",
            path=root,
            split=request.split,
        )
    index = _class_indices(entry, found.folders, found.class_names, root)
    return found, np.array([index[sample.label] for sample in found.samples])


def learned_from_folder(registry: Registry, entry: TaskEntry) -> Path | None:
    """Return the folder or file that a task was learned from, None if it no longer exists.

    The earliest registries kept it in the training record.
    """
    recorded = registry.folder_of(entry) or entry.expert.training.get("data")
    return Path(recorded) if recorded and Path(recorded).exists() else None


def _class_indices(
    entry: TaskEntry, folders: Sequence[str], names: Sequence[str], root: Path
) -> list[int]:
    """Return each data class's index in the task, matched by name, else by folder."""
    classes = entry.expert.classes
    found = places_among((classes, entry.expert.training.get("folders", ())), (names, folders))
    if found is not None:
        return found
    unknown = unknown_among(classes, names)
    raise DataError(
        f"{root}: task '{entry.name}' has no class called {name_unknown(unknown)}",
        reason="class-not-learned",
        task=entry.name,
        unknown=unknown,
    )
