"""Picture stores: pictures in memory, or files whose decoding is logged."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from condu_cli.data.pictures.picture_files import StoredPicture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Album:
    """Pictures in memory."""

    images: tuple[Image.Image, ...]

    def picture(self, index: int) -> Image.Image:
        return self.images[index].copy()

    def content(self, index: int) -> bytes:
        return self.images[index].tobytes()


def stored(images: Sequence[Image.Image]) -> list[StoredPicture]:
    """Pictures in memory."""
    album = Album(tuple(images))
    return [StoredPicture(str(index), album, index) for index in range(len(images))]


@dataclass(frozen=True)
class Logged:
    """Files whose every decoding, in any process, adds a line to a log."""

    files: tuple[Path, ...]
    log: Path

    def picture(self, index: int) -> Image.Image:
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{index}\n".encode())  # one write each: lines of two processes never mix
        os.close(log)
        return Image.open(self.files[index])

    @property
    def pictures(self) -> list[StoredPicture]:
        return [StoredPicture(file.name, self, i) for i, file in enumerate(self.files)]

    def decodings(self) -> Counter[int]:
        """How often each picture was decoded, by its index."""
        return Counter(map(int, self.log.read_text().split()) if self.log.exists() else ())
