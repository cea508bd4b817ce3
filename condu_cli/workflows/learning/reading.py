"""Read a task's pictures before training, decoding each of them once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from condu_cli.data.pictures.picture_files import picture_name
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.errors import DataError
from condu_cli.train.finetune import TrainingData
from condu_cli.workflows.learning.prototyping import build_task_prototypes
from condu_cli.workflows.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.data.labelled import Sample
    from condu_cli.train.team import Team
    from condu_cli.workflows.learning.planning import LearnPlan


@dataclass(frozen=True)
class Read:
    """The readable pictures, the task's prototypes, and the reasons for skipped pictures.

    `prototypes` is None if not requested, and in every process but the first.
    """

    data: TrainingData
    prototypes: Prototypes | None
    unreadable: tuple[str, ...]


def read_pictures(
    plan: LearnPlan,
    base: DualEncoder,
    team: Team,
    on_progress: ProgressCallback = silent,
    *,
    prototypes: bool = True,
) -> Read:
    """Decode the training pictures in one pass that also builds the prototypes.

    Process 0 of a team reads. The others get the list of readable pictures from it, and decode
    those that they train on lazily.

    Raises:
        DataError: too many pictures, or all of a class, cannot be read.

    """
    request = plan.request
    names = plan.data.class_names
    rules = ReadingRules(request.workers, request.max_unreadable, names)
    size = plan.recipe.image_size
    pictures = PictureSet.for_training(plan.data.train, size, spare=plan.data.spare, rules=rules)
    some = replace(rules, every_class=False)
    held_out = PictureSet(plan.validation, size, rules=some) if plan.validation else None
    built = None
    if team.rank == 0:
        if prototypes:
            built = build_task_prototypes(
                base,
                pictures,
                names,
                plan.templates,
                per_class=request.prototype_images,
                on_progress=on_progress,
            )
        else:
            pictures.read(lambda done: on_progress(Progress("reading", done, len(pictures))))
        if held_out is not None:
            _read_held_out(held_out)
    unreadable = [broken.reason for s in (pictures, held_out) if s for broken in s.unreadable]
    if team.size > 1:
        known = [*plan.data.train, *(s for left in plan.data.spare.values() for s in left)]
        pictures = _agree(team, pictures, known)
        held_out = None if held_out is None else _agree(team, held_out, plan.validation)
    return Read(TrainingData(pictures, names, held_out), built, tuple(unreadable))


def _read_held_out(pictures: PictureSet) -> None:
    pictures.read()
    if not len(pictures):
        broken = pictures.unreadable
        raise DataError(
            f"none of the {len(broken)} held-out pictures can be read: {broken[0].reason}",
            reason="none-held-out-readable",
            unreadable=len(broken),
        )


def _agree(team: Team, pictures: PictureSet, known: Sequence[Sample]) -> PictureSet:
    """Give every process the picture set of process 0, by name: pictures may not be picklable."""
    chosen = team.share([picture_name(sample.picture) for sample in pictures.samples])
    if team.rank == 0:
        return pictures
    by_name = {picture_name(sample.picture): sample for sample in known}
    return pictures.of([by_name[name] for name in chosen])
