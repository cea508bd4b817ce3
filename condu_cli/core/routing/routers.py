"""Routing: which tasks an image belongs to, when none is named.

A router scores every task; who then answers, and among which classes, is for a rule to decide.
One that is not in the table is passed as it is, wherever a router's name is taken.

paper    cosine of the base image feature to the best text + image prototype
         (ConDU, arXiv 2503.10705, prediction without a task)
pooled   cosine of the pooled image feature, before the projection, to the best image-only prototype
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import Float64
from condu_cli.core.routing.prototypes import Prototypes, unit_rows

WORST_COSINE = -1.0


@dataclass(frozen=True, eq=False)
class Query:
    """Base-model features of N images: `image_features` (N, E) and `pooled` (N, P)."""

    image_features: NDArray[Any]
    pooled: NDArray[Any]


class Router(Protocol):
    """Scores the tasks that it was made of, for images."""

    def scores(self, query: Query) -> Float64:
        """How well each image fits each task, the higher the better: float64 (N, T).

        The routers here answer with a cosine, -1..1. Raises ValueError where features differ in
        width from the prototypes or are not finite.
        """


RouterFactory: TypeAlias = Callable[[Sequence[Prototypes]], Router]
"""Makes a router of all tasks' prototypes, at least one, in the order in which they were learned.
"""


class PaperRouter:
    """Base image features against text + image prototypes."""

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [unit_rows(task.paper) for task in tasks]

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        return _best_cosines(query.image_features, self._prototypes)


class PooledRouter:
    """Pooled image features against image-only prototypes.

    A class without images never wins. A task without any image scores -1, behind all others;
    where no task has an image the paper's prototypes decide instead.
    """

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [unit_rows(task.pooled[task.counts > 0]) for task in tasks]
        self._fallback = PaperRouter(tasks)

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        if not any(len(prototypes) for prototypes in self._prototypes):
            return self._fallback.scores(query)
        return _best_cosines(query.pooled, self._prototypes)


ROUTERS: dict[str, RouterFactory] = {"paper": PaperRouter, "pooled": PooledRouter}


def router_for(router: str | RouterFactory, tasks: Sequence[Prototypes]) -> Router:
    """A router over the tasks' prototypes, by its name or as whoever passes it makes it.

    Raises ValueError for a name that is not in `ROUTERS`, or for no tasks.
    """
    if not isinstance(router, str):
        return router(_at_least_one(tasks))
    if router not in ROUTERS:
        raise ValueError(f"unknown router {router!r}; known: {', '.join(sorted(ROUTERS))}")
    return ROUTERS[router](_at_least_one(tasks))


def rank(scores: NDArray[Any], k: int) -> NDArray[np.intp]:
    """The k best tasks of each image, best first: scores (N, T) -> indices (N, min(k, T)).

    Equal scores go to the task learned earlier. Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"at least one task has to be picked, not {k}")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _at_least_one(tasks: Sequence[Prototypes]) -> Sequence[Prototypes]:
    if not tasks:
        raise ValueError("routing needs at least one task")
    return tasks


def _best_cosines(features: NDArray[Any], prototypes: Sequence[Float64]) -> Float64:
    """(N, F) against T arrays of unit rows (C, F) -> (N, T), task by task to save memory."""
    if features.ndim != 2 or any(task.shape[1] != features.shape[1] for task in prototypes):
        widths = sorted({task.shape[1] for task in prototypes})
        raise ValueError(f"features of shape {features.shape} meet prototypes of width {widths}")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity")
    unit = unit_rows(features)
    best = np.full((len(unit), len(prototypes)), WORST_COSINE)
    for task, rows in enumerate(prototypes):
        if len(rows):
            best[:, task] = np.clip((unit @ rows.T).max(axis=1), -1.0, 1.0)
    return best
