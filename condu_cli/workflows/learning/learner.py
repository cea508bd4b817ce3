"""Learn a task: fine-tune an expert from the base model, unify it, commit a new session."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from condu_cli.backbone.deltas import delta_of
from condu_cli.registry.names import validate_task_name
from condu_cli.train.finetune import parts_of
from condu_cli.train.stopping import StopRequest
from condu_cli.workflows.learning.destination import Destination
from condu_cli.workflows.learning.estimating import Estimate, estimate
from condu_cli.workflows.learning.planning import (
    DrawnPictures,
    LearnPlan,
    LearnRequest,
    draw_pictures,
    plan_training,
)
from condu_cli.workflows.learning.reading import read_pictures
from condu_cli.workflows.learning.registry_kind import (
    RegistryKind,
    RegistryRequest,
    load_kind,
    refuse_other_kind,
)
from condu_cli.workflows.learning.summaries import LearnSummary, summarise
from condu_cli.workflows.learning.training import Machine, Training
from condu_cli.workflows.opening.registry_only import require_space
from condu_cli.workflows.progress import ProgressCallback, outlasting, silent
from condu_cli.workflows.sessions.committing import (
    Commit,
    TrainedExpert,
    check_delta,
    commit_expert,
)
from condu_cli.workflows.sessions.states import codec_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.workflows.learning.unfinished import Unfinished


class Learner:
    """One run of `learn`: `plan` settles and checks everything, `run` trains and commits.

    `resumed`: a training that was interrupted, to be taken up where it stopped, and its file.
    """

    def __init__(
        self,
        registry_path: Path,
        request: LearnRequest,
        wanted: RegistryRequest | None = None,
        machine: Machine | None = None,
        *,
        retrain: bool = False,
        resumed: Unfinished | None = None,
        resumed_from: Path | None = None,
    ) -> None:
        validate_task_name(request.task)
        self._request = request
        self._wanted = wanted or RegistryRequest()
        self._machine = machine or Machine()
        self._resumed = resumed
        self._drawn: DrawnPictures | None = None
        self._destination = Destination(registry_path, request.task, resumed_from, retrain=retrain)

    def draw(self) -> DrawnPictures:
        """Read the data set's layout and choose the pictures, before anything large is loaded.

        Where pictures have to be fetched, process 0 of a team does it for all.

        Raises:
            DataError: no usable pictures or class names.
            UsageError: the registry is of another kind, or a value makes no sense.

        """
        if self._drawn is None:
            refuse_other_kind(self._destination.found, self._wanted)
            team, fetches = self._machine.team, self._request.download
            if fetches and team.rank:
                team.share(None)
            self._drawn = draw_pictures(self._request)
            if fetches and not team.rank:
                team.share(None)
        return self._drawn

    def plan(self) -> LearnPlan:
        """Draw the pictures, load the base model and settle the recipe.

        Raises:
            DataError: no usable pictures or class names.
            BaseModelError: the base model cannot be had or is not the registry's.
            UsageError: the registry is of another kind, or a value makes no sense.

        """
        drawn = self.draw()
        self._kind: RegistryKind = load_kind(
            self._destination.found, self._wanted, self._machine.device
        )
        plan = plan_training(
            self._request,
            drawn,
            self._kind.base,
            self._kind.config.method,
            creates_registry=self._destination.found is None,
        )
        if self._resumed is not None:
            plan = plan.with_recipe(self._resumed.recipe)
        batch = min(plan.recipe.batch_size, len(plan.data.train))
        parts_of(batch, plan.recipe.accumulation, self._machine.team.size)
        return plan

    @property
    def base(self) -> DualEncoder:
        """The base model with the registry's trainable parameters, once `plan` has loaded it."""
        return self._kind.base

    def estimate(self, plan: LearnPlan) -> Estimate:
        """Measure what a plan would take, by doing a little of it."""
        return estimate(plan, self.base, self._machine.team.size)

    def run(self, plan: LearnPlan, on_progress: ProgressCallback = silent) -> LearnSummary | None:
        """Read, train, unify and commit; None in every process of a team but the first.

        Raises:
            DataError: pictures that cannot be read, or training that diverges.
            LockedError: another process is committing.
            InterruptedByUserError: somebody pressed Ctrl-C; the training is kept.

        """
        on_progress = outlasting(on_progress)
        base, config = self._kind
        team = self._machine.team
        self._destination.look_again(config)
        require_space(self._destination.path, config)
        started = time.perf_counter()
        read = read_pictures(plan, base, team, on_progress, prototypes=self._resumed is None)
        reading_seconds = time.perf_counter() - started
        training = Training(
            self._machine, self._destination, plan, read, on_progress, self._resumed
        )
        if team.rank == 0:
            training.warn_of_little_space()
        # Beside the training, which it slows down by a second at most: see `Codec.prepare`.
        threading.Thread(target=codec_for(config).prepare, daemon=True).start()
        expert = base.training_copy()
        # Until the expert is on the disk, Ctrl-C only asks: an hour's work is in memory.
        with StopRequest(patient=team.size > 1) as stop:
            result = training.finetune(expert, stop)
            if team.rank:
                team.share(None)  # process 0 has committed
                return None
            delta = delta_of(base, expert)
            del expert
            check_delta(config, delta)
            trained = TrainedExpert(
                task=plan.request.task,
                kind="learn",
                delta=delta,
                prototypes=training.prototypes,
                classes=plan.data.class_names,
                templates=plan.templates,
                training=training.record(result, reading_seconds),
                folder=str(plan.data_root.resolve()),
            )
            commit = self._commit(trained, stop.release, on_progress)
        team.share(None)
        summary = summarise(trained, commit)
        warnings = (*summary.warnings, *training.warnings, *self._notice_of_move())
        return replace(summary, unreadable=read.unreadable, warnings=warnings)

    def _notice_of_move(self) -> tuple[str, ...]:
        moved = self._destination.moved_to
        if moved is None:
            return ()
        return (
            f"a registry with other options was created at {self._destination.path} meanwhile: "
            f"this task was learned in a registry of its own, {moved}",
        )

    def _commit(
        self, trained: TrainedExpert, on_kept: Callable[[], None], on_progress: ProgressCallback
    ) -> Commit:
        parent = self._destination.parent
        commit = commit_expert(
            self._destination.registry(),
            trained,
            parent=None if parent is None else parent.id,
            command=f"learn {trained.task}",
            on_kept=on_kept,
            on_progress=on_progress,
        )
        self._destination.drop_all()
        return commit
