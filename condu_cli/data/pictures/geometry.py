"""Where a picture is cut and how it is scaled, in Pillow alone.

Kept apart from the tensors, so that a process that only decodes pictures starts in a quarter of
a second: it never imports torch, which takes four. The rounding is torchvision's to the pixel;
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
"""Draws of a crop that fits into the picture, before the middle is taken."""
LONGEST = 64
"""Of a picture longer than this many times its width, only the middle is ever enlarged."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels."""


@dataclass(frozen=True)
class EvaluationGeometry:
    """RGB picture to one of `size` x `size` pixels, always the same way.

    `shortest`: the shorter side is scaled to `size` and the middle cut out; `squash`: both sides
    are scaled to `size`.
    """

    size: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __call__(self, image: Image.Image) -> Image.Image:
        """The scaled and cut picture."""
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
    """RGB picture to a random crop of it, scaled to `size` x `size` pixels; nothing is mirrored.

    The draw belongs to the seed alone: neither the process nor any global generator has a part
    in it.
    """

    size: int
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """The crop that belongs to a seed."""
        cut = image.crop(random_box(image.size, seed))
        return _resized(cut, (self.size, self.size), self.interpolation)


def random_box(size: tuple[int, int], seed: int) -> Box:
    """Draw a crop as torchvision's RandomResizedCrop does: area and logarithm of the ratio uniform.

    `size`: width and height. Where no draw fits, as in a very long picture, the largest piece
    of the middle that keeps the ratio's limits is taken.
    """
    width, height = size
    rng = random.Random(seed)  # noqa: S311 - a draw that repeats, not a secret
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
    """The middle of a picture that is longer than `LONGEST` times its width, others as they are.

    A line of 1 x 100,000 pixels would otherwise be enlarged to gigabytes before its middle is
    cut out.
    """
    width, height = image.size
    limit = LONGEST * min(width, height)
    if max(width, height) <= limit:
        return image
    left, upper = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, upper, left + min(width, limit), upper + min(height, limit)))


def shortest_side_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height after scaling the shorter of them to `side`; the longer is cut to pixels."""
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def reduced(image: Image.Image, side: int | None) -> Image.Image:
    """The picture with its shorter side reduced to `side` pixels; a smaller one as it is."""
    if side is None or min(image.size) <= side:
        return image
    return _resized(image, shortest_side_size(image.size, side), "bicubic")


def _resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling[interpolation.upper()])
