"""How similar a task's own images are to its classes: measured when the task is learned."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from condu_cli.core.arrays.layout import Float32, Float64

MEASURED = 4096
"""Up to this many images of a task are kept until they are measured."""
STORED = 1024
"""Up to this many similarities are stored, as quantiles of those measured."""


class OwnImages:
    """A sample of a stream of images, with their unit pooled features and class indices.

    Every n-th image is kept, n being the smallest power of two for which they are at most
    `MEASURED`; so the sample depends on the order of the images, not on the batches.
    """

    def __init__(self) -> None:
        self._seen, self._step = 0, 1
        self._parts: list[tuple[NDArray[Any], Float32, NDArray[Any]]] = []

    def add(self, unit: Float64, labels: NDArray[Any]) -> None:
        """Add a batch: unit pooled features (B, P), class indices (B,)."""
        numbers = np.arange(self._seen, self._seen + len(labels))
        self._parts.append((numbers, unit.astype(np.float32), labels))
        self._seen += len(labels)
        step = self._step
        while -(-self._seen // step) > MEASURED:
            step *= 2
        thinned = self._parts if step > self._step else self._parts[-1:]
        kept = [(n[n % step == 0], u[n % step == 0], k[n % step == 0]) for n, u, k in thinned]
        self._parts[-len(thinned) :] = kept
        self._step = step

    def similarities(self, sums: Float64, counts: NDArray[np.int64]) -> Float32:
        """Return each image's best cosine with a class mean, ascending, float32 (at most STORED,).

        `sums`: (C, P), the sums of all unit features per class; `counts`: (C,). An image is left
        out of the mean of its own class, as a new image would not be part of it: its cosine with
        S - x, which is (x·S - 1) / |S - x|. An only image has no such mean and no cosine with it.
        """
        found = [_left_out(unit, labels, sums, counts) for _, unit, labels in self._parts]
        ordered = np.sort(np.concatenate(found)) if found else np.empty(0)
        if len(ordered) > STORED:
            # The k-th of STORED has the same share of all below it as the k-th of a full record.
            ranks = np.arange(1, STORED + 1) * (len(ordered) + 1) // (STORED + 1)
            ordered = ordered[ranks - 1]
        return ordered.astype(np.float32)


def _left_out(
    unit: Float32, labels: NDArray[Any], sums: Float64, counts: NDArray[np.int64]
) -> Float64:
    lengths = np.linalg.norm(sums, axis=1)
    with_sums = unit.astype(np.float64) @ sums.T
    cosines: Float64 = with_sums / np.where(lengths > 0, lengths, 1.0)
    cosines[:, counts == 0] = -1.0
    rows = np.arange(len(unit))
    own = with_sums[rows, labels]
    rest = np.sqrt(np.maximum(lengths[labels] ** 2 - 2 * own + 1, 0.0))
    alone = (counts[labels] < 2) | (rest == 0)
    cosines[rows, labels] = np.where(alone, -1.0, (own - 1) / np.where(alone, 1.0, rest))
    best: Float64 = np.clip(cosines.max(axis=1), -1.0, 1.0)
    return best
