"""Choose the pictures of an iteration and the seeds of their augmentation.

Both depend only on the recipe's seed and the iteration's number: not on earlier iterations, the
number of processes, or who decodes the pictures. So a run resumes exactly after an interruption,
and two processes train on what one would train on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ORDER, _CROP = 0, 1
"""Two random streams from one seed."""


class Draw(NamedTuple):
    """The pictures of one part of an iteration: positions in the set, and augmentation seeds."""

    indices: list[int]
    seeds: list[int]


class Sampler:
    """Draws batches from `count` pictures; every epoch is a new seeded permutation.

    A batch may span two epochs, so all batches have the same size: the recipe's, or `count` if
    there are fewer pictures.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self.batch_size = min(batch_size, count)
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, iteration: int) -> Draw:
        """Return all pictures of an iteration, counted from 0."""
        first = iteration * self.batch_size
        places = range(first, first + self.batch_size)
        return Draw([self._picture(p) for p in places], [self._crop_seed(p) for p in places])

    def parts(
        self, start: int, stop: int, parts: int, rank: int = 0, ranks: int = 1
    ) -> Iterator[Draw]:
        """Yield the parts of one process for the iterations in `range(start, stop)`.

        Every iteration has `parts` draws for each of the `ranks` processes; some are empty if it
        has fewer pictures than there are parts in total.
        """
        for iteration in range(start, stop):
            draw = self.batch(iteration)
            for part in range(parts):
                mine = slice(part * ranks + rank, None, parts * ranks)
                yield Draw(draw.indices[mine], draw.seeds[mine])

    def _picture(self, place: int) -> int:
        """Return the picture at a place in the endless sequence of epochs."""
        epoch, position = divmod(place, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            # Permute by sorting keys: numpy guarantees the streams of its bit generators forever,
            # but not those of its shuffles.
            keys = _stream(self._seed, _ORDER, epoch).random_raw(self._count)
            self._epoch = (epoch, np.argsort(keys, kind="stable"))
        return int(self._epoch[1][position])

    def _crop_seed(self, place: int) -> int:
        # 63 bits: torch accepts such seeds on every platform.
        return int(_stream(self._seed, _CROP, place).random_raw()) >> 1


def _stream(seed: int, stream: int, number: int) -> np.random.Philox:
    """Return a separate counter-based generator for every number (Salmon et al., 2011)."""
    return np.random.Philox(key=seed % (1 << 64), counter=[0, 0, number, stream])
