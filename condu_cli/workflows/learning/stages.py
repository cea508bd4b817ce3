"""The stages of learning a task: a head, tuning from there, and the choice between the two.

Each is judged on pictures that it has not seen: zero-shot and the head on all pictures, each left
out once in closed form; tuning on held-out pictures, against a head that was fitted without them.
What is kept is the head of all pictures, and of what tuning changed the share that did best.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from condu_cli.backbone.classifiers import text_features
from condu_cli.backbone.features import image_features
from condu_cli.data.pictures.transforms import view_of
from condu_cli.train.finetune import measure
from condu_cli.train.line import Line
from condu_cli.train.objective import Objective
from condu_cli.workflows.learning.base_features import PooledTable, Seen
from condu_cli.workflows.learning.choosing import (
    MIDDLE,
    PASSES,
    POINTS,
    Point,
    best_point,
    second_point,
)
from condu_cli.workflows.learning.refitting import Refit, Refitting
from condu_cli.workflows.learning.starting import HeadStage, Judgement, Start
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.pictures.picture_sets import PictureSet
    from condu_cli.train.finetune import TrainingData
    from condu_cli.train.recipe import Recipe
    from condu_cli.train.team import Team
    from condu_cli.workflows.learning.reading import Read


BATCH = 64


@dataclass(frozen=True, eq=False)
class Begun:
    """An expert with a head: how it was judged, and what tuning starts from.

    `texts`: unit class texts (C, E). `start` was fitted without the held-out pictures, `whole` with
    them; the two are the same if there are none. `held_out`: the start on those pictures, None if
    there are none or the base model has not seen all of them. `width`: of pooled features.
    """

    judged: Judgement
    texts: torch.Tensor
    start: Start
    whole: Start
    held_out: Point | None
    width: int


@dataclass(frozen=True, eq=False)
class Kept:
    """What became the expert: a head beside it, if any, and the record of the choice."""

    head: Mapping[str, np.ndarray[Any, Any]] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """The stages of one task's expert, whose weights are changed in place.

    `base`: the base model with the registry's trainable parameters; `expert`: its training copy.
    """

    def __init__(
        self,
        base: DualEncoder,
        expert: DualEncoder,
        recipe: Recipe,
        templates: Sequence[str],
        team: Team,
        on_progress: ProgressCallback = silent,
    ) -> None:
        self._base, self._expert = base, expert
        self._recipe, self._templates, self._team = recipe, templates, team
        self._on_progress = on_progress

    def begin(self, read: Read) -> Begun:
        """Judge and build the head, and put it into the expert; process 0 does so for all."""
        begun = self._team.share(self._begun(read) if self._team.rank == 0 else None)
        assert begun is not None  # noqa: S101 - shared by process 0
        begun.start.place(self._expert)
        return begun

    def _begun(self, read: Read) -> Begun:
        assert read.prototypes is not None  # noqa: S101 - process 0 has built them
        texts = torch.from_numpy(read.prototypes.text)
        table, held_out = self._seen(read), read.data.validation
        stage = HeadStage(self._expert, texts, self._base)
        train = [s for s in read.data.pictures.samples if s in table]
        rest = [] if held_out is None else [s for s in held_out.samples if s in table]
        pooled, labels = table.of([*train, *rest]), _labels([*train, *rest])
        judged, whole = stage.judge(pooled, labels)
        if not rest or held_out is None:
            return Begun(judged, texts, whole, whole, None, pooled.shape[1])
        cut = len(train)
        start = stage.start(judged, pooled[:cut], labels[:cut])
        point = None
        if len(rest) == len(held_out):
            point = Point.of(0.0, stage.logits(start, pooled[cut:]), labels[cut:])
        return Begun(judged, texts, start, whole, point, pooled.shape[1])

    def _seen(self, read: Read) -> PooledTable:
        """Return the base model's pooled features, at the size at which the expert will answer."""
        assert read.pooled is not None  # noqa: S101 - process 0 has read the pictures
        size = self._recipe.image_size
        if size == self._base.preprocessing.image_size:
            return read.pooled
        table, transform = PooledTable(), view_of(self._base.preprocessing, size)
        both = (read.data.pictures, read.data.validation)
        for pictures in (one for one in both if one is not None):
            for start in range(0, len(pictures), BATCH):
                indices = range(start, min(start + BATCH, len(pictures)))
                found = image_features(self._base, pictures.batch(list(indices), transform)[0])
                samples = [pictures.samples[index] for index in indices]
                table.add(Seen(samples, found.image.numpy(), found.pooled.numpy()))
        return table

    def data(self, begun: Begun, data: TrainingData) -> TrainingData:
        """Return the data to tune with: the head beside the expert, or texts that stay as are.

        A text tower that is trained alone is trained without the head, which it could not change.
        The loss is that of an expert as sure of itself as it deserves to be.
        """
        if begun.start.head is not None:  # scaled already
            return replace(data, head=begun.start.head) if self._base.trains_image else data
        data = replace(data, temperature=begun.judged.temperature)
        return data if self._moves_text else replace(data, texts=begun.texts)

    @property
    def _moves_text(self) -> bool:
        return self._expert.tuning(self._recipe.tuned).trains_text

    def without_tuning(self, begun: Begun) -> Kept:
        """Keep the head of all pictures, whatever tuning has done."""
        Line(self._expert, self._origin(begun.start)).go_to(0.0)
        return self._kept(begun, 0.0, None)

    def choose(
        self, begun: Begun, data: TrainingData, pause: Callable[[], None] = lambda: None
    ) -> Kept:
        """Keep the best point between the start and the tuned expert.

        `pause` is called now and then, and may raise to stop.
        """
        line = Line(self._expert, self._origin(begun.start))
        if begun.judged.form != "none" and self._base.trains_image:
            return self._choose_refit(begun, data, line, pause)
        if data.validation is None:
            return self._kept(begun, 1.0, None)
        points = self._points(begun, data, data.validation, line, pause)
        best = best_point(points)
        line.go_to(best.alpha)
        if best.alpha and not self._base.trains_image:
            begun = replace(begun, whole=Start())
        return self._kept(begun, best.alpha, points)

    def _choose_refit(
        self, begun: Begun, data: TrainingData, line: Line, pause: Callable[[], None]
    ) -> Kept:
        """Keep the best point, with a head that is fitted to the features there."""
        if data.validation is None:
            refitting = self._refitting(begun, data, line, 1, pause)
            return self._kept_refit(begun, refitting, refitting.at(1.0), None)
        found: dict[float, Point] = {}
        refits: dict[float, Refit] = {}
        passes = PASSES + (begun.held_out is None)
        refitting = self._refitting(begun, data, line, passes, pause)

        def look(alpha: float) -> None:
            refits[alpha] = refitting.at(alpha)
            point = refits[alpha].point
            assert point is not None  # noqa: S101 - pictures are held out
            found[alpha] = point

        if begun.held_out is None:
            look(0.0)
        else:
            found[0.0] = begun.held_out
        look(MIDDLE)
        look(second_point(found[0.0], found[MIDDLE]))
        points = [point for _, point in sorted(found.items())]
        best = best_point(points).alpha
        if best in refits:
            return self._kept_refit(begun, refitting, refits[best], points)
        line.go_to(0.0)
        return self._kept(begun, 0.0, points)

    def _kept_refit(
        self, begun: Begun, refitting: Refitting, refit: Refit, points: list[Point] | None
    ) -> Kept:
        whole = refitting.keep(refit)
        begun = replace(begun, judged=refit.judged, start=whole, whole=whole)
        return self._kept(begun, refit.alpha, points)

    def _refitting(
        self,
        begun: Begun,
        data: TrainingData,
        line: Line,
        passes: int,
        pause: Callable[[], None],
    ) -> Refitting:
        name, trainable = self._base.linear_end, self._base.trainable_parameters()

        def texts() -> torch.Tensor:
            if not self._moves_text:
                return begun.texts
            return text_features(self._expert, data.class_names, self._templates).cpu()

        return Refitting(
            self._expert,
            line,
            None if name is None or name not in trainable else trainable[name].detach(),
            texts,
            data.pictures,
            data.validation,
            self._recipe.image_size,
            begun.width,
            begun.judged,
            passes,
            self._team,
            self._on_progress,
            pause,
        )

    def _origin(self, start: Start) -> dict[str, torch.Tensor]:
        """Return the weights that tuning started from, by name."""
        origin = {name: p.detach() for name, p in self._base.trainable_parameters().items()}
        if start.end is not None:
            end = self._base.linear_end
            assert end is not None  # noqa: S101 - the head was folded into it
            origin[end] = origin[end] + start.end.to(origin[end])
        return origin

    def _points(
        self,
        begun: Begun,
        data: TrainingData,
        held_out: PictureSet,
        line: Line,
        pause: Callable[[], None],
    ) -> list[Point]:
        objective = Objective(
            self._expert.tuning(self._recipe.tuned),
            data.class_names,
            self._recipe,
            self._team,
            texts=data.texts,
            head=data.head,
        )
        first = begun.held_out
        found = [] if first is None else [first]
        for alpha in POINTS if found else (0.0, *POINTS):
            line.go_to(alpha)
            mine = measure(objective, self._expert, held_out, self._recipe, self._team)
            every = torch.zeros(len(held_out), mine.logits.shape[1])
            every[self._team.rank :: self._team.size] = mine.logits
            logits = self._team.sum(every).double().numpy()  # of all processes, in order
            found.append(Point.of(alpha, logits, held_out.labels.numpy()))
            self._on_progress(Progress("choosing", len(found), len(POINTS) + 1))
            pause()
        return found

    def _kept(self, begun: Begun, alpha: float, points: list[Point] | None) -> Kept:
        """Exchange the start for the head of all pictures; return what is kept, with its record."""
        self._exchange(begun)
        head = begun.whole.head
        record: dict[str, Any] = {
            **{k: v for k, v in asdict(begun.judged).items() if k in ("zero_shot", "head")},
            "form": begun.judged.form,
            "kept": alpha,
        }
        if points:
            record["held_out_images"] = len(points[0].right)
            record["points"] = [point.to_record() for point in points]
        return Kept(None if head is None else head.to_arrays(), record)

    def _exchange(self, begun: Begun) -> None:
        """Keep what tuning changed, and replace the start that it began with by the whole one."""
        if begun.whole.end is None or begun.start.end is None or begun.whole is begun.start:
            return
        name = self._base.linear_end
        assert name is not None  # noqa: S101 - the heads were folded into it
        end = self._expert.trainable_parameters()[name]
        before = self._origin(begun.start)[name]
        with torch.no_grad():
            end.copy_(self._origin(begun.whole)[name] + (end - before))


def _labels(samples: list[Any]) -> np.ndarray[Any, Any]:
    return np.array([sample.label for sample in samples], dtype=np.int64)
