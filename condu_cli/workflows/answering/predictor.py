"""Predict: route each picture to the experts it needs, decouple only those, and answer.

A router says which tasks' experts are nearest to a picture, unless the task is named; a rule
decides who of them answers, and among which labels. Neither knows of the other: see `ROUTERS` and
`RULES` for those that condu brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from condu_cli.core.routing.routers import RouterFactory, rank, router_for
from condu_cli.data.pictures.windows import Window, windows
from condu_cli.workflows.answering.answers import Prediction, RoutedExpert
from condu_cli.workflows.answering.class_features import ClassFeatures
from condu_cli.workflows.answering.panel import Panel, expert_image_size, view_of
from condu_cli.workflows.answering.rules import Routes, rule_for
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from condu_cli.core.routing.routers import Router
    from condu_cli.data.pictures.decoding import Unreadable
    from condu_cli.data.pictures.geometry import EvaluationGeometry
    from condu_cli.data.pictures.picture_files import Picture
    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.opening.workspace import Workspace

DEFAULT_ROUTER = "pooled"


@dataclass(frozen=True)
class PredictOptions:
    """How to decide.

    `task` names the expert to ask; without it `router`, a name or what makes one, finds the
    `experts` nearest. `labels`: candidates of the caller's own. `rule` None: see `rules`.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    experts: int = 1
    router: str | RouterFactory = DEFAULT_ROUTER
    rule: str | None = None


class Predictor:
    """Answers for pictures from one session.

    Raises:
        NotFoundError: no such task, before any picture is decoded.
        UsageError: the rule that was asked for cannot decide this.

    """

    def __init__(self, workspace: Workspace, session: Session, options: PredictOptions) -> None:
        self._workspace = workspace
        self._session = session
        self._options = options
        self._decide = rule_for(
            options.rule,
            task=options.task,
            labels=options.labels,
            experts=options.experts,
            router=options.router,
        )
        if options.task is not None:
            session.entry(options.task)
        self._classes = ClassFeatures()

    @cached_property
    def geometries(self) -> frozenset[EvaluationGeometry]:
        """How experts and the base model will look at the pictures; loads the base model."""
        base, session, task = self._workspace.base, self._session, self._options.task
        # Which experts will be asked is not known before the pictures are seen.
        entries = session.entries if task is None else [session.entry(task)]
        sizes = {base.preprocessing.image_size, *map(expert_image_size, entries)}
        return frozenset(view_of(base, size).geometry for size in sizes)

    def predict(
        self, pictures: Sequence[Picture], on_progress: ProgressCallback = silent
    ) -> list[Prediction | Unreadable]:
        """Answer for every picture that can be read, in order; each is decoded once."""
        found: dict[int, Prediction | Unreadable] = {}
        if not pictures:
            return []
        for window in looked_at(pictures, self.geometries, on_progress):
            found.update(window.unreadable)
            answers = self.answer(window, on_progress)
            found.update(zip(window.places, answers, strict=True))
        return [found[place] for place in range(len(pictures))]

    def answer(self, window: Window, on_progress: ProgressCallback = silent) -> list[Prediction]:
        """Answer for the readable pictures of a window, seen by at least `geometries`."""
        if not len(window):
            return []
        labels = self._options.labels
        panel = Panel(self._workspace, self._session, window, self._classes, labels, on_progress)
        routes: Routes
        if self._options.task is not None:
            routes = [(RoutedExpert(self._options.task, None),)] * len(window)
        else:
            routes = self._route(panel, len(window))
        return self._decide(panel, routes)

    @cached_property
    def _router(self) -> Router:
        workspace, session = self._workspace, self._session
        prototypes = [workspace.prototypes(session, entry) for entry in session.entries]
        return router_for(self._options.router, prototypes)

    def _route(self, panel: Panel, count: int) -> Routes:
        """The nearest tasks of every picture by the base model's features."""
        names = [entry.name for entry in self._session.entries]
        routes: list[tuple[RoutedExpert, ...]] = []
        for query in panel.queries():
            scores = self._router.scores(query)
            for row, best in zip(scores, rank(scores, self._options.experts), strict=True):
                routes.append(tuple(RoutedExpert(names[i], float(row[i])) for i in best))
            panel.report("routing", len(routes), count)
        return routes


def looked_at(
    pictures: Sequence[Picture],
    geometries: Collection[EvaluationGeometry],
    on_progress: ProgressCallback = silent,
) -> Iterator[Window]:
    """Windows of pictures, whose reading is told as progress; see `windows`."""
    total = len(pictures)
    return windows(
        pictures, geometries, on_done=lambda done: on_progress(Progress("reading", done, total))
    )
