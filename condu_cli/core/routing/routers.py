"""Routing: which tasks an image belongs to, when nobody names one.

A router scores every task by its best prototype; the experts of the best tasks answer.

paper    cosine of the base image feature to text + image prototypes
         (ConDU, arXiv 2503.10705, prediction without a task)
pooled   cosine of the pooled image feature, before the projection, to image-only prototypes
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    """Scores tasks for images."""

    @property
    def name(self) -> str:
        """The name that `router_by_name` knows."""

    def scores(self, query: Query) -> Float64:
        """Cosine of each image to the best prototype of each task: float64 (N, T), in -1..1.

        Raises ValueError where features differ in width from the prototypes or are not finite.
        """


class PaperRouter:
    """Base image features against text + image prototypes; needs at least one task."""

    name = "paper"

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [unit_rows(task.paper) for task in _at_least_one(tasks)]

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        return _best_cosines(query.image_features, self._prototypes)


class PooledRouter:
    """Pooled image features against image-only prototypes; needs at least one task.

    A class without images never wins. A task without any image scores -1, behind all others;
    where no task has an image the paper's prototypes decide instead.
    """

    name = "pooled"

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [
            unit_rows(task.pooled[task.counts > 0]) for task in _at_least_one(tasks)
        ]
        self._fallback = PaperRouter(tasks)

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        if not any(len(prototypes) for prototypes in self._prototypes):
            return self._fallback.scores(query)
        return _best_cosines(query.pooled, self._prototypes)


ROUTERS: Mapping[str, Callable[[Sequence[Prototypes]], Router]] = {
    PaperRouter.name: PaperRouter,
    PooledRouter.name: PooledRouter,
}


def router_by_name(name: str, tasks: Sequence[Prototypes]) -> Router:
    """The router of that name over the tasks' prototypes.

    Raises ValueError for a name that is not in `ROUTERS`, or for no tasks.
    """
    if name not in ROUTERS:
        raise ValueError(f"unknown router {name!r}; known: {', '.join(sorted(ROUTERS))}")
    return ROUTERS[name](tasks)


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
