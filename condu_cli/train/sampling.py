"""Which pictures an iteration trains on, and the seed of each one's augmentation.

Both follow from the recipe's seed and the iteration's number alone: not from the iterations
before it, from the number of processes, or from who decodes the pictures. So a run goes on after
an interruption where it stopped, and two processes train on what one would have trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ORDER, _CROP = 0, 1
"""Two streams of numbers from one seed."""


class Draw(NamedTuple):
    """The pictures of one part of an iteration: positions in the set, and augmentation seeds."""

    indices: list[int]
    seeds: list[int]


class Sampler:
    """Batches over `count` pictures; every epoch is a new seeded permutation.

    A batch may span two epochs, so that all have the same size: the recipe's, or `count` where
    there are fewer pictures.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self.batch_size = min(batch_size, count)
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, iteration: int) -> Draw:
        """All the pictures of an iteration, which counts from 0."""
        first = iteration * self.batch_size
        places = range(first, first + self.batch_size)
        return Draw([self._picture(p) for p in places], [self._crop_seed(p) for p in places])

    def parts(
        self, start: int, stop: int, parts: int, rank: int = 0, ranks: int = 1
    ) -> Iterator[Draw]:
        """The parts of one process, for the iterations from `start` to before `stop`, in order.

        Every iteration gives `parts` draws to each of the `ranks` processes; a draw is empty
        where an iteration has fewer pictures than all of them together have parts.
        """
        for iteration in range(start, stop):
            draw = self.batch(iteration)
            for part in range(parts):
                mine = slice(part * ranks + rank, None, parts * ranks)
                yield Draw(draw.indices[mine], draw.seeds[mine])

    def _picture(self, place: int) -> int:
        """Which picture stands at a place of the endless sequence of epochs."""
        epoch, position = divmod(place, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            # A permutation by sorting keys: numpy promises the stream of its bit generators for
            # good, that of its shuffles only from one version to the next.
            keys = _stream(self._seed, _ORDER, epoch).random_raw(self._count)
            self._epoch = (epoch, np.argsort(keys, kind="stable"))
        return int(self._epoch[1][position])

    def _crop_seed(self, place: int) -> int:
        # 63 bits: what torch takes as a seed on every platform.
        return int(_stream(self._seed, _CROP, place).random_raw()) >> 1


def _stream(seed: int, stream: int, number: int) -> np.random.Philox:
    """A counter-based generator of its own for every number (Salmon et al., 2011)."""
    return np.random.Philox(key=seed % (1 << 64), counter=[0, 0, number, stream])
