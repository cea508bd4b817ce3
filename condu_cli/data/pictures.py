"""Opening one picture safely, and finding the pictures in a folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from condu_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"})
MAX_PIXELS = 100_000_000
"""Pictures above this many pixels are refused before they are decoded."""


def open_picture(path: Path) -> Image.Image:
    """Decode a picture to RGB: first frame, EXIF rotation applied, transparency on white.

    Raises:
        DataError: the file is missing, is no picture, is damaged, or is too large.

    """
    try:
        with warnings.catch_warnings():
            # Our own limit below is explicit; Pillow's warning at half of its limit is not.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{path}: {image.width}x{image.height} pixels is over the limit of "
                        f"{MAX_PIXELS:,}",
                        "Scale the picture down",
                    )
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as exc:
        raise DataError(f"{path}: no such file", "Check the path") from exc
    except IsADirectoryError as exc:
        raise DataError(f"{path}: is a folder, not a picture", "Name a picture") from exc
    except UnidentifiedImageError as exc:
        raise DataError(f"{path}: not a picture", "Supported: JPEG, PNG, WebP, TIFF, …") from exc
    except DataError:
        raise
    except Exception as exc:
        # Decoders meet damaged bytes with whatever they trip over: struct.error, KeyError, …
        raise DataError(f"{path}: cannot be read ({exc})", "The file may be damaged") from exc


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey: Pillow's own conversion would clip everything above 255 to white.
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(paper, rgba)
    return image.convert("RGB")


def list_pictures(folder: Path) -> list[Path]:
    """All the pictures below a folder, sorted, hidden files left out."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path
