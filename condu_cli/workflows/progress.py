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


def outlasting(on_progress: ProgressCallback) -> ProgressCallback:
    """The same callback until there is no one to tell: a closed pipe, a log on a full disk.

    From then on it is silent, since an hour's work must not end with its audience.
    """
    told = on_progress

    def tell(event: Progress) -> None:
        nonlocal told
        try:
            told(event)
        except OSError:
            told = silent

    return tell
