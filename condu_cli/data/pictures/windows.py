"""Pictures that are asked about once: window after window of them, no more than fit in memory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condu_cli.data.pictures.decoding import Pixels, Reading, Unreadable, decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from condu_cli.data.pictures.geometry import EvaluationGeometry
    from condu_cli.data.pictures.picture_files import Picture

WINDOW_BYTES = 1 << 29
"""Views kept in memory at once, at most; 3,500 pictures of 224 pixels. Each window decouples the
experts it needs again, which is little work beside so many pictures."""


@dataclass
class Window:
    """Some pictures that follow each other, each decoded once and seen in every way asked for.

    `start`, `end`: which of `total` pictures these are. `places`: those of them that can be read,
    `views` their pixels (S, S, 3) uint8 in the same order, by the geometry that gave them.
    `unreadable`: the others by their places.
    """

    start: int
    end: int
    total: int
    places: list[int] = field(default_factory=list)
    views: dict[EvaluationGeometry, list[Pixels]] = field(default_factory=dict)
    unreadable: dict[int, Unreadable] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def add(self, answer: tuple[Pixels, ...] | Unreadable) -> None:
        """Take in the next picture, seen by every geometry in turn."""
        if isinstance(answer, Unreadable):
            self.unreadable[self.end] = answer
        else:
            self.places.append(self.end)
            for pixels, view in zip(answer, self.views.values(), strict=True):
                view.append(pixels)
        self.end += 1


def windows(
    pictures: Sequence[Picture],
    geometries: Collection[EvaluationGeometry],
    *,
    workers: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Generator[Window, None, None]:
    """Decode every picture once, in order, and answer with as many at a time as fit in memory.

    `geometries`: the ways in which the pictures will be looked at, at least one. `workers` as in
    `decoded`: a few pictures of the next window may be decoded ahead of time. `on_done` hears how
    many are read. A window is emptied when the next is asked for.
    """
    reading = Reading(None, tuple(geometries), keep=False)
    size = window_size(geometries)
    with closing(decoded(pictures, reading, workers)) as answers:
        for start in range(0, len(pictures), size):
            views: dict[EvaluationGeometry, list[Pixels]] = {seen: [] for seen in geometries}
            window = Window(start, start, len(pictures), views=views)
            for _ in range(min(size, len(pictures) - start)):
                answer = next(answers)
                window.add(answer if isinstance(answer, Unreadable) else answer.seen)
                on_done(window.end)
            yield window
            window.views.clear()


def window_size(geometries: Collection[EvaluationGeometry]) -> int:
    """How many pictures a window holds, at least one."""
    each = sum(3 * geometry.size**2 for geometry in geometries)
    return max(1, WINDOW_BYTES // each)
