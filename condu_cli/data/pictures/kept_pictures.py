"""Decoded pictures kept in memory, as long as they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condu_cli.data.pictures.decoding import Pixels

CACHE_BYTES = 1 << 30
"""Decoded pictures kept in memory, at most; beyond it they are decoded again when needed."""


class KeptPictures:
    """Pictures by index, up to `CACHE_BYTES` in all."""

    def __init__(self) -> None:
        self._pixels: dict[int, Pixels] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._pixels)

    def get(self, index: int) -> Pixels | None:
        """One picture (H, W, 3) uint8, where it is kept."""
        return self._pixels.get(index)

    def add(self, index: int, pixels: Pixels) -> bool:
        """Keep one more picture; False where there is no room for it."""
        if self.nbytes + pixels.nbytes > CACHE_BYTES:
            return False
        self._pixels[index] = pixels
        self.nbytes += pixels.nbytes
        return True

    def clear(self) -> None:
        """Let go of all."""
        self._pixels.clear()
        self.nbytes = 0
