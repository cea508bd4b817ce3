"""Labelled pictures as batches: decoded once, kept small in memory where they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from condu_cli.data.pictures import open_picture
from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from condu_cli.data.folders import Sample

CACHE_BYTES = 1 << 30
"""Decoded pictures kept in memory, at most; beyond it they are decoded again when needed."""
MARGIN = 1.15
"""Cached pictures are this much larger than the crop, so that a 0.9 crop still scales down."""


class PictureSet:
    """Labelled pictures, decoded on first use and cached with their shorter side reduced."""

    def __init__(self, samples: Sequence[Sample], image_size: int) -> None:
        self.samples = tuple(samples)
        self._side = round(image_size * MARGIN)
        self._cache: dict[Path, Image.Image] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def picture(self, index: int) -> Image.Image:
        """One RGB picture, its shorter side at most a little over the image size.

        Raises:
            DataError: the picture cannot be read.

        """
        path = self.samples[index].path
        cached = self._cache.get(path)
        if cached is not None:
            return cached
        image = _reduce(open_picture(path), self._side)
        size = image.width * image.height * 3
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[path] = image
            self._cached_bytes += size
        return image

    def check(self, progress: Callable[[int], None] | None = None) -> None:
        """Decode every picture once, so that a broken one is found before training starts.

        Raises:
            DataError: naming the first unreadable pictures and their number.

        """
        broken = []
        for index in range(len(self)):
            try:
                self.picture(index)
            except DataError as exc:
                broken.append(exc.message)
            if progress is not None:
                progress(index + 1)
        if broken:
            raise DataError(
                f"{len(broken)} of {len(self)} pictures cannot be read: {'; '.join(broken[:3])}",
                "Remove or replace them",
            )

    def labels(self, indices: Sequence[int]) -> Tensor:
        """Class indices (B,) int64."""
        return torch.tensor([self.samples[i].label for i in indices], dtype=torch.int64)

    def batch(
        self, indices: Sequence[int], transform: Callable[[Image.Image], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Transformed pictures (B, 3, S, S) and their labels (B,)."""
        pixels = torch.stack([transform(self.picture(i)) for i in indices])
        return pixels, self.labels(indices)

    def batches(
        self, size: int, transform: Callable[[Image.Image], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All the pictures in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))), transform)


def _reduce(image: Image.Image, side: int) -> Image.Image:
    """Scale down so that the shorter side is `side`; smaller pictures stay as they are."""
    from PIL import Image as PillowImage

    shorter = min(image.size)
    if shorter <= side:
        return image
    scale = side / shorter
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, PillowImage.Resampling.BICUBIC)
