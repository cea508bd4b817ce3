"""Two small tasks that need no download: handwritten digits, and generated shapes.

Both are written as ordinary folders of PNG files, so that all other code treats them like any
pictures.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDED_TASKS = ("digits", "shapes")
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIDE = 64
TEST_EVERY = 4
"""One picture in four goes to the test split."""


def embedded_folder(task: str) -> Path:
    """Return the folder of an embedded task's pictures in the user's cache, created lazily."""
    from platformdirs import user_cache_path

    folder = user_cache_path("condu") / "embedded" / task
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed, so that a partial folder is never read.
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            write_embedded(task, Path(draft, task))
            try:
                Path(draft, task).rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was first
                    raise
    return folder


def write_embedded(task: str, root: Path) -> None:
    """Write an embedded task's pictures into a folder, as train/, test/ and classes.json.

    Raises:
        DataError: no such embedded task, or scikit-learn is missing for the digits.

    """
    writers: dict[str, Callable[[Path], dict[str, str]]] = {
        "digits": _write_digits,
        "shapes": _write_shapes,
    }
    if task not in writers:
        raise DataError(
            f"'{task}' is not an embedded task",
            reason="not-embedded",
            task=task,
            known=list(writers),
        )
    names = writers[task](root)
    (root / "classes.json").write_text(json.dumps(names, indent=1), encoding="utf-8")


def _write_digits(root: Path) -> dict[str, str]:
    """Write scikit-learn's 1,797 handwritten digits (8 x 8 pixels, 17 grey levels), enlarged."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise DataError(
            "the embedded digits need scikit-learn, which is not installed",
            reason="library-missing",
            package="condu[mini]",
        ) from exc
    digits = load_digits()
    for index, (grid, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((255 - grid * 255 / 16).astype("uint8"))
        enlarged = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        _save(enlarged, root, f"{label}", index)
    return {f"{digit}": f"the digit {word}" for digit, word in enumerate(DIGIT_WORDS)}


def _write_shapes(root: Path, per_class: int = 80) -> dict[str, str]:
    """Draw filled shapes of random colour, size and position on a random background."""
    rng = random.Random(7)  # noqa: S311 - reproducible, not secret
    for name in SHAPES:
        for index in range(per_class):
            _save(_draw_shape(name, rng), root, name, index)
    return {name: f"{name} shape" for name in SHAPES}


def _draw_shape(name: str, rng: random.Random) -> Image.Image:
    ground, ink = _two_colours(rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    radius = rng.uniform(12, 24)
    x, y = (rng.uniform(radius + 2, SIDE - radius - 2) for _ in range(2))
    turn = rng.uniform(-0.4, 0.4)
    draw = ImageDraw.Draw(image)
    if name == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    else:
        draw.polygon(_outline(name, x, y, radius, turn), fill=ink)
    return image


def _two_colours(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw two colours that are easy to tell apart."""
    while True:
        ground, ink = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if sum(abs(a - b) for a, b in zip(ground, ink, strict=True)) > 200:
            return ground, ink


def _outline(
    name: str, x: float, y: float, radius: float, turn: float
) -> list[tuple[float, float]]:
    """Return the corners in pixels around (x, y), from angles in turns and distances in radii."""
    third = 1 / 3
    corners = {
        "square": [(i / 4 + 1 / 8, 1.0) for i in range(4)],
        "triangle": [(i * third, 1.0) for i in range(3)],
        "star": [(i / 10, 1.0 if i % 2 == 0 else 0.42) for i in range(10)],
        "cross": [
            (i / 4 + offset, distance)
            for i in range(4)
            for offset, distance in ((-0.05, 1.0), (0.05, 1.0), (0.125, 0.45))
        ],
    }[name]
    return [
        (
            x + radius * distance * math.sin(2 * math.pi * angle + turn),
            y - radius * distance * math.cos(2 * math.pi * angle + turn),
        )
        for angle, distance in corners
    ]


def _save(image: Image.Image, root: Path, class_name: str, index: int) -> None:
    split = "test" if index % TEST_EVERY == 0 else "train"
    folder = root / split / class_name
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{index:04d}.png")
