"""Metrics: accuracy, and Transfer, Average and Last over a sequence of tasks.

The last three are those of the MTIL benchmark, which ConDU (arXiv 2503.10705) reports. They
are computed from a matrix R: R[t, i] is the accuracy on task i after session t, both from 0.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import Float64


@dataclass(frozen=True, eq=False)
class SequenceMetrics:
    """Metrics per task, float64 (T,), in the unit of the accuracies.

    `transfer[i]` is the mean of R[t, i] over the sessions t < i, before task i was learned;
    `transfer[0]` is NaN, since no session precedes the first task. `average[i]` is the mean over
    all sessions, `last[i]` the accuracy after the last one.
    """

    transfer: Float64
    average: Float64
    last: Float64

    @property
    def mean_transfer(self) -> float | None:
        """Mean over all tasks but the first; None if there is only one."""
        return float(self.transfer[1:].mean()) if len(self.transfer) > 1 else None

    @property
    def mean_average(self) -> float:
        """Mean over all tasks."""
        return float(self.average.mean())

    @property
    def mean_last(self) -> float:
        """Mean over all tasks."""
        return float(self.last.mean())


def accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the share of correct predictions, 0..1; both arguments are class indices (N,).

    Raises ValueError for different shapes or for no images.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"{predicted.shape} predictions for {labels.shape} labels")
    if not labels.size:
        raise ValueError("accuracy over no images is undefined")
    return float(np.mean(predicted == labels))


def is_better(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether one classifier gets more of the same pictures right than another, beyond chance.

    `right` and `other` (N,): whether each gets each picture right. Only pictures on which they
    differ count: the wins must exceed the losses by more than a standard error of their difference,
    sqrt(wins + losses), counted with one picture more (McNemar's test at one standard error).
    """
    wins, losses = int((right & ~other).sum()), int((other & ~right).sum())
    return wins - losses > math.sqrt(wins + losses + 1)


def sequence_metrics(accuracies: NDArray[Any]) -> SequenceMetrics:
    """Compute Transfer, Average and Last from R (T, T): row = session, column = task.

    Raises ValueError if R is not square, is empty, or holds NaN or infinity.
    """
    matrix = np.asarray(accuracies, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"accuracies have shape {matrix.shape}, not (tasks, tasks)")
    if not np.isfinite(matrix).all():
        raise ValueError("accuracies hold NaN or infinity")
    before = [float(matrix[:task, task].mean()) for task in range(1, len(matrix))]
    return SequenceMetrics(
        transfer=np.array([np.nan, *before]),
        average=matrix.mean(axis=0),
        last=matrix[-1].copy(),
    )


def softmax(logits: NDArray[Any]) -> Float64:
    """Return probabilities over the last axis, float64; finite logits never overflow.

    -inf gives 0 unless a whole row is -inf; that, NaN and +inf raise ValueError.
    """
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("logits hold NaN or infinity")
    powers = np.exp(wide - top)
    shares: Float64 = powers / powers.sum(axis=-1, keepdims=True)
    return shares
