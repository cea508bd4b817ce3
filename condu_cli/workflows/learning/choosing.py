"""Choose between the head, the tuned expert and points between them, on held-out pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.core.heads import calibrated
from condu_cli.core.metrics import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POINTS = (0.25, 0.5, 0.75, 1.0)
"""What is tried besides 0, the start itself."""
MIDDLE = 0.5
"""What is tried first where every point takes a pass over the pictures; see `second_point`."""
PASSES = 2
LEAST_GAIN = 1e-4
"""Of the mean loss, whose range is 0..2; where both are right and sure, less is rounding."""


@dataclass(frozen=True, eq=False)
class Point:
    """One expert on held-out pictures: whether it is right (N,), and its losses (N,).

    The loss is the Brier score, the squared distance (0..2) between probabilities and truth, at the
    temperature that suits the logits best: how sure an expert is of itself says nothing about how
    much it knows. Unlike the logarithm it is bounded, so that no single picture outweighs a
    hundred others.
    """

    alpha: float
    right: NDArray[np.bool_]
    losses: NDArray[np.floating]

    @classmethod
    def of(cls, alpha: float, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Point:
        """Return the point with these logits (N, C) for pictures with these labels (N,)."""
        chances = softmax(calibrated(logits, labels) * logits)
        truth = np.eye(logits.shape[1])[labels]
        losses = np.square(chances - truth).sum(axis=1)
        return cls(alpha, logits.argmax(axis=1) == labels, losses)

    @classmethod
    def useless(cls, alpha: float, count: int) -> Point:
        """Return the point of an expert that has no answers: it is as wrong as can be."""
        return cls(alpha, np.zeros(count, bool), np.full(count, 2.0))

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


def second_point(start: Point, middle: Point) -> float:
    """Return what to try after the middle: the end if it gained, else what is nearer the start."""
    return 1.0 if middle.losses.mean() < start.losses.mean() else MIDDLE / 2


def best_point(points: Sequence[Point]) -> Point:
    """Return the point with the smallest loss, if tuning gains more than chance; else the first.

    The loss tells more than the accuracy: every picture counts by how far it is from the border,
    not only those that cross it. A gain is more than chance if its mean over the pictures exceeds
    its standard error, and worth a change of the weights if it exceeds `LEAST_GAIN`.
    """
    start = points[0]
    best = min(points, key=lambda point: float(point.losses.mean()))
    gains = start.losses - best.losses
    needed = max(LEAST_GAIN, gains.std() / np.sqrt(len(gains)))
    return best if gains.mean() > needed else start
