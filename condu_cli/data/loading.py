"""Pictures as batches: decoded once and kept in memory where they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image

from condu_cli.data.pictures import open_picture
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from condu_cli.data.folders import Sample

    Transform = Callable[[Image.Image], Tensor]

CACHE_BYTES = 1 << 30
"""Decoded pictures kept in memory, at most; beyond it they are decoded again when needed."""
TRAINING_MARGIN = 1.15
"""Pictures cached for training are this much larger than the crop, which then scales down."""


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

    def __init__(self, paths: Sequence[Path], shorter_side: int | None = None) -> None:
        self.paths = tuple(paths)
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
        image = _reduce(open_picture(self.paths[index]), self._shorter_side)
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


class PictureSet:
    """Labelled pictures of one split."""

    def __init__(self, samples: Sequence[Sample], shorter_side: int | None = None) -> None:
        self._labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        self.pictures = LazyPictures([sample.path for sample in samples], shorter_side)

    @classmethod
    def for_training(cls, samples: Sequence[Sample], image_size: int) -> PictureSet:
        """Pictures kept no larger than random crops to `image_size` pixels need."""
        return cls(samples, round(image_size * TRAINING_MARGIN))

    def __len__(self) -> int:
        return len(self._labels)

    def check(self, on_done: Callable[[int], None] | None = None) -> None:
        """Decode every picture once, so that a broken one is found before training starts.

        Raises:
            DataError: naming the first unreadable pictures and their number.

        """
        broken = list(self.pictures.unreadable(on_done).values())
        if broken:
            names = "; ".join(error.message for error in broken[:3])
            raise DataError(
                f"{len(broken)} of {len(self)} pictures cannot be read: {names}",
                "Remove or replace them",
            )

    def batch(self, indices: Sequence[int], transform: Transform) -> tuple[Tensor, Tensor]:
        """Transformed pictures (B, 3, S, S) and their labels (B,) int64."""
        return self.pictures.tensors(indices, transform), self._labels[list(indices)]

    def batches(self, size: int, transform: Transform) -> Iterator[tuple[Tensor, Tensor]]:
        """All the pictures in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))), transform)


def _reduce(image: Image.Image, side: int | None) -> Image.Image:
    shorter = min(image.size)
    if side is None or shorter <= side:
        return image
    scale = side / shorter
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)
