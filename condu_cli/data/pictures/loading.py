"""Pictures as batches: each decoded once, kept in memory where all of them fit."""

from __future__ import annotations

import math
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image

from condu_cli.data.pictures.decoding import (
    Cropping,
    Decoded,
    Pixels,
    Reading,
    Unreadable,
    available_cores,
    can_be_sent,
    decoded,
    in_thread,
    in_workers,
)
from condu_cli.data.pictures.geometry import reduced
from condu_cli.data.pictures.picture_files import Picture, open_picture
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from condu_cli.data.labelled import Sample
    from condu_cli.data.pictures import transforms
    from condu_cli.data.pictures.geometry import CropGeometry

    Transform = Callable[[Image.Image], Tensor]
    Plan: TypeAlias = Iterable[tuple[Sequence[int], Sequence[int]]]

CACHE_BYTES = 1 << 30
"""Decoded pictures kept in memory, at most; beyond it they are decoded again when needed."""
TRAINING_MARGIN = 1.15
"""Pictures cached for training are this much larger than the crop, which then scales down."""
UNREADABLE_SHARE = 0.05
UNREADABLE_COUNT = 10
"""So many unreadable pictures are left out without being asked, or that share if it is more."""


class Pictures(Protocol):
    """Random access to RGB pictures; an implementation may decode when asked."""

    def __len__(self) -> int:
        """How many pictures."""

    def __getitem__(self, index: int, /) -> Image.Image:
        """One picture; raises DataError where it cannot be read."""


class LazyPictures:
    """RGB pictures by position, decoded on first use and cached.

    `shorter_side`: where given, pictures are kept with their shorter side reduced to
    that many pixels; smaller pictures stay as they are.
    """

    def __init__(self, pictures: Sequence[Picture], shorter_side: int | None = None) -> None:
        self.paths = tuple(pictures)
        self._shorter_side = shorter_side
        self._cache: dict[int, Image.Image] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image.Image:
        """One picture; raises DataError where it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        image = reduced(open_picture(self.paths[index]), self._shorter_side)
        size = image.width * image.height * len(image.getbands())
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[index] = image
            self._cached_bytes += size
        return image

    def unreadable(self, on_done: Callable[[int], None] | None = None) -> dict[int, DataError]:
        """Decode every picture once; answer with the error of each that cannot be read."""
        errors: dict[int, DataError] = {}
        for index in range(len(self)):
            try:
                self[index]
            except DataError as exc:
                errors[index] = exc
            if on_done is not None:
                on_done(index + 1)
        return errors

    def tensors(self, indices: Sequence[int], transform: Transform) -> Tensor:
        """Transformed pictures (B, 3, S, S) float32."""
        return torch.stack([transform(self[index]) for index in indices])


class Selection:
    """Some of the pictures, in the order of `indices`."""

    def __init__(self, pictures: Pictures, indices: Sequence[int]) -> None:
        self._pictures, self._indices = pictures, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> Image.Image:
        """The picture that stands at that place of the selection."""
        return self._pictures[self._indices[index]]


@dataclass(frozen=True)
class ReadingRules:
    """How a set of pictures is read.

    `workers`: processes that decode; None: as many as pay off, 0: none. `max_unreadable`: a
    number of pictures, or a share of them where it is below 1; None: 10 or 5 %, whichever is
    more, but never half of them. `class_names`: what messages call the labels. `keep`: whether
    pictures are to be kept in memory; not where they are shown once and never again.
    `every_class`: whether a class may not lose all its pictures; pictures to measure on may.
    """

    workers: int | None = None
    max_unreadable: float | None = None
    class_names: Sequence[str] = ()
    keep: bool = True
    every_class: bool = True

    def allowed_unreadable(self, count: int) -> int:
        """How many of `count` pictures may be left out."""
        if self.max_unreadable is None:
            allowed = max(UNREADABLE_COUNT, math.floor(UNREADABLE_SHARE * count))
            return min(allowed, max(0, count - 1) // 2)
        if self.max_unreadable < 1:
            return math.floor(self.max_unreadable * count)
        return int(self.max_unreadable)


class PictureSet:
    """Labelled pictures of one split, read in one pass by `scan`.

    `spare`: by label, pictures that step in for unreadable ones, in their order. `samples` and
    every index count the readable pictures only once `scan` has left the others out; these are
    in `unreadable`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        shorter_side: int | None = None,
        *,
        spare: Mapping[int, Sequence[Sample]] | None = None,
        rules: ReadingRules | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.unreadable: list[Unreadable] = []
        self._shorter_side = shorter_side
        self._spare = dict(spare or {})
        self._rules = rules or ReadingRules()
        self._kept: list[Pixels] = []
        self._too_large = False
        self._settle(self.samples)

    @classmethod
    def for_training(
        cls,
        samples: Sequence[Sample],
        image_size: int,
        *,
        spare: Mapping[int, Sequence[Sample]] | None = None,
        rules: ReadingRules | None = None,
    ) -> PictureSet:
        """Pictures kept no larger than random crops to `image_size` pixels need."""
        return cls(samples, round(image_size * TRAINING_MARGIN), spare=spare, rules=rules)

    def of(self, samples: Sequence[Sample]) -> PictureSet:
        """A set of other samples, to be read and kept like this one; nothing is read yet."""
        return PictureSet(samples, self._shorter_side, rules=self._rules)

    def _settle(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)
        self._labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        self.pictures = LazyPictures([s.picture for s in samples], self._shorter_side)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def cached(self) -> bool:
        """Whether all the pictures are in memory; `scan` decides."""
        return bool(self._kept)

    @property
    def kept_bytes(self) -> int:
        """How much memory the decoded pictures take."""
        return sum(pixels.nbytes for pixels in self._kept)

    @property
    def labels(self) -> Tensor:
        """The labels of all the pictures (N,) int64."""
        return self._labels

    # Reading

    def scan(
        self,
        transform: transforms.Transform | None = None,
        batch: int = 64,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[list[Sample], Tensor]]:
        """Decode every picture once, in order: keep it for training, and show it to the caller.

        Yields samples with their pictures (B, 3, S, S) as `transform` sees them whole, not
        reduced; nothing where there is no transform. `on_done` hears how many are read. Only
        the readable are yielded and counted from then on, so that the first yielded has index 0.
        A scan that is not run to its end changes nothing.

        Raises:
            DataError: more pictures than allowed cannot be read, or all of one class.

        """
        scan = _Scan(self.samples, self._spare, self._rules, self._reading(transform))
        shown: list[Pixels] = []
        start = 0
        with closing(scan.run()) as progress:
            for done in progress:
                if on_done is not None:
                    on_done(done)
                shown += scan.take_seen()
                if transform is not None and len(shown) >= batch:
                    yield scan.readable[start : start + batch], transform.normalise(shown)
                    shown, start = [], start + batch
        scan.check()
        if transform is not None and shown:
            yield scan.readable[start:], transform.normalise(shown)
        self.unreadable = scan.unreadable
        self._kept = scan.kept
        self._too_large = not scan.kept
        self._settle(scan.readable)

    def read(self, on_done: Callable[[int], None] | None = None) -> None:
        """Decode every picture once without showing it to anybody; raises as `scan` does."""
        for _ in self.scan(None, on_done=on_done):
            pass

    def _reading(self, transform: transforms.Transform | None) -> Reading:
        geometry = None if transform is None else transform.geometry
        return Reading(self._shorter_side, geometry, self._rules.keep)

    # Batches

    def whole(self, indices: Sequence[int], transform: transforms.Transform) -> Tensor:
        """Some pictures (B, 3, S, S) decoded again, as `scan` showed them."""
        opened = (open_picture(self.samples[index].picture) for index in indices)
        return transform.normalise([np.asarray(transform.geometry(image)) for image in opened])

    def batch(self, indices: Sequence[int], transform: Transform) -> tuple[Tensor, Tensor]:
        """Transformed pictures (B, 3, S, S) and their labels (B,) int64."""
        pixels = torch.stack([transform(self._picture(index)) for index in indices])
        return pixels, self._labels[list(indices)]

    def seeded_batch(
        self, indices: Sequence[int], seeds: Sequence[int], transform: transforms.SeededTransform
    ) -> tuple[Tensor, Tensor]:
        """Training crops (B, 3, S, S), each from its own seed, and their labels (B,) int64."""
        crops = self._crop((indices, seeds), transform.geometry)
        return transform.normalise(crops), self._labels[list(indices)]

    def training_batches(
        self, plan: Plan, transform: transforms.SeededTransform
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a plan of (indices, seeds), in order; the plan is taken step by step.

        Pictures in memory are cropped by a thread beside the training, those that do not fit
        are decoded by workers ahead of time. Which of them makes no difference to a single bit.
        Close the iterator to end the thread or the workers.

        Raises:
            DataError: a picture cannot be read any more.

        """
        taken: deque[Tensor] = deque()

        def tasks() -> Iterator[tuple[Sequence[int], Sequence[int]]]:
            for indices, seeds in plan:
                taken.append(self._labels[list(indices)])
                yield indices, seeds

        with closing(self._crops(tasks(), transform.geometry)) as crops:
            for pixels in crops:
                yield transform.normalise(pixels), taken.popleft()

    def _crops(self, plan: Plan, geometry: CropGeometry) -> Generator[list[Pixels], None, None]:
        """The crops of every batch, by whoever is best at it."""
        if self.cached:
            return in_thread(lambda step: self._crop(step, geometry), plan)
        workers = self._workers()
        if workers == 0:
            return (self._crop(step, geometry) for step in plan)
        files = (([self.samples[i].picture for i in indices], seeds) for indices, seeds in plan)
        return in_workers(Cropping(self._shorter_side, geometry), files, workers)

    def _workers(self) -> int:
        if self._rules.workers is not None:
            return self._rules.workers if can_be_sent(self.pictures.paths) else 0
        # A set that was never read may still fit: `pictures` keeps what it decodes.
        return available_cores() if self._too_large and can_be_sent(self.pictures.paths) else 0

    def _crop(
        self, step: tuple[Sequence[int], Sequence[int]], geometry: CropGeometry
    ) -> list[Pixels]:
        indices, seeds = step
        return [
            np.asarray(geometry(self._picture(index), seed))
            for index, seed in zip(indices, seeds, strict=True)
        ]

    def _picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._kept[index]) if self._kept else self.pictures[index]


class _Scan:
    """One pass over samples: readable ones with their pixels, unreadable ones replaced."""

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
        self._bytes = 0
        self._fits = True
        self._seen: list[Pixels] = []
        self.readable: list[Sample] = []
        self.unreadable: list[Unreadable] = []
        self.kept: list[Pixels] = []

    def run(self) -> Generator[int, None, None]:
        """Read everything; answers with how many are done."""
        pictures = [sample.picture for sample in self._samples]
        with closing(decoded(pictures, self._reading, self._rules.workers)) as answers:
            for done, (sample, answer) in enumerate(zip(self._samples, answers, strict=True)):
                self._take(sample, answer)
                yield done + 1

    def take_seen(self) -> list[Pixels]:
        """The pictures to show since the last call; none once there are too many broken ones.

        The pass goes on even then, so that the message counts all of them.
        """
        seen, self._seen = self._seen, []
        return seen if len(self.unreadable) <= self._allowed else []

    def check(self) -> None:
        """Raise DataError where too many pictures, or all of a class, cannot be read."""
        named = "; ".join(broken.reason for broken in self.unreadable[:3])
        count = len(self.unreadable)
        if count > self._allowed:
            raise DataError(
                f"{count} of {len(self._samples)} pictures cannot be read: {named}",
                f"Remove or replace them, or go on without them: --max-unreadable {count}",
            )
        lost = {s.label for s in self._samples} - {s.label for s in self.readable}
        if lost and self._rules.every_class:
            label = min(lost)
            names = self._rules.class_names
            name = f"'{names[label]}'" if label < len(names) else f"number {label}"
            raise DataError(
                f"none of the pictures of class {name} can be read: {named}",
                "Replace them, or leave the class out",
            )

    def _take(self, sample: Sample, answer: Decoded | Unreadable) -> None:
        spare = self._spare.get(sample.label, iter(()))
        while isinstance(answer, Unreadable):
            self.unreadable.append(answer)
            replacement = next(spare, None)
            if replacement is None:
                return
            sample, answer = replacement, self._reading.one(replacement.picture)
        self.readable.append(sample)
        if answer.seen is not None:
            self._seen.append(answer.seen)
        if answer.kept is not None:
            self._keep(answer.kept)

    def _keep(self, pixels: Pixels) -> None:
        self._bytes += pixels.nbytes
        if self._fits and self._bytes > CACHE_BYTES:
            self._fits = False
            self.kept = []  # half of a set in memory would not save its workers
        if self._fits:
            self.kept.append(pixels)
