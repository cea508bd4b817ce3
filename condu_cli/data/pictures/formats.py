"""Which files are pictures, by their suffixes, and what is missing to read the others."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from PIL import features

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
)
"""Read by every Pillow."""
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
AVIF_SUFFIXES = frozenset({".avif"})
NEVER_READ = frozenset({".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"})
"""Pictures that nothing here reads."""
PLUGIN = "pillow_heif"
"""A plugin of Pillow for HEIC, used if it is installed."""


def is_picture_name(path: Path) -> bool:
    """Return whether a file has the suffix of a picture that can be read here."""
    return path.suffix.lower() in readable_suffixes()


def missing_format(path: Path) -> str | None:
    """Return why a picture of this suffix cannot be read here; None if it can, or is none."""
    suffix = path.suffix.lower()
    if suffix in readable_suffixes():
        return None
    if suffix in HEIF_SUFFIXES:
        return "HEIC pictures need pip install 'condu[heif]'"
    if suffix in AVIF_SUFFIXES:
        return "AVIF pictures need a newer Pillow"
    if suffix in NEVER_READ:
        return f"{suffix} pictures must be converted, to JPEG for instance"
    return None


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of pictures that can be read here."""
    heif = HEIF_SUFFIXES if find_spec(PLUGIN) is not None else frozenset()
    avif = AVIF_SUFFIXES if features.check("avif") else frozenset()
    return SUFFIXES | heif | avif


@cache
def register_plugins() -> bool:
    """Teach Pillow the formats of installed plugins; return whether there are any."""
    if find_spec(PLUGIN) is None:
        return False
    import_module(PLUGIN).register_heif_opener()
    return True
