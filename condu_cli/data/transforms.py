"""Pictures to tensors, for training and for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image
    from torch import Tensor

CROP_SCALE = (0.9, 1.0)
"""Share of the area that a random training crop keeps (ConDU's recipe; no flip)."""


def evaluation_transform(
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
) -> Callable[[Image.Image], Tensor]:
    """RGB picture to a float32 tensor (3, size, size): resize, centre crop, normalise."""
    mode = InterpolationMode(interpolation)
    if resize_mode == "squash":
        steps: list[object] = [transforms.Resize((size, size), mode)]
    else:
        steps = [transforms.Resize(size, mode), transforms.CenterCrop(size)]
    return transforms.Compose([*steps, *_to_tensor(mean, std)])  # type: ignore[no-any-return]


def training_transform(
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    interpolation: str = "bicubic",
) -> Callable[[Image.Image], Tensor]:
    """RGB picture to a float32 tensor (3, size, size): random resized crop, normalise.

    Draws from torch's global generator.
    """
    crop = transforms.RandomResizedCrop(
        size, scale=CROP_SCALE, interpolation=InterpolationMode(interpolation)
    )
    return transforms.Compose([crop, *_to_tensor(mean, std)])  # type: ignore[no-any-return]


def _to_tensor(mean: tuple[float, float, float], std: tuple[float, float, float]) -> list[object]:
    return [
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float32),
        transforms.Normalize(mean, std),
    ]
