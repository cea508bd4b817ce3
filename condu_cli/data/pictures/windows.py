"""Windows of pictures that are needed once: as many at a time as fit in memory."""

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
"""Most memory for decoded views: 3,500 pictures of 224 pixels. Each window decouples the experts
that it needs again, which is little work compared with so many pictures."""


@dataclass
class Window:
    """A run of pictures, each decoded once, with a view for every requested geometry.

    `start`, `end`: its range among `total` pictures. `places`: the indices of the readable ones.
    `views`: their pixels (S, S, 3) uint8 in the same order, by geometry. `unreadable`: the others,
    by index.
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
        """Add the next picture's views, in the order of the geometries."""
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
    """Decode every picture once, in order, and yield as many at a time as fit in memory.

    `geometries`: the views to make, at least one. `workers` as in `decoded`: a few pictures of the
    next window may be decoded ahead of time. `on_done` gets the number of pictures read. A window
    is emptied when the next one is requested.
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
    """Return how many pictures a window holds, at least one."""
    each = sum(3 * geometry.size**2 for geometry in geometries)
    return max(1, WINDOW_BYTES // each)
