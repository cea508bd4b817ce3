"""Learn a task: fine-tune an expert from the base model, unify it, commit a new session."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from condu_cli.core.codecs.operations import prepare
from condu_cli.errors import ConduError
from condu_cli.registry.names import validate_task_name
from condu_cli.train.finetune import parts_of
from condu_cli.train.stopping import StopRequest
from condu_cli.workflows.learning.destination import Destination, Site
from condu_cli.workflows.learning.estimating import Estimate, estimate
from condu_cli.workflows.learning.planning import (
    DrawnPictures,
    LearnPlan,
    LearnRequest,
    draw_pictures,
    follows_paper,
    plan_training,
    without_head,
)
from condu_cli.workflows.learning.reading import read_pictures
from condu_cli.workflows.learning.summaries import LearnSummary, summarise
from condu_cli.workflows.learning.training import Machine, Training
from condu_cli.workflows.opening.registry_kind import RegistryKind, load_kind, refuse_other_base
from condu_cli.workflows.opening.registry_only import require_room
from condu_cli.workflows.progress import ProgressCallback, outlasting, silent
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.committing import ExpertCommit, commit_expert
from condu_cli.workflows.sessions.trained_experts import TrainedExpert, check_delta

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from condu_cli.core.merging.checks import CheckedDelta
    from condu_cli.registry.manifest import RegistryConfig
    from condu_cli.workflows.learning.unfinished import Unfinished


class Learner:
    """One task to learn: `plan` checks everything and returns what can be run.

    `base`: for the registry that is created if there is none. `resumed`: an interrupted training
    to resume where it stopped, and its file.
    """

    def __init__(
        self,
        registry_path: Path,
        request: LearnRequest,
        base: str | None = None,
        machine: Machine | None = None,
        *,
        retrain: bool = False,
        resumed: Unfinished | None = None,
        resumed_from: Path | None = None,
    ) -> None:
        validate_task_name(request.task)
        self._registry_path = registry_path
        self._request = request
        self._base = base
        self._machine = machine or Machine()
        self._resumed = resumed
        self._drawn: DrawnPictures | None = None
        self._site = Site(registry_path, request.task, resumed_from, retrain=retrain)
        if self._site.found is not None and follows_paper(self._site.found.config):
            self._request = without_head(request)

    def draw(self) -> DrawnPictures:
        """Read the data set's layout and choose the pictures, before loading anything large.

        If pictures have to be downloaded, process 0 of a team does it for all.

        Raises:
            DataError: no usable pictures or class names.
            UsageError: the registry is of another base model, or a value makes no sense.

        """
        if self._drawn is None:
            refuse_other_base(self._site.found, self._base)
            team, fetches = self._machine.team, self._request.download
            if fetches and team.rank:
                team.share(None)
            self._drawn = draw_pictures(self._request)
            if fetches and not team.rank:
                team.share(None)
        return self._drawn

    def plan(self) -> PlannedTask:
        """Draw the pictures, load the base model and settle the recipe.

        Raises:
            DataError: no usable pictures or class names.
            BaseModelError: the base model cannot be loaded or is not the registry's.
            UsageError: the registry is of another base model, or a value makes no sense.

        """
        drawn = self.draw()
        kind = load_kind(self._site.found, self._base, self._machine.device)
        plan = plan_training(
            self._request,
            drawn,
            kind.base,
            kind.config.method,
            creates_registry=self._site.found is None,
        )
        if self._resumed is not None:
            plan = plan.with_recipe(self._resumed.recipe)
        require_room(self._registry_path, kind.config)
        batch = min(plan.recipe.batch_size, len(plan.data.train))
        parts_of(batch, plan.recipe.accumulation, self._machine.team.size)
        return PlannedTask(plan, kind, self._machine, self._site, self._resumed)


@dataclass(frozen=True)
class PlannedTask:
    """A task whose training is planned and checked, made by `Learner.plan`.

    `kind`: the registry's configuration and its base model, loaded.
    """

    plan: LearnPlan
    kind: RegistryKind
    machine: Machine
    site: Site
    resumed: Unfinished | None = None

    def estimate(self) -> Estimate:
        """Estimate the plan's time and memory by running a little of it."""
        return estimate(self.plan, self.kind.base, self.machine.team.size)

    def run(self, on_progress: ProgressCallback = silent) -> LearnSummary | None:
        """Read, train, unify and commit; None in every process of a team but the first.

        Raises:
            DataError: pictures that cannot be read, or training that diverges.
            LockedError: another process is committing.
            InterruptedByUserError: the user pressed Ctrl-C; the training is kept.

        """
        on_progress = outlasting(on_progress)
        base, config = self.kind
        plan, team = self.plan, self.machine.team
        destination = self.site.settled(config)
        require_room(destination.path, config)
        started = time.perf_counter()
        read = read_pictures(plan, base, team, on_progress)
        reading_seconds = time.perf_counter() - started
        training = Training(self.machine, destination, plan, read, on_progress, self.resumed)
        if team.rank == 0:
            training.warn_of_little_space()
        # In parallel with the training, which it slows down by a second at most.
        codec = codec_for(config, destination.parent)
        threading.Thread(target=prepare, args=(codec,), daemon=True).start()
        # Until the expert is on disk, Ctrl-C only requests a stop: an hour's work is in memory.
        with StopRequest(patient=team.size > 1) as stop:
            made = training.make(base, stop)
            if team.rank:
                team.share(None)  # process 0 has committed
                return None
            trained = TrainedExpert(
                task=plan.request.task,
                kind="learn",
                delta=_checked(config, made.delta, destination),
                prototypes=training.prototypes,
                classes=plan.data.class_names,
                templates=plan.templates,
                training=training.record(made, reading_seconds),
                folder=str(plan.data_root.resolve()),
                head=made.kept.head,
            )
            commit = _commit(destination, trained, stop, on_progress)
        team.share(None)
        summary = summarise(trained, commit)
        warnings = (*summary.warnings, *training.warnings, *_notice_of_move(destination))
        return replace(summary, unreadable=read.unreadable, warnings=warnings)


def _notice_of_move(destination: Destination) -> tuple[str, ...]:
    moved = destination.moved_to
    if moved is None:
        return ()
    return (
        f"another process created a registry with other options at {destination.path}: "
        f"this task was learned in a separate registry, {moved}",
    )


def _checked(
    config: RegistryConfig, delta: Mapping[str, Any], destination: Destination
) -> CheckedDelta:
    try:
        return check_delta(config, delta)
    except ConduError:
        destination.drop()  # resuming would end the same way
        raise


def _commit(
    destination: Destination,
    trained: TrainedExpert,
    stop: StopRequest,
    on_progress: ProgressCallback,
) -> ExpertCommit:
    parent = destination.parent

    def on_kept() -> None:
        destination.drop()  # the expert is on disk
        stop.release()

    commit = commit_expert(
        destination.registry(),
        trained,
        parent=None if parent is None else parent.id,
        command=f"learn {trained.task}",
        on_kept=on_kept,
        on_progress=on_progress,
    )
    destination.drop_all()
    return commit
