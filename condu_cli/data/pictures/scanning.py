"""One pass over labelled pictures that replaces unreadable ones."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.data.pictures.decoding import Decoded, Pixels, Reading, Unreadable, decoded
from condu_cli.data.pictures.kept_pictures import KeptPictures
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from condu_cli.data.labelled import Sample

UNREADABLE_SHARE = 0.05
UNREADABLE_COUNT = 10
"""Skip up to this many unreadable pictures, or this share if that is more."""


@dataclass(frozen=True)
class ReadingRules:
    """How a set of pictures is read.

    `workers`: processes that decode; None: as many as pay off, 0: none. `max_unreadable`: a number
    of pictures, or below 1 a share; None: 10 or 5 %, whichever is more, but less than half.
    `class_names`: names of the labels for messages. `keep`: keep pictures in memory; False if they
    are used only once. `every_class`: fail if a class loses all its pictures.
    """

    workers: int | None = None
    max_unreadable: float | None = None
    class_names: Sequence[str] = ()
    keep: bool = True
    every_class: bool = True

    def allowed_unreadable(self, count: int) -> int:
        """Return how many of `count` pictures may be unreadable."""
        if self.max_unreadable is None:
            allowed = max(UNREADABLE_COUNT, math.floor(UNREADABLE_SHARE * count))
            return min(allowed, max(0, count - 1) // 2)
        if self.max_unreadable < 1:
            return math.floor(self.max_unreadable * count)
        return int(self.max_unreadable)


class Scan:
    """One pass over samples that keeps the pixels of readable ones and replaces unreadable ones."""

    def __init__(
        self,
        samples: Sequence[Sample],
        spare: Mapping[int, Sequence[Sample]],
        rules: ReadingRules,
        reading: Reading,
    ) -> None:
        self._samples, self._rules, self._reading = samples, rules, reading
        self._spare = {label: iter(list(left)) for label, left in spare.items()}
        self._allowed = rules.allowed_unreadable(len(samples))
        self._fits = True
        self._seen: list[Pixels] = []
        self.readable: list[Sample] = []
        self.unreadable: list[Unreadable] = []
        self.kept = KeptPictures()

    def run(self) -> Generator[int, None, None]:
        """Read everything; yield how many are done."""
        pictures = [sample.picture for sample in self._samples]
        with closing(decoded(pictures, self._reading, self._rules.workers)) as answers:
            for done, (sample, answer) in enumerate(zip(self._samples, answers, strict=True)):
                self._take(sample, answer)
                yield done + 1

    def take_seen(self) -> list[Pixels]:
        """Return the views since the last call; none once too many pictures are unreadable.

        The pass continues even then, so that the message counts all of them.
        """
        seen, self._seen = self._seen, []
        return seen if len(self.unreadable) <= self._allowed else []

    def check(self) -> None:
        """Raise DataError if too many pictures, or all of a class, cannot be read."""
        named = "; ".join(broken.reason for broken in self.unreadable[:3])
        count = len(self.unreadable)
        if count > self._allowed:
            raise DataError(
                f"{count} of {len(self._samples)} pictures cannot be read: {named}",
                reason="too-many-unreadable",
                unreadable=count,
                total=len(self._samples),
            )
        lost = {s.label for s in self._samples} - {s.label for s in self.readable}
        if lost and self._rules.every_class:
            label = min(lost)
            names = self._rules.class_names
            name = f"'{names[label]}'" if label < len(names) else f"number {label}"
            raise DataError(
                f"none of the pictures of class {name} can be read: {named}",
                reason="class-unreadable",
                label=name,
            )

    def _take(self, sample: Sample, answer: Decoded | Unreadable) -> None:
        spare = self._spare.get(sample.label, iter(()))
        while isinstance(answer, Unreadable):
            self.unreadable.append(answer)
            replacement = next(spare, None)
            if replacement is None:
                return
            sample, answer = replacement, self._reading.one(replacement.picture)
        self._seen += answer.seen
        if answer.kept is not None and self._fits:
            self._fits = self.kept.add(len(self.readable), answer.kept)
            if not self._fits:
                self.kept.clear()  # caching half of a set would not save the workers
        self.readable.append(sample)
