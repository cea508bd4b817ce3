"""Pictures that belong to no learned task, as far as the base model's features tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.core.routing.membership import Membership

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.answering.answers import Prediction
    from condu_cli.workflows.answering.panel import Panel
    from condu_cli.workflows.answering.rules import Routes
    from condu_cli.workflows.opening.workspace import Workspace


class UnknownPictures:
    """Marks predictions as unknown.

    `threshold`: the share (0..1) of a task's own pictures that may be called unknown. A picture is
    unknown if at most that share of its task's own pictures are less similar to the task's classes;
    its task is the named or the nearest one.
    """

    def __init__(
        self, workspace: Workspace, session: Session, tasks: Sequence[str], threshold: float
    ) -> None:
        self._threshold = threshold
        self._membership = Membership(
            {task: workspace.prototypes(session, session.entry(task)) for task in tasks}
        )
        least = {task: self._membership.least_share(task) for task in tasks}
        self.unjudged = tuple(task for task, share in least.items() if share > threshold)
        """The tasks of which no picture can be called unknown: too few similarities are stored."""

    def mark(
        self, panel: Panel, routes: Routes, predictions: Sequence[Prediction]
    ) -> list[Prediction]:
        """Return the predictions of a panel's pictures with `unknown` filled in."""
        pooled = np.concatenate([query.pooled for query in panel.queries()])
        shares = self._membership.shares([route[0].task for route in routes], pooled)
        return [
            replace(one, unknown=bool(share <= self._threshold))
            for one, share in zip(predictions, shares, strict=True)
        ]
