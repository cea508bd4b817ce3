"""How long work tells whoever watches: one callback, one kind of event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """One stage of a long command: `done` of `total` units, with figures worth showing."""

    stage: str
    done: int
    total: int
    figures: dict[str, Any] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Ignore progress."""
