"""Crop and scale pictures, in Pillow alone.

This is separate from the tensors so that a process that only decodes pictures starts in a quarter
of a second: it never imports torch, which takes four. The rounding is torchvision's to the pixel;
tests compare the two.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

CROP_SCALE = (0.9, 1.0)
"""Share of the area that a random training crop keeps (ConDU's recipe; no flip)."""
CROP_RATIO = (3 / 4, 4 / 3)
TRIES = 10
"""Number of draws for a crop that fits the picture, before the middle is used."""
LONGEST = 64
"""A picture longer than this many times its width is cropped to its middle first."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels."""


@dataclass(frozen=True)
class EvaluationGeometry:
    """Scales and crops an RGB picture to `size` x `size` pixels, deterministically.

    `shortest`: the shorter side is scaled to `size` and the middle is cropped; `squash`: both sides
    are scaled to `size`.
    """

    size: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the scaled and cropped picture."""
        if self.resize_mode == "squash":
            return _resized(image, (self.size, self.size), self.interpolation)
        image = without_ends(image)
        width, height = shortest_side_size(image.size, self.size)
        left = round((width - self.size) / 2)
        upper = round((height - self.size) / 2)
        scaled = _resized(image, (width, height), self.interpolation)
        return scaled.crop((left, upper, left + self.size, upper + self.size))


@dataclass(frozen=True)
class CropGeometry:
    """Scales a random crop of an RGB picture to `size` x `size` pixels, without flipping.

    The draw depends only on the seed, not on the process or a global generator.
    """

    size: int
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the crop for a seed."""
        cut = image.crop(random_box(image.size, seed))
        return _resized(cut, (self.size, self.size), self.interpolation)


def random_box(size: tuple[int, int], seed: int) -> Box:
    """Draw a crop like torchvision's RandomResizedCrop: area and log ratio are uniform.

    `size`: width and height. If no draw fits, as in a very long picture, the largest piece of the
    middle within the limits of the ratio is used.
    """
    width, height = size
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    for _ in range(TRIES):
        area = width * height * rng.uniform(*CROP_SCALE)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, upper, left + w, upper + h
    return _middle(width, height)


def _middle(width: int, height: int) -> Box:
    narrowest, widest = CROP_RATIO
    w, h = width, height
    if width / height < narrowest:
        h = round(width / narrowest)
    elif width / height > widest:
        w = round(height * widest)
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def without_ends(image: Image.Image) -> Image.Image:
    """Crop a picture longer than `LONGEST` times its width to its middle; return others unchanged.

    Otherwise a line of 1 x 100,000 pixels would be enlarged to gigabytes before its middle is
    cropped.
    """
    width, height = image.size
    limit = LONGEST * min(width, height)
    if max(width, height) <= limit:
        return image
    left, upper = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, upper, left + min(width, limit), upper + min(height, limit)))


def shortest_side_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height with the shorter scaled to `side`; the longer is rounded down."""
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def reduced(image: Image.Image, side: int | None) -> Image.Image:
    """Reduce the shorter side to `side` pixels; return a smaller picture unchanged."""
    if side is None or min(image.size) <= side:
        return image
    return _resized(image, shortest_side_size(image.size, side), "bicubic")


def _resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling[interpolation.upper()])
