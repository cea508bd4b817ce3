"""Read a task's pictures before training, decoding each of them once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.data.pictures.picture_files import picture_name
from condu_cli.data.pictures.picture_sets import PictureSet
from condu_cli.data.pictures.scanning import ReadingRules
from condu_cli.errors import DataError
from condu_cli.train.finetune import TrainingData
from condu_cli.workflows.learning.base_features import PooledTable
from condu_cli.workflows.learning.prototyping import build_task_prototypes
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.data.labelled import Sample
    from condu_cli.train.team import Team
    from condu_cli.workflows.learning.planning import LearnPlan


@dataclass(frozen=True)
class Read:
    """The readable pictures, what the base model saw in them, and why others were skipped.

    `prototypes` and `pooled` are None in every process but the first.
    """

    data: TrainingData
    prototypes: Prototypes | None
    pooled: PooledTable | None
    unreadable: tuple[str, ...]


def read_pictures(
    plan: LearnPlan,
    base: DualEncoder,
    team: Team,
    on_progress: ProgressCallback = silent,
) -> Read:
    """Decode all pictures, held-out ones included, in one pass that also builds the prototypes.

    Process 0 of a team reads. The others get the list of readable pictures from it, and decode
    those that they train on lazily.

    Raises:
        DataError: too many pictures, or all of a class, cannot be read.

    """
    request, names = plan.request, plan.data.class_names
    rules = ReadingRules(request.workers, request.max_unreadable, names)
    every = (*plan.data.train, *plan.validation)
    pictures = PictureSet.for_training(
        every, plan.recipe.image_size, spare=plan.data.spare, rules=rules
    )
    built, table = None, None
    if team.rank == 0:
        table = PooledTable()
        built = build_task_prototypes(
            base,
            pictures,
            names,
            plan.templates,
            per_class=request.prototype_images,
            table=table,
            on_progress=on_progress,
        )
    if team.size > 1:
        spare = (s for left in plan.data.spare.values() for s in left)
        pictures = _agree(team, pictures, [*every, *spare])
    train, held_out = _parted(pictures, plan.validation, needed=plan.recipe.validate_every > 0)
    unreadable = tuple(broken.reason for broken in pictures.unreadable)
    return Read(TrainingData(train, names, held_out), built, table, unreadable)


def _parted(
    pictures: PictureSet, validation: Sequence[Sample], *, needed: bool
) -> tuple[PictureSet, PictureSet | None]:
    """Return the pictures to train on and the held-out ones, None if nothing is held out.

    A class of which only held-out pictures can be read is trained on those.

    Raises:
        DataError: no picture is left to measure on, and the recipe measures.

    """
    if not validation:
        return pictures, None
    wanted = set(validation)
    trained = {sample.label for sample in pictures.samples if sample not in wanted}
    places: dict[bool, list[int]] = {True: [], False: []}
    for place, sample in enumerate(pictures.samples):
        places[sample in wanted and sample.label in trained].append(place)
    if not places[True] and not needed:
        return pictures, None
    if not places[True]:
        reason = next((broken.reason for broken in pictures.unreadable), "too few are left")
        raise DataError(
            f"none of the {len(wanted)} held-out pictures can be used: {reason}",
            reason="none-held-out-readable",
            unreadable=len(pictures.unreadable),
        )
    return pictures.part(places[False]), pictures.part(places[True])


def _agree(team: Team, pictures: PictureSet, known: Sequence[Sample]) -> PictureSet:
    """Give every process the picture set of process 0, by name: pictures may not be picklable."""
    chosen = team.share([picture_name(sample.picture) for sample in pictures.samples])
    if team.rank == 0:
        return pictures
    by_name = {picture_name(sample.picture): sample for sample in known}
    return pictures.of([by_name[name] for name in chosen])
