"""Open one picture safely.

This module does not import torch, because worker processes import it.
"""

from __future__ import annotations

import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from condu_cli.data.pictures.formats import register_plugins
from condu_cli.errors import DataError, exhausted

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 100_000_000
"""Pictures above this many pixels are refused before they are decoded; see `_within_limit`."""
JPEG_FACTORS = (2, 4, 8)
"""Factors by which a JPEG decoder can reduce a picture while it decodes."""
PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


class PictureStore(Protocol):
    """Pictures that are not separate files; picklable."""

    def picture(self, index: int) -> Image.Image:
        """Return one picture, like `opened`; raises whatever its decoder raises."""

    def content(self, index: int) -> bytes:
        """Return what one picture is stored as; raises OSError if it cannot be read."""


@dataclass(frozen=True)
class StoredPicture:
    """A picture in a store; `name` identifies it in reports."""

    name: str
    store: PictureStore = field(compare=False)
    index: int


Picture: TypeAlias = Path | StoredPicture


def picture_name(picture: Picture) -> str:
    """Return a picture's name for reports: its path, or its name in its store."""
    return picture.name if isinstance(picture, StoredPicture) else str(picture)


def open_picture(picture: Picture) -> Image.Image:
    """Decode a picture to RGB: first frame, EXIF rotation applied, transparency on white.

    16-bit grey loses its lower byte. 32-bit and floating-point grey is read as 0..1, 0..255 or
    0..65535, the first that holds all values, else stretched from the smallest to the largest; NaN
    becomes black.

    Raises:
        DataError: the file is missing, is not a picture, is corrupt, or is too large.

    """
    name = picture_name(picture)
    try:
        with warnings.catch_warnings():
            # Pillow's warnings (corrupt EXIF data, half of its own limit of pixels) either do not
            # matter or end in one of the errors below.
            warnings.simplefilter("ignore")
            return _decoded(picture, name)
    except FileNotFoundError as exc:
        raise DataError(f"{name}: no such file", reason="no-such-file", path=name) from exc
    except IsADirectoryError as exc:
        raise DataError(
            f"{name}: is a folder, not a picture", reason="not-a-picture-file", path=name
        ) from exc
    except PermissionError as exc:
        raise DataError(
            f"{name}: cannot be read (permission denied)", reason="permission-denied", path=name
        ) from exc
    except UnidentifiedImageError as exc:
        raise DataError(f"{name}: not a picture", reason="not-a-picture", path=name) from exc
    except Image.DecompressionBombError as exc:
        raise _too_large(name, "more") from exc
    except DataError:
        raise
    except Exception as exc:
        if stopped := exhausted(exc):
            raise stopped from exc
        # On corrupt bytes, decoders raise anything: struct.error, KeyError, …
        raise DataError(
            f"{name}: cannot be read ({exc})", reason="picture-unreadable", path=name
        ) from exc


def opened(file: Path | IO[bytes]) -> Image.Image:
    """Open a picture and read only its header; raises what Pillow raises."""
    try:
        return _opened(file)
    except Image.DecompressionBombError:
        # Pillow refuses twice its own limit in any format; a JPEG can still be reduced.
        if not isinstance(file, Path):
            file.seek(0)
        try:
            return JpegImageFile(file)
        except SyntaxError:  # not a JPEG
            pass
        raise


def _opened(file: Path | IO[bytes]) -> Image.Image:
    """Open a picture in a format of Pillow's, or else of an installed plugin's."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not register_plugins():
            raise
        if not isinstance(file, Path):
            file.seek(0)
        return Image.open(file)


def _decoded(picture: Picture, name: str) -> Image.Image:
    if isinstance(picture, Path):
        mode = picture.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe might block forever
            raise DataError(
                f"{name}: is a device or a pipe, not a picture",
                reason="not-a-picture-file",
                path=name,
            )
        image = opened(picture)
    else:
        image = picture.store.picture(picture.index)
    with image:
        _within_limit(image, name)
        image.load()
        return _to_rgb(_upright(image))


def _within_limit(image: Image.Image, name: str) -> None:
    """Have a JPEG above the limit reduced while decoding; refuse other formats above it.

    A progressive JPEG is refused as well: its decoder holds all coefficients at once. Below the
    limit nothing is reduced: that would be up to three times as fast, but it changed the pixels of
    an evaluation by 0.6 to 1 of 255 on average and by up to 106 (pets enlarged to 900-3600 pixels,
    reduced by 4).
    """
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return
    if isinstance(image, JpegImageFile) and not image.info.get("progressive"):
        for factor in JPEG_FACTORS:
            if -(-width // factor) * -(-height // factor) <= MAX_PIXELS:
                image.draft(None, (width // factor, height // factor))
                return
    raise _too_large(name, f"{width}x{height}")


def _too_large(name: str, size: str) -> DataError:
    return DataError(
        f"{name}: {size} pixels is over the limit of {MAX_PIXELS:,}",
        reason="picture-too-large",
        path=name,
        limit=MAX_PIXELS,
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # the picture is fine, only its EXIF data are corrupt


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip everything above 255 to white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_grey(np.asarray(image, dtype=np.float64)))
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(paper, rgba)
    return image.convert("RGB")


def _grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert grey values of any range to bytes; see `open_picture`."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < 0 or high > 65535:
        scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny) * 255
    elif high <= 1:
        scaled = values * 255
    else:
        scaled = values if high <= 255 else values / 256
    return np.nan_to_num(scaled, nan=0.0, posinf=255, neginf=0).clip(0, 255).astype(np.uint8)
