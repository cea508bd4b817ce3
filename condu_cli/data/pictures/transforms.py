"""Turn pictures into tensors, for training and evaluation.

Every transform has two halves: a geometry, which runs wherever the picture is decoded, and the
normalisation of a whole batch, which runs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from condu_cli.data.pictures.geometry import CropGeometry, EvaluationGeometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from condu_cli.preprocessing import Preparation, Preprocessing, Statistics


@dataclass(frozen=True)
class Normalisation:
    """Converts bytes to float32: scaled to 0..1, minus mean, divided by deviation, per channel."""

    mean: Statistics
    std: Statistics

    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Convert pictures (S, S, 3) uint8 to one tensor (B, 3, S, S) float32."""
        stacked = torch.from_numpy(np.stack(pictures))
        # Channels first in memory too: kernels may round differently for another layout.
        pixels = stacked.permute(0, 3, 1, 2).to(
            torch.float32, memory_format=torch.contiguous_format
        )
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return pixels.div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Transform:
    """Converts an RGB picture to a float32 tensor (3, S, S), deterministically."""

    geometry: EvaluationGeometry
    normalise: Normalisation

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one picture's tensor."""
        return self.normalise([np.asarray(self.geometry(image))])[0]


@dataclass(frozen=True)
class SeededTransform:
    """Converts an RGB picture to a float32 tensor (3, S, S), randomly by seed."""

    geometry: CropGeometry
    normalise: Normalisation

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """Return one picture's tensor, which depends only on the picture and the seed."""
        return self.normalise([np.asarray(self.geometry(image, seed))])[0]


def evaluation_transform(size: int, way: Preparation) -> Transform:
    """Build a transform: resize, centre crop, normalise; `squash` resizes without cropping."""
    geometry = EvaluationGeometry(size, way.interpolation, way.resize_mode)
    return Transform(geometry, Normalisation(way.mean, way.std))


def view_of(prep: Preprocessing, image_size: int | None = None) -> Transform:
    """Build the evaluation transform of a model, for another size in pixels if given."""
    size = prep.image_size if image_size is None else image_size
    return evaluation_transform(size, prep.preparation)


def seeded_training_transform(size: int, way: Preparation) -> SeededTransform:
    """Build a transform: random resized crop by each picture's seed, normalise."""
    return SeededTransform(CropGeometry(size, way.interpolation), Normalisation(way.mean, way.std))
