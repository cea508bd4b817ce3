"""Route pictures: among all tasks of a session, or those that have learned the caller's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.core.routing.routers import rank, router_for
from condu_cli.workflows.answering.answers import RoutedExpert
from condu_cli.workflows.answering.learned_labels import LearnedLabels, learned_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.core.routing.routers import RouterFactory
    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.answering.panel import Panel
    from condu_cli.workflows.answering.rules import Routes
    from condu_cli.workflows.opening.workspace import Workspace


class Routing:
    """A router over some of a session's tasks.

    `labels`: the caller's; only tasks that have learned one of them are candidates, and of their
    classes only those labels. None: all tasks with all their classes. `learned` says which labels
    these are.
    """

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        router: str | RouterFactory,
        labels: Sequence[str] | None,
    ) -> None:
        known = None if labels is None else learned_labels(session.entries, labels)
        prototypes = {
            entry.name: workspace.prototypes(session, entry)
            for entry in session.entries
            if known is None or entry.name in known.of_task
        }
        self.learned = LearnedLabels()
        if known is not None:
            self.learned = known.findable(prototypes)
            prototypes = {
                task: prototypes[task].only(sorted(set(places.values())))
                for task, places in self.learned.of_task.items()
            }
        self._tasks = tuple(prototypes)
        self._router = router_for(router, list(prototypes.values())) if prototypes else None

    def routes(self, panel: Panel, experts: int, count: int) -> Routes:
        """Return the nearest tasks of all `count` pictures; no task if there is no candidate."""
        if self._router is None:
            return [()] * count
        routes: list[tuple[RoutedExpert, ...]] = []
        for query in panel.queries():
            scores = self._router.scores(query)
            for row, best in zip(scores, rank(scores, experts), strict=True):
                routes.append(tuple(RoutedExpert(self._tasks[i], float(row[i])) for i in best))
            panel.report("routing", len(routes), count)
        return routes
