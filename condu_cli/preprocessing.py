"""How a base model wants its pictures prepared: known to models and to what reads pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become tensors: sizes in pixels, statistics on the 0..1 scale."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """`shortest`: shorter side to `image_size`, then centre crop; `squash`: both sides."""
    fixed_size: bool = True
    """False if the image tower accepts other sizes (convolutional towers)."""
