"""Labelled pictures as batches: each decoded once, and kept in memory if all fit."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from PIL import Image

from condu_cli.data.pictures.decoding import (
    Cropping,
    Pixels,
    Reading,
    Unreadable,
    available_cores,
    can_be_sent,
    in_thread,
    in_workers,
)
from condu_cli.data.pictures.geometry import reduced
from condu_cli.data.pictures.kept_pictures import KeptPictures
from condu_cli.data.pictures.picture_files import open_picture
from condu_cli.data.pictures.scanning import ReadingRules, Scan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from condu_cli.data.labelled import Sample
    from condu_cli.data.pictures import transforms
    from condu_cli.data.pictures.geometry import CropGeometry

    Transform = Callable[[Image.Image], Tensor]
    Plan: TypeAlias = Iterable[tuple[Sequence[int], Sequence[int]]]

TRAINING_MARGIN = 1.15
"""Pictures cached for training are larger than the crop by this factor, so crops scale down."""


class PictureSet:
    """Labelled pictures of one split, read in one pass by `scan`.

    `spare`: by label, replacements for unreadable pictures, in order. `samples` and all indices
    count only the readable pictures once `scan` has finished; the others are in `unreadable`.
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
        self._kept = KeptPictures()
        self._too_large = False
        self._labels = _labels_of(self.samples)

    @classmethod
    def for_training(
        cls,
        samples: Sequence[Sample],
        image_size: int,
        *,
        spare: Mapping[int, Sequence[Sample]] | None = None,
        rules: ReadingRules | None = None,
    ) -> PictureSet:
        """Create a set that keeps pictures no larger than crops of `image_size` pixels need."""
        return cls(samples, round(image_size * TRAINING_MARGIN), spare=spare, rules=rules)

    def of(self, samples: Sequence[Sample]) -> PictureSet:
        """Return an unread set of other samples, with the same settings."""
        return PictureSet(samples, self._shorter_side, rules=self._rules)

    def part(self, indices: Sequence[int]) -> PictureSet:
        """Return some of these pictures as a set of their own, with what is kept of them."""
        chosen = self.of([self.samples[index] for index in indices])
        chosen._too_large = self._too_large
        for place, index in enumerate(indices):
            pixels = self._kept.get(index)
            if pixels is not None:
                chosen._kept.add(place, pixels)
        return chosen

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def cached(self) -> bool:
        """Whether all pictures are in memory."""
        return 0 < len(self) == len(self._kept)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the decoded pictures in memory."""
        return self._kept.nbytes

    @property
    def labels(self) -> Tensor:
        """The labels of all pictures, (N,) int64."""
        return self._labels

    # Reading

    def scan(
        self,
        transform: transforms.Transform | None = None,
        batch: int = 64,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[list[Sample], Tensor]]:
        """Decode every picture once, in order; keep it for training and yield it.

        Yields samples with their pictures (B, 3, S, S) as transformed from the full-size picture;
        nothing without a transform. `on_done` gets the number of pictures read. Only readable
        pictures are yielded and counted, so the first one yielded gets index 0. A scan that is not
        run to its end changes nothing.

        Raises:
            DataError: too many pictures, or all of a class, cannot be read.

        """
        scan = Scan(self.samples, self._spare, self._rules, self._reading(transform))
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
        self._too_large = not len(scan.kept)
        self.samples = tuple(scan.readable)
        self._labels = _labels_of(self.samples)

    def read(self, on_done: Callable[[int], None] | None = None) -> None:
        """Decode and keep every picture once; raises like `scan`."""
        for _ in self.scan(None, on_done=on_done):
            pass

    def _reading(self, transform: transforms.Transform | None) -> Reading:
        geometries = () if transform is None else (transform.geometry,)
        return Reading(self._shorter_side, geometries, self._rules.keep)

    # Batches

    def whole(self, indices: Sequence[int], transform: transforms.Transform) -> Tensor:
        """Decode some pictures again, (B, 3, S, S), as `scan` yielded them."""
        opened = (open_picture(self.samples[index].picture) for index in indices)
        return transform.normalise([np.asarray(transform.geometry(image)) for image in opened])

    def batch(self, indices: Sequence[int], transform: Transform) -> tuple[Tensor, Tensor]:
        """Return transformed pictures (B, 3, S, S) and their labels (B,) int64."""
        pixels = torch.stack([transform(self._picture(index)) for index in indices])
        return pixels, self._labels[list(indices)]

    def training_batches(
        self, plan: Plan, transform: transforms.SeededTransform
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a plan of (indices, seeds), in order; the plan is read lazily.

        Pictures in memory are cropped in a background thread; sets that do not fit are decoded by
        workers ahead of time. The batches are the same to the bit. Close the iterator to end the
        thread or the workers.

        Raises:
            DataError: a picture can no longer be read.

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
        """Yield the crops of every batch from a thread, from workers, or computed here."""
        if self.cached:
            return in_thread(lambda step: self._crop(step, geometry), plan)
        workers = self._workers()
        if workers == 0:
            return (self._crop(step, geometry) for step in plan)
        files = (([self.samples[i].picture for i in indices], seeds) for indices, seeds in plan)
        return in_workers(Cropping(self._shorter_side, geometry), files, workers)

    def _workers(self) -> int:
        workers = self._rules.workers
        if workers is None:
            # A set that was never read may still fit: decoded pictures are kept.
            workers = available_cores() if self._too_large else 0
        return workers if can_be_sent([sample.picture for sample in self.samples]) else 0

    def _crop(
        self, step: tuple[Sequence[int], Sequence[int]], geometry: CropGeometry
    ) -> list[Pixels]:
        indices, seeds = step
        return [
            np.asarray(geometry(self._picture(index), seed))
            for index, seed in zip(indices, seeds, strict=True)
        ]

    def _picture(self, index: int) -> Image.Image:
        pixels = self._kept.get(index)
        if pixels is None:
            image = open_picture(self.samples[index].picture)
            pixels = np.asarray(reduced(image, self._shorter_side))
            self._kept.add(index, pixels)
        return Image.fromarray(pixels)


def _labels_of(samples: Sequence[Sample]) -> Tensor:
    """Return the labels, (N,) int64."""
    return torch.tensor([sample.label for sample in samples], dtype=torch.int64)
