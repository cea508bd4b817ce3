"""Predict: route each picture to the experts it needs, decouple only those, and answer.

A router scores how well tasks fit a picture, unless the task is named; a rule decides which experts
answer, and among which labels. Neither knows about the other; `ROUTERS` and `RULES` list those of
condu.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.pictures.windows import Window, windows
from condu_cli.errors import UsageError
from condu_cli.workflows.answering.answers import Prediction, RoutedExpert
from condu_cli.workflows.answering.class_features import ClassFeatures
from condu_cli.workflows.answering.learned_labels import LearnedLabels, learned_labels
from condu_cli.workflows.answering.panel import Panel, expert_image_size
from condu_cli.workflows.answering.routing import Routing
from condu_cli.workflows.answering.rules import RULES, Routes, Rule, rule_for
from condu_cli.workflows.answering.unknown import UnknownPictures
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from condu_cli.core.routing.routers import RouterFactory
    from condu_cli.data.pictures.decoding import Unreadable
    from condu_cli.data.pictures.geometry import EvaluationGeometry
    from condu_cli.data.pictures.picture_files import Picture
    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.opening.workspace import Workspace

DEFAULT_ROUTER = "pooled"


@dataclass(frozen=True)
class PredictOptions:
    """How to decide.

    `task` names the expert to ask; otherwise `router` (a name or a factory) finds the nearest
    `experts`. `labels`: the caller's own candidates. `rule` None: the usual one, see `rules`.
    `threshold`: the share (0..1) of learned tasks' own pictures that may be called unknown, None to
    call none so.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    experts: int = 1
    router: str | RouterFactory = DEFAULT_ROUTER
    rule: str | None = None
    threshold: float | None = None

    def decision(self, learned: LearnedLabels | None = None) -> Rule:
        """Return the rule that these options ask for.

        `learned`: which of the labels are classes of the named task, if one is named.

        Raises:
            UsageError: the options contradict each other, or the threshold is out of range.

        """
        if self.threshold is not None:
            _check_threshold(self.threshold, self.labels)
        return rule_for(
            self.rule,
            task=self.task,
            labels=self.labels,
            experts=self.experts,
            router=self.router,
            task_knows_labels=learned is not None and len(learned.indices) == len(self.labels),
        )


def _check_threshold(threshold: float, labels: Sequence[str]) -> None:
    if not 0 < threshold < 1:
        raise UsageError(
            f"the threshold is a share between 0 and 1, not {threshold:g}",
            reason="threshold-out-of-range",
            parameter="threshold",
        )
    if labels:
        raise UsageError(
            "the threshold is about the learned tasks' own classes, not your own labels",
            reason="threshold-with-labels",
            parameter="threshold",
        )


class Predictor:
    """Answers for pictures from one session.

    Raises:
        NotFoundError: no such task, before any picture is decoded.
        UsageError: the requested rule does not fit the other options.

    """

    def __init__(self, workspace: Workspace, session: Session, options: PredictOptions) -> None:
        self._workspace = workspace
        self._session = session
        self._options = options
        self._named = LearnedLabels()
        if options.task is not None:
            self._named = learned_labels([session.entry(options.task)], options.labels)
        self._decide = options.decision(self._named)
        self._classes = ClassFeatures()

    @cached_property
    def geometries(self) -> frozenset[EvaluationGeometry]:
        """The crops that the experts and the base model may need; loads the base model."""
        base, session, task = self._workspace.base, self._session, self._options.task
        # Which experts are asked is known only once the pictures are routed.
        entries = session.entries if task is None else [session.entry(task)]
        sizes = {base.preprocessing.image_size, *map(expert_image_size, entries)}
        return frozenset(view_of(base.preprocessing, size).geometry for size in sizes)

    def predict(
        self, pictures: Sequence[Picture], on_progress: ProgressCallback = silent
    ) -> list[Prediction | Unreadable]:
        """Predict every readable picture, in order; each is decoded once."""
        if not pictures:
            return []
        return predict_windows(pictures, self.geometries, self.answer, on_progress)

    def answer(self, window: Window, on_progress: ProgressCallback = silent) -> list[Prediction]:
        """Predict the readable pictures of a window that holds at least `geometries`."""
        if not len(window):
            return []
        options, task = self._options, self._options.task
        learned = self._named if task is not None else self._routing.learned
        panel = Panel(
            self._workspace,
            self._session,
            window,
            self._classes,
            options.labels,
            learned,
            on_progress,
        )
        routes: Routes
        if task is not None:
            routes = [(RoutedExpert(task, None),)] * len(window)
        else:
            routes = self._routing.routes(panel, options.experts, len(window))
        predictions = self._decide(panel, routes)
        return self._unknown.mark(panel, routes, predictions) if self._unknown else predictions

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The tasks of which no picture can be called unknown, though a threshold asks for it.

        They were learned before their own pictures were measured, or from too few for the
        threshold, or imported without pictures.
        """
        return self._unknown.unjudged if self._unknown else ()

    @cached_property
    def _unknown(self) -> UnknownPictures | None:
        options, session = self._options, self._session
        if options.threshold is None:
            return None
        tasks = (
            [entry.name for entry in session.entries] if options.task is None else [options.task]
        )
        return UnknownPictures(self._workspace, session, tasks, options.threshold)

    @cached_property
    def _routing(self) -> Routing:
        options = self._options
        labels = options.labels if self._decide is RULES["labels"] else None
        return Routing(self._workspace, self._session, options.router, labels)


def predict_windows(
    pictures: Sequence[Picture],
    geometries: Collection[EvaluationGeometry],
    answer: Callable[[Window, ProgressCallback], list[Prediction]],
    on_progress: ProgressCallback = silent,
) -> list[Prediction | Unreadable]:
    """Decode pictures window by window and collect what `answer` says about each, in order."""
    found: dict[int, Prediction | Unreadable] = {}
    for window in decoded_windows(pictures, geometries, on_progress):
        found.update(window.unreadable)
        found.update(zip(window.places, answer(window, on_progress), strict=True))
    return [found[place] for place in range(len(pictures))]


def decoded_windows(
    pictures: Sequence[Picture],
    geometries: Collection[EvaluationGeometry],
    on_progress: ProgressCallback = silent,
) -> Iterator[Window]:
    """Yield windows of decoded pictures and report progress; see `windows`."""
    total = len(pictures)
    return windows(
        pictures, geometries, on_done=lambda done: on_progress(Progress("reading", done, total))
    )
