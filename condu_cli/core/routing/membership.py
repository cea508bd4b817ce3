"""Whether an image belongs to a task at all, judged by how similar the task's own images are.

An image's similarity to a task is the best cosine of its pooled feature with a class mean, as the
pooled router scores it. The task's own images are measured in the same way when it is learned, each
against the mean of its class without itself: that is how similar unseen images of the task would
be. An image that is less similar than all but a small share of them belongs to none of its classes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import Float64
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.core.routing.routers import best_cosines, class_directions


class Membership:
    """Compares images with each task's own."""

    def __init__(self, tasks: Mapping[str, Prototypes]) -> None:
        self._directions = {task: class_directions(p) for task, p in tasks.items()}
        self._own = {task: prototypes.own_similarities for task, prototypes in tasks.items()}

    def shares(self, tasks: Sequence[str], pooled: NDArray[Any]) -> Float64:
        """Return, per image, the share of its task's own images that are no more similar.

        `tasks`: one name per image; `pooled`: (N, P). float64 (N,), 0 exclusive to 1; the image
        counts as one of the task's, so that an image of the task has a share of at most X with a
        probability of at most X. A task without a record of its images gives 1.
        """
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, task in enumerate(tasks):
            rows_of[task].append(row)
        shares = np.ones(len(tasks))
        for task, rows in rows_of.items():  # an image is compared with its own task's classes only
            own = self._own[task]
            similarities = best_cosines(pooled[rows], [self._directions[task]])[:, 0]
            below = np.searchsorted(own, similarities, side="right")
            shares[rows] = (1 + below) / (1 + len(own))
        return shares

    def least_share(self, task: str) -> float:
        """Return the smallest share that an image can have; 1 without a record of the task's."""
        return 1 / (1 + len(self._own[task]))
