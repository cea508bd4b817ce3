"""Progress of long work: one callback, one kind of event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """One stage of a long command: `done` of `total` units, with figures to show."""

    stage: str
    done: int
    total: int
    figures: dict[str, Any] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Ignore progress."""


def outlasting(on_progress: ProgressCallback) -> ProgressCallback:
    """Wrap a callback so that its OSErrors (a closed pipe, a full disk) silence it.

    Losing its audience must not end an hour's work.
    """
    told = on_progress

    def tell(event: Progress) -> None:
        nonlocal told
        try:
            told(event)
        except OSError:
            told = silent

    return tell
