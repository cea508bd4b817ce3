"""Points between a head and a tuned expert, each with a head fitted to its own features.

Tuning moves features away from what the head was fitted to, and its last steps decide where the
borders between classes lie. A head in closed form that is fitted to the features afterwards uses
all pictures at once, and their spread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from condu_cli.backbone.features import image_features
from condu_cli.data.pictures.transforms import view_of
from condu_cli.workflows.learning.choosing import Point
from condu_cli.workflows.learning.starting import HeadStage, Judgement, Start
from condu_cli.workflows.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.pictures.picture_sets import PictureSet
    from condu_cli.data.pictures.transforms import Transform
    from condu_cli.train.line import Line
    from condu_cli.train.team import Team

BATCH = 64
MOST_PICTURES = 5000
"""A head is fitted to the features of at most this number of pictures, to bound the seconds."""


class Refit(NamedTuple):
    """A head at a point of the line, and what it was made from.

    `pooled` (N, P) and `labels` (N,) are of all pictures used, held-out ones included. `point`: the
    head of the others on the held-out ones, None if there are none.
    """

    alpha: float
    point: Point | None
    judged: Judgement
    pooled: NDArray[np.float32]
    labels: NDArray[np.int64]


class Refitting:
    """Fits heads along the line between a start and a tuned expert.

    `expert` is changed in place; `end` has the base model's value of its linear end, None if that
    is not trained. `texts` returns the expert's own unit class texts (C, E) at the point where it
    is. `pictures` are those that the expert was tuned with, `held_out` those that judge, if any.
    `width`: P, the length of pooled features. `judged`: the head on the base model's features.
    `passes`: how many points will be fitted, to show progress. `pause` is called between batches,
    by all processes of the team equally often.
    """

    def __init__(
        self,
        expert: DualEncoder,
        line: Line,
        end: torch.Tensor | None,
        texts: Callable[[], torch.Tensor],
        pictures: PictureSet,
        held_out: PictureSet | None,
        image_size: int,
        width: int,
        judged: Judgement,
        passes: int,
        team: Team,
        on_progress: ProgressCallback,
        pause: Callable[[], None],
    ) -> None:
        self._expert, self._line, self._end = expert, line, end
        self._texts = texts
        self._pictures, self._held_out = pictures, held_out
        self._fitted = spread(pictures.labels.numpy(), MOST_PICTURES)
        self._view = view_of(expert.preprocessing, image_size)
        self._width, self._judged = width, judged
        self._team, self._on_progress, self._pause = team, on_progress, pause
        self._done, self._total = 0, passes * (len(self._fitted) + len(held_out or ()))

    def at(self, alpha: float) -> Refit:
        """Fit a head at a point of the line, and judge it on the held-out pictures."""
        stage = self._go_to(alpha)
        fitted = self._pooled(self._pictures, self._fitted)
        unseen = None
        if self._held_out is not None:
            unseen = self._pooled(self._held_out, range(len(self._held_out)))
        refit = self._fit(stage, alpha, fitted, unseen) if self._team.rank == 0 else None
        found = self._team.share(refit)
        assert found is not None  # noqa: S101 - shared by process 0
        return found

    def _fit(
        self,
        stage: HeadStage,
        alpha: float,
        fitted: NDArray[np.float32],
        unseen: NDArray[np.float32] | None,
    ) -> Refit:
        labels = self._pictures.labels.numpy()[self._fitted]
        if self._held_out is None or unseen is None:
            judged, _ = stage.again(self._judged, fitted, labels)
            return Refit(alpha, None, judged, fitted, labels)
        expected = self._held_out.labels.numpy()
        every, both = np.concatenate([fitted, unseen]), np.concatenate([labels, expected])
        if not np.isfinite(every).all():  # weights that are finite, but far too large
            return Refit(alpha, Point.useless(alpha, len(expected)), self._judged, every, both)
        judged, start = stage.again(self._judged, fitted, labels, (unseen, expected))
        point = Point.of(alpha, stage.logits(start, unseen), expected)
        return Refit(alpha, point, judged, every, both)

    def keep(self, refit: Refit) -> Start:
        """Set the expert to a point, with a head of all pictures; return that head."""
        stage = self._go_to(refit.alpha)
        start = self._team.share(stage.start(refit.judged, refit.pooled, refit.labels))
        start.place(self._expert)
        return start

    def _go_to(self, alpha: float) -> HeadStage:
        """Set the expert to a point without a head; return what fits one there."""
        self._line.go_to(alpha)
        if self._end is not None:
            name = self._expert.linear_end
            assert name is not None  # noqa: S101 - it has a value
            with torch.no_grad():
                self._expert.trainable_parameters()[name].copy_(self._end)
        return HeadStage(self._expert, self._texts())

    def _pooled(self, pictures: PictureSet, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return pooled features (N, P), float32; every process computes its share."""
        team = self._team
        mine = list(indices)[team.rank :: team.size]
        parts = []
        for start in range(0, -(-len(indices) // team.size), BATCH):
            if batch := mine[start : start + BATCH]:
                parts.append(_features(self._expert, pictures, batch, self._view))
            seen = min(len(indices), (start + BATCH) * team.size)
            self._on_progress(Progress("choosing", self._done + seen, self._total))
            self._pause()
        self._done += len(indices)
        every = torch.zeros(len(indices), self._width)
        if parts:
            every[team.rank :: team.size] = torch.cat(parts)
        found: NDArray[np.float32] = team.sum(every).numpy()
        return found


def _features(
    expert: DualEncoder, pictures: PictureSet, indices: list[int], view: Transform
) -> torch.Tensor:
    return image_features(expert, pictures.batch(indices, view)[0]).pooled


def spread(labels: NDArray[np.integer], most: int) -> list[int]:
    """Choose at most about `most` of N labels, in proportion to the classes and evenly in each.

    Every class keeps at least one, so there are more if there are more classes than `most`.
    """
    if len(labels) <= most:
        return list(range(len(labels)))
    order = np.argsort(labels, kind="stable")
    even = order[np.linspace(0, len(labels) - 1, most).round().astype(np.int64)]
    first = np.unique(labels, return_index=True)[1]
    return sorted({*even.tolist(), *first.tolist()})
