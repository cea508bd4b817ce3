"""Routing: find the tasks that an image belongs to, if none is named.

A router scores every task; a rule decides who answers, and among which classes. A router that is
not in the table can be passed itself, wherever a router's name is accepted.

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
    """Scores tasks for images."""

    def scores(self, query: Query) -> Float64:
        """Return how well each image fits each task, higher is better: float64 (N, T).

        The routers here return a cosine, -1..1. Raises ValueError if features differ in width from
        the prototypes or are not finite.
        """


RouterFactory: TypeAlias = Callable[[Sequence[Prototypes]], Router]
"""Builds a router from the prototypes of all tasks, at least one, in the order of learning."""


class PaperRouter:
    """Base image features against text + image prototypes."""

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [unit_rows(task.paper) for task in tasks]

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        return best_cosines(query.image_features, self._prototypes)


class PooledRouter:
    """Pooled image features against image-only prototypes.

    A class without images never wins. A task without any images scores -1, below all others; if no
    task has images, the paper's prototypes are used instead.
    """

    def __init__(self, tasks: Sequence[Prototypes]) -> None:
        self._prototypes = [class_directions(task) for task in tasks]
        self._fallback = PaperRouter(tasks)

    def scores(self, query: Query) -> Float64:
        """See `Router.scores`."""
        if not any(len(prototypes) for prototypes in self._prototypes):
            return self._fallback.scores(query)
        return best_cosines(query.pooled, self._prototypes)


ROUTERS: dict[str, RouterFactory] = {"paper": PaperRouter, "pooled": PooledRouter}


def router_for(router: str | RouterFactory, tasks: Sequence[Prototypes]) -> Router:
    """Build a router over the tasks' prototypes, from its name or factory.

    Raises ValueError for an unknown name or for no tasks.
    """
    if not isinstance(router, str):
        return router(_at_least_one(tasks))
    if router not in ROUTERS:
        raise ValueError(f"unknown router {router!r}; known: {', '.join(sorted(ROUTERS))}")
    return ROUTERS[router](_at_least_one(tasks))


def rank(scores: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Return the k best tasks of each image, best first: scores (N, T) -> indices (N, min(k, T)).

    Equal scores go to the task learned earlier. Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _at_least_one(tasks: Sequence[Prototypes]) -> Sequence[Prototypes]:
    if not tasks:
        raise ValueError("routing needs at least one task")
    return tasks


def class_directions(task: Prototypes) -> Float64:
    """Return the unit mean pooled features of a task's classes that have images, (C, P)."""
    return unit_rows(task.pooled[task.counts > 0])


def best_cosines(features: NDArray[Any], prototypes: Sequence[Float64]) -> Float64:
    """Return the best cosine per task, (N, T), of features (N, F) with T arrays (C, F).

    Raises ValueError if widths differ or features are not finite.
    """
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
