"""Decoded pictures kept in memory, as long as they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condu_cli.data.pictures.decoding import Pixels

CACHE_BYTES = 1 << 30
"""Largest total of decoded pictures in memory; others are decoded again when needed."""


class KeptPictures:
    """Pictures by index, up to `CACHE_BYTES` in total."""

    def __init__(self) -> None:
        self._pixels: dict[int, Pixels] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._pixels)

    def get(self, index: int) -> Pixels | None:
        """Return one picture (H, W, 3) uint8, or None if it is not kept."""
        return self._pixels.get(index)

    def add(self, index: int, pixels: Pixels) -> bool:
        """Keep one more picture; return False if it does not fit."""
        if self.nbytes + pixels.nbytes > CACHE_BYTES:
            return False
        self._pixels[index] = pixels
        self.nbytes += pixels.nbytes
        return True

    def clear(self) -> None:
        """Drop all pictures."""
        self._pixels.clear()
        self.nbytes = 0
