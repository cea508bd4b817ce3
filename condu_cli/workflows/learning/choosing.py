"""Choose between the head, the tuned expert and points between them, on held-out pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condu_cli.core.metrics import is_better

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

POINTS = (0.25, 0.5, 0.75, 1.0)
"""What is tried besides 0, the start itself."""


@dataclass(frozen=True, eq=False)
class Point:
    """One expert on held-out pictures: whether it is right (N,), and its losses (N,)."""

    alpha: float
    right: NDArray[np.bool_]
    losses: NDArray[np.floating]

    @property
    def accuracy(self) -> float:
        """The share of pictures that it gets right."""
        return float(self.right.mean())

    def to_record(self) -> dict[str, Any]:
        """Return its figures for the training record."""
        return {
            "alpha": self.alpha,
            "accuracy": self.accuracy,
            "loss": round(float(self.losses.mean()), 6),
        }


def best_point(points: Sequence[Point]) -> Point:
    """Return the most accurate point, of equals the one with the smallest loss.

    The first, the start, is kept unless another is better beyond chance.
    """
    start = points[0]
    best = max(points, key=lambda point: (point.accuracy, -float(point.losses.mean())))
    return best if is_better(best.right, start.right) else start
