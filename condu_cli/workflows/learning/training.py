"""The training of one task's expert, and its checkpoints."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from condu_cli._version import __version__
from condu_cli.backbone.deltas import delta_of
from condu_cli.data.labelled import fingerprint
from condu_cli.data.sources.known_tasks import data_root
from condu_cli.errors import ConduError, DivergedError, InterruptedByUserError
from condu_cli.train.finetune import (
    FinetuneResult,
    Hooks,
    Step,
    TrainingData,
    TrainingInterruptedError,
    finetune,
)
from condu_cli.train.team import SOLO, Team, agreed
from condu_cli.workflows.learning.stages import Kept, Stages
from condu_cli.workflows.learning.unfinished import Unfinished, check_same_data, data_fingerprint
from condu_cli.workflows.opening.registry_only import free_bytes, state_bytes
from condu_cli.workflows.progress import Progress, ProgressCallback
from condu_cli.workflows.sessions.trained_experts import new_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.train.run_state import RunState
    from condu_cli.train.stopping import StopRequest
    from condu_cli.workflows.learning.destination import Destination
    from condu_cli.workflows.learning.planning import LearnPlan
    from condu_cli.workflows.learning.reading import Read


NOT_TUNED = FinetuneResult(final_loss=None, train_seconds=0.0, iterations=0, kept_iteration=0)
"""What is recorded of an expert that is a head alone."""


@dataclass(frozen=True)
class Machine:
    """Where a training runs and how often it saves a checkpoint.

    `save_every` counts iterations; 0: at fixed time intervals.
    """

    device: str = "cpu"
    team: Team = SOLO
    save_every: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    """A finished expert: its delta, how it was tuned (None: not at all), and what was kept.

    `choosing_seconds`: what the choice took after tuning.
    """

    delta: Mapping[str, Any]
    result: FinetuneResult | None
    kept: Kept
    choosing_seconds: float = 0.0


class Training:
    """The training of a plan's expert from the pictures that were read.

    It saves itself at `destination`. `resumed`: an interrupted training to resume where it
    stopped.

    Raises:
        DataError: the pictures are not those that the resumed training began with.

    """

    def __init__(
        self,
        machine: Machine,
        destination: Destination,
        plan: LearnPlan,
        read: Read,
        on_progress: ProgressCallback,
        resumed: Unfinished | None = None,
    ) -> None:
        self._machine, self._destination = machine, destination
        self._plan, self._read = plan, read
        self._on_progress = on_progress
        self._iteration = 0
        self._resumed = resumed
        self._mark = new_run() if resumed is None else resumed.run
        self.warnings: tuple[str, ...] = ()
        # Before training, like all reading of the pictures' files: nothing may fail after it.
        self._test_fingerprint = fingerprint(plan.data.test, plan.data.folders)
        validation = read.data.validation
        self._data = data_fingerprint(
            read.data.pictures.samples, () if validation is None else validation.samples, plan
        )
        if resumed is not None:
            check_same_data(resumed, self._data)

    @property
    def prototypes(self) -> Prototypes:
        """The prototypes of the pictures just read, or of the resumed training."""
        if self._resumed is not None:
            return self._resumed.prototypes
        assert self._read.prototypes is not None  # noqa: S101 - process 0 has built them
        return self._read.prototypes

    def warn_of_little_space(self) -> None:
        """Warn if there is too little space to save the training while it runs."""
        best = self._plan.recipe.keep == "best"
        path = self._destination.path
        needed, free = state_bytes(self._destination.config, best=best), free_bytes(path)
        if free < needed:
            self._warn(
                f"{path} has {free / 1e6:,.0f} MB left, and an unfinished training "
                f"takes up to {needed / 1e6:,.0f} MB: this one may not survive an interruption"
            )

    def _warn(self, text: str) -> None:
        recipe = self._plan.recipe
        self._on_progress(
            Progress("training", self._iteration, recipe.iterations, {"warning": text})
        )

    def make(self, base: DualEncoder, stop: StopRequest) -> Made:
        """Make the expert: a head, tuning from there, and the choice between them.

        Raises:
            DataError: a picture can no longer be read.
            DivergedError: the loss became NaN; what was saved is removed.
            InterruptedByUserError: a stop was requested; the training is kept.

        """
        plan, expert = self._plan, base.training_copy()
        if not plan.request.head_first:
            result = self._finetune(expert, self._read.data, stop)
            return Made(delta_of(base, expert), result, Kept())
        stages = Stages(
            base, expert, plan.recipe, plan.templates, self._machine.team, self._on_progress
        )
        begun = stages.begin(self._read)
        if not plan.tunes:
            return Made(delta_of(base, expert), None, stages.without_tuning(begun))
        data = stages.data(begun, self._read.data)
        try:
            result = self._finetune(expert, data, stop)
        except DivergedError as exc:
            if begun.judged.form == "none":
                raise
            kept = stages.without_tuning(begun)
            result = replace(
                NOT_TUNED, iterations=int(str(exc.facts["iteration"])), diverged=exc.message
            )
            return Made(delta_of(base, expert), result, kept)
        started = time.perf_counter()
        kept = stages.choose(begun, data, lambda: self._pause(result.iterations, stop))
        return Made(delta_of(base, expert), result, kept, time.perf_counter() - started)

    def _pause(self, iteration: int, stop: StopRequest) -> None:
        """Stop the choice if that was requested and the finished training is saved."""
        team = self._machine.team
        wanted, unsaved = agreed(team, stop(), team.rank == 0 and bool(self.warnings))
        if wanted and not unsaved:
            team.share(None)
            raise self._interrupted(iteration)

    def _finetune(
        self, expert: DualEncoder, data: TrainingData, stop: StopRequest
    ) -> FinetuneResult:
        """Train an expert in place, saving the training regularly.

        Raises:
            DataError: a picture can no longer be read.
            DivergedError: the loss became NaN; what was saved is removed.
            InterruptedByUserError: a stop was requested; the training is kept.

        """
        machine = self._machine
        hooks = Hooks(
            on_step=self._on_step,
            stop_requested=stop,
            save=self._save_if_possible if machine.team.rank == 0 else None,
            save_every=machine.save_every,
            save_at_end=self._plan.request.head_first,  # the choice is still to come
        )
        try:
            return finetune(
                expert,
                data,
                self._plan.recipe,
                hooks,
                start=None if self._resumed is None else self._resumed.state,
                team=machine.team,
            )
        except TrainingInterruptedError as exc:
            if machine.team.rank == 0:
                self._save_at_the_end(exc.state)
            # A launcher ends the other processes soon after the first has exited.
            machine.team.share(None)
            raise self._interrupted(exc.state.history["iteration"]) from None
        except DivergedError:
            if machine.team.rank == 0:
                self._destination.drop()  # going on would end the same way
            raise

    def _on_step(self, step: Step) -> None:
        self._iteration = step.iteration
        self._on_progress(_step_progress(step))

    def _save_if_possible(self, state: RunState) -> None:
        """Save; if the disk is full, warn now and at the end, and let the training continue."""
        try:
            self._save(state)
        except (ConduError, OSError) as exc:
            text = f"the training could not be saved: {exc}"
            if not self.warnings:
                self._warn(text)
            self.warnings = (text,)
        else:
            self.warnings = ()

    def _save_at_the_end(self, state: RunState) -> None:
        had_kept = self._destination.has_kept
        try:
            self._save(state)
        except ConduError as exc:
            left = "only what was saved before" if had_kept else "nothing of it"
            raise ConduError(
                f"{exc.message}; {left} is kept", reason=exc.reason, **exc.facts
            ) from exc

    def _save(self, state: RunState) -> None:
        request, root = replace(self._plan.request, templates=self._plan.templates), data_root()
        if self._resumed is not None:  # not what was made of it for this run
            request, root = self._resumed.request, self._resumed.root or root
        unfinished = Unfinished(
            task=request.task,
            run=self._mark,
            request=request,
            recipe=self._plan.recipe,
            data=self._data,
            prototypes=self.prototypes,
            state=state,
            root=root,
        )
        self._destination.keep(unfinished)

    def _interrupted(self, iteration: int) -> InterruptedByUserError:
        task, recipe = self._plan.request.task, self._plan.recipe
        return InterruptedByUserError(
            f"the training of '{task}' stopped after iteration {iteration} of "
            f"{recipe.iterations} and is kept",
            reason="training-interrupted",
            task=task,
            iteration=iteration,
            moved_to=self._destination.moved_to,
        )

    def record(self, made: Made, reading_seconds: float) -> dict[str, Any]:
        """Return the record of the training; it travels with the registry, so it has no paths."""
        plan, read, result = self._plan, self._read, made.result or NOT_TUNED
        stages = {"stages": dict(made.kept.record)} if made.kept.record else {}
        return {
            **stages,
            **({"quick": True} if plan.request.quick else {}),
            "run": self._mark,
            "recipe": plan.recipe.as_record(),
            "preset": {"name": plan.preset.name, "overridden": list(plan.overridden)},
            "split": plan.data.split,
            "folders": list(plan.data.folders),
            "shots": plan.request.shots,
            "limit": plan.request.limit,
            "train_images": len(read.data.pictures),
            "validation_images": len(read.data.validation) if read.data.validation else 0,
            "test_images": len(plan.data.test),
            "test_fingerprint": self._test_fingerprint,
            "unreadable_images": len(read.unreadable),
            "prototype_images": plan.request.prototype_images,
            "iterations_run": result.iterations,
            "kept_iteration": result.kept_iteration,
            "stopped_early": result.stopped_early,
            "diverged": result.diverged,
            "validation": [dict(measured) for measured in result.validation],
            "final_loss": result.final_loss,
            "train_seconds": round(result.train_seconds, 3),
            "choosing_seconds": round(made.choosing_seconds, 3),
            "prototype_seconds": round(reading_seconds, 3),
            "device": self._machine.device,
            "processes": self._machine.team.size,
            "versions": {
                "condu": __version__,
                "python": platform.python_version(),
                "torch": version("torch"),
                "open_clip_torch": version("open_clip_torch"),
            },
        }


def _step_progress(step: Step) -> Progress:
    figures = {"loss": step.loss, "images_per_second": step.images_per_second}
    if step.accuracy is not None:
        figures["validation_accuracy"] = step.accuracy
    return Progress("training", step.iteration, step.iterations, figures)
