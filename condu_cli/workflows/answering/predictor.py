"""Predict: route each picture to the experts it needs, decouple only those, and answer.

A router says which tasks' experts are nearest to a picture, unless the task is named; a rule
decides who of them answers, and among which labels. Neither knows of the other: see `ROUTERS` and
`RULES` for those that condu brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.core.routing.routers import RouterFactory, rank, router_for
from condu_cli.workflows.answering.answers import Prediction, RoutedExpert
from condu_cli.workflows.answering.panel import Panel
from condu_cli.workflows.answering.rules import Routes, rule_for
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from condu_cli.data.pictures.loading import Pictures
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

    def predict(
        self, pictures: Pictures, on_progress: ProgressCallback = silent
    ) -> list[Prediction]:
        """Answer for every picture, in order."""
        options = self._options
        panel = Panel(self._workspace, self._session, pictures, options.labels, on_progress)
        routes: Routes
        if options.task is not None:
            routes = [(RoutedExpert(options.task, None),)] * len(pictures)
        else:
            routes = self._route(panel, len(pictures), on_progress)
        return self._decide(panel, routes)

    def _route(self, panel: Panel, count: int, on_progress: ProgressCallback) -> Routes:
        """The nearest tasks of every picture by the base model's features."""
        entries = self._session.entries
        router = router_for(
            self._options.router,
            [self._workspace.prototypes(self._session, entry) for entry in entries],
        )
        routes: list[tuple[RoutedExpert, ...]] = []
        for query in panel.queries():
            scores = router.scores(query)
            for row, best in zip(scores, rank(scores, self._options.experts), strict=True):
                routes.append(tuple(RoutedExpert(entries[i].name, float(row[i])) for i in best))
            on_progress(Progress("routing", len(routes), count))
        return routes
