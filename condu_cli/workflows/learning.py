"""Learn a task: fine-tune an expert from the base model, unify it, commit a new session."""

from __future__ import annotations

import platform
import threading
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from condu_cli._version import __version__
from condu_cli.backbone.base import TRAIN_CHOICES
from condu_cli.backbone.catalog import (
    DEFAULT_BASE,
    canonical_base_id,
    load_base,
    load_recorded_base,
)
from condu_cli.backbone.deltas import delta_of
from condu_cli.data.labelled import fingerprint
from condu_cli.errors import (
    BaseModelError,
    ConduError,
    DivergedError,
    InterruptedByUserError,
    UsageError,
)
from condu_cli.registry.names import validate_task_name
from condu_cli.registry.repository import Registry
from condu_cli.train.finetune import (
    FinetuneResult,
    Hooks,
    Step,
    TrainingInterruptedError,
    finetune,
    parts_of,
)
from condu_cli.train.stopping import StopRequest
from condu_cli.train.team import SOLO, Team
from condu_cli.workflows.committing import (
    Commit,
    TrainedExpert,
    check_delta,
    commit_expert,
    new_run,
    refuse_known_task,
)
from condu_cli.workflows.estimating import Estimate, estimate
from condu_cli.workflows.opening import (
    free_bytes,
    join_or_create,
    open_if_there,
    require_same_kind,
    require_space,
    state_bytes,
)
from condu_cli.workflows.paradigms import FULL, LORA, LoraRequest, recorded_spec
from condu_cli.workflows.planning import (
    DrawnPictures,
    LearnPlan,
    LearnRequest,
    draw_pictures,
    plan_training,
)
from condu_cli.workflows.progress import Progress, ProgressCallback, outlasting, silent
from condu_cli.workflows.reading import Read, read_pictures
from condu_cli.workflows.states import codec_for
from condu_cli.workflows.unfinished import (
    Unfinished,
    check_same_data,
    data_fingerprint,
    save_unfinished,
)
from condu_cli.workflows.workspace import Workspace, new_config, trained_part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from condu_cli.backbone.base import DualEncoder
    from condu_cli.core.prototypes import Prototypes
    from condu_cli.train.run_state import RunState


@dataclass(frozen=True)
class RegistryRequest:
    """What registry to create where there is none; None leaves a choice to the defaults.

    Where there is one, whatever is given must be what it is.
    """

    base: str | None = None
    method: str | None = None
    train: str | None = None
    lora: LoraRequest | None = None


@dataclass(frozen=True)
class Machine:
    """Where a training runs and how often it writes itself down.

    `save_every` counts iterations; 0: by the clock.
    """

    device: str = "cpu"
    team: Team = SOLO
    save_every: int = 0


@dataclass(frozen=True)
class LearnSummary:
    """What a finished `learn` reports; times in seconds. An imported expert has no loss.

    `prototype_seconds` is reading the pictures and building the prototypes from them,
    `keep_seconds` writing the trained expert down before the commit, `pack_seconds` storing the
    session before as a patch after it. `validation_accuracy` is that of the weights that were
    kept, None where nothing was held out; `unreadable` says of every picture that was left out
    what is wrong with it.
    """

    session: str
    task: str
    iterations: int
    final_loss: float | None
    train_seconds: float
    prototype_seconds: float
    keep_seconds: float
    unify_seconds: float
    commit_seconds: float
    pack_seconds: float
    images: int
    classes: int
    tasks: int
    unreadable: tuple[str, ...] = ()
    validation_accuracy: float | None = None
    warnings: tuple[str, ...] = field(default=())


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
        self._path = registry_path
        self._request = request
        self._wanted = wanted or RegistryRequest()
        self._machine = machine or Machine()
        self._resumed = resumed
        self._own_file = resumed_from
        self._registry = open_if_there(registry_path)
        self._parent = None if self._registry is None else self._registry.head()
        refuse_known_task(self._parent, request.task)
        self._replaced = self._left_over(retrain=retrain)

    def _left_over(self, *, retrain: bool) -> list[Path]:
        """Files of earlier trainings of the task, which go when this one is committed."""
        task, registry = self._request.task, self._registry
        if registry is None:
            return []
        waiting, runs = registry.waiting.paths(task), registry.runs.paths(task)
        if self._resumed is not None:
            return [path for path in (*waiting, *runs) if path != self._own_file]
        if waiting and not retrain:
            raise UsageError(
                f"an expert of '{task}' was trained already and waits to be committed",
                f"condu learn --task {task} --resume commits it; --retrain trains another in its "
                "place",
            )
        if runs and not retrain:
            raise UsageError(
                f"a training of '{task}' was interrupted and is kept",
                f"condu learn --task {task} --resume goes on with it; --retrain begins anew",
            )
        return [*waiting, *runs]

    def plan(self) -> LearnPlan:
        """Read the data set's layout, load the base model and settle the recipe.

        In this order: a mistake in the data set is named before anything large is loaded.

        Raises:
            DataError: no usable pictures or class names.
            BaseModelError: the base model cannot be had or is not the registry's.
            UsageError: the task is known already, or a value makes no sense.

        """
        self._refuse_other_kind()
        drawn = self._draw()
        self._base = self._load_base()
        plan = plan_training(
            self._request,
            drawn,
            self._base,
            self._config.method,
            creates_registry=self._registry is None,
        )
        if self._resumed is not None:
            plan = plan.with_recipe(self._resumed.recipe)
        batch = min(plan.recipe.batch_size, len(plan.data.train))
        parts_of(batch, plan.recipe.accumulation, self._machine.team.size)
        return plan

    @property
    def base(self) -> DualEncoder:
        """The base model with the registry's trainable parameters, once `plan` has loaded it."""
        return self._base

    def run(self, plan: LearnPlan, on_progress: ProgressCallback = silent) -> LearnSummary | None:
        """Read, train, unify and commit; None in every process of a team but the first.

        Raises:
            DataError: pictures that cannot be read, or training that diverges.
            LockedError: another process is committing.
            InterruptedByUserError: somebody pressed Ctrl-C; the training is kept.

        """
        on_progress = outlasting(on_progress)
        self._start()
        require_space(self._path, self._config)
        started = time.perf_counter()
        read = read_pictures(
            plan, self._base, self._machine.team, on_progress, prototypes=self._resumed is None
        )
        reading_seconds = time.perf_counter() - started
        run = _OneTraining(self, plan, read, on_progress)
        if self._machine.team.rank == 0:
            run.warn_of_little_space()
        # Beside the training, which it slows down by a second at most: see `Codec.prepare`.
        threading.Thread(target=codec_for(self._config).prepare, daemon=True).start()
        expert = self._base.training_copy()
        # Until the expert is on the disk, Ctrl-C only asks: an hour's work is in memory.
        with StopRequest(patient=self._machine.team.size > 1) as stop:
            result = run.finetune(expert, stop)
            if self._machine.team.rank:
                self._machine.team.share(None)  # process 0 has committed
                return None
            delta = delta_of(self._base, expert)
            del expert
            check_delta(self._config, delta)
            training = _training_record(plan, read, result, run, reading_seconds, self._machine)
            trained = TrainedExpert(
                task=plan.request.task,
                kind="learn",
                delta=delta,
                prototypes=run.prototypes,
                classes=plan.data.class_names,
                templates=plan.templates,
                training=training,
                folder=str(plan.data_root.resolve()),
            )
            commit = self._commit(trained, stop.release, on_progress)
        self._machine.team.share(None)
        summary = summarise(trained, commit)
        warnings = (*summary.warnings, *run.warnings, *self._notice_of_move())
        return replace(summary, unreadable=read.unreadable, warnings=warnings)

    def _notice_of_move(self) -> tuple[str, ...]:
        if self.moved_to is None:
            return ()
        return (
            f"a registry with other options was created at {self._path} meanwhile: this task was "
            f"learned in {self.moved_to}, use it with --registry",
        )

    def estimate(self, plan: LearnPlan) -> Estimate:
        """Measure what a plan would take, by doing a little of it."""
        return estimate(plan, self._base, self._machine.team.size)

    def _start(self) -> None:
        """Build on what is HEAD now: an earlier task of the same command may have moved it."""
        if self._registry is None:
            self._registry = open_if_there(self._path)
            if self._registry is not None:
                require_same_kind(self._registry, self._config)
        self._parent = None if self._registry is None else self._registry.head()
        refuse_known_task(self._parent, self._request.task)

    def _draw(self) -> DrawnPictures:
        """Find the pictures; where they have to be fetched, process 0 does it for all."""
        team, fetches = self._machine.team, self._request.download
        if fetches and team.rank:
            team.share(None)
        drawn = draw_pictures(self._request)
        if fetches and not team.rank:
            team.share(None)
        return drawn

    def _load_base(self) -> DualEncoder:
        wanted, device = self._wanted, self._machine.device
        if self._registry is None:
            base = load_base(wanted.base or DEFAULT_BASE, device)
            self._config = new_config(
                base, wanted.method or FULL, train=wanted.train or "whole", lora=wanted.lora
            )
            return trained_part(base, self._config)
        self._config = self._registry.config
        base = Workspace(self._registry, device).base
        self._refuse_other_parameters()
        return base

    def _refuse_other_kind(self) -> None:
        """Refuse a base model or method that is not the registry's."""
        if self._registry is None:
            return
        wanted, config = self._wanted, self._registry.config
        if wanted.base is not None and canonical_base_id(wanted.base) != config.base.id:
            raise self._other("base model", config.base.id, wanted.base, "--base")
        if wanted.method is not None and wanted.method != config.method:
            raise self._other("method", config.method, wanted.method, "--method")

    def _refuse_other_parameters(self) -> None:
        """Refuse a tower or LoRA's options that are not the registry's."""
        wanted = self._wanted
        if wanted.train is None and wanted.lora is None:
            return
        towers = TRAIN_CHOICES if wanted.train is None else (wanted.train,)
        if not any(self._would_be_this_registry(train) for train in towers):
            raise UsageError(
                f"the registry at {self._path} trains other parameters than you ask for",
                "Leave --train and the LoRA options out (condu show says what it trains), or name "
                "another --registry",
            )

    def _would_be_this_registry(self, train: str) -> bool:
        """Whether what is asked for, and for the rest what is recorded, gives this registry."""
        config, lora = self._config, None
        if config.method == LORA:
            asked_for = self._wanted.lora or LoraRequest()
            lora = asked_for.completed(recorded_spec(config.method_options))
        base = load_recorded_base(config.base.id, self._machine.device)
        try:
            asked = new_config(base, config.method, train=train, lora=lora)
        except UsageError:  # the tower has no such layers
            return False
        return (asked.parameters, asked.method_options) == (
            config.parameters,
            config.method_options,
        )

    def _other(self, what: str, recorded: str, given: str, option: str) -> UsageError:
        return UsageError(
            f"the registry at {self._path} belongs to {what} {recorded}, not {given}",
            f"Leave {option} out, or name another --registry",
        )

    def registry(self) -> Registry:
        """The registry, created if need be.

        Where somebody else has created one of another kind there meanwhile, it lies beside that
        one: what was trained must not be lost.
        """
        if self._registry is None:
            try:
                self._registry = join_or_create(self._path, self._config, "learn")
            except BaseModelError:
                beside = self._path.with_name(f"{self._path.name}-{new_run()[:8]}")
                self._registry = Registry.create(beside, self._config, command="learn")
        return self._registry

    @property
    def moved_to(self) -> Path | None:
        """Where the registry is, if not where it was asked for."""
        path = None if self._registry is None else self._registry.path
        return None if path in (None, self._path) else path

    def keep_run(self, unfinished: Unfinished) -> None:
        """Write a training down in the registry, in the place of what it wrote before."""
        self._own_file = save_unfinished(self.registry(), unfinished, self._own_file)

    def drop_run(self) -> None:
        """Remove what this training has written down."""
        if self._registry is not None and self._own_file is not None:
            self._registry.runs.remove(self._own_file)

    def _commit(
        self, trained: TrainedExpert, on_kept: Callable[[], None], on_progress: ProgressCallback
    ) -> Commit:
        commit = commit_expert(
            self.registry(),
            trained,
            parent=None if self._parent is None else self._parent.id,
            command=f"learn --task {trained.task}",
            on_kept=on_kept,
            on_progress=on_progress,
        )
        for path in self._replaced:
            path.unlink(missing_ok=True)
        self.drop_run()
        return commit


class _OneTraining:
    """The training itself, and what of it is written down while it runs."""

    def __init__(
        self, learner: Learner, plan: LearnPlan, read: Read, on_progress: ProgressCallback
    ) -> None:
        self._learner, self._plan, self._read = learner, plan, read
        self._on_progress = on_progress
        self._iteration = 0
        self._resumed = learner._resumed
        self.mark = new_run() if self._resumed is None else self._resumed.run
        self.warnings: tuple[str, ...] = ()
        # Before training, like all that looks at the pictures' files: nothing may fail after it.
        self.test_fingerprint = fingerprint(plan.data.test, plan.data.folders)
        validation = read.data.validation
        self._data = data_fingerprint(
            read.data.pictures.samples, () if validation is None else validation.samples, plan
        )
        if self._resumed is not None:
            check_same_data(self._resumed, self._data)

    @property
    def prototypes(self) -> Prototypes:
        """Those of the pictures just read, or of the training that is taken up."""
        built = self._read.prototypes
        if built is None:
            assert self._resumed is not None  # noqa: S101 - process 0 built them, then or now
            return self._resumed.prototypes
        return built

    def warn_of_little_space(self) -> None:
        """Say at once where the training could not be written down while it runs."""
        config = self._learner._config
        best = self._plan.recipe.keep == "best"
        needed, free = state_bytes(config, best=best), free_bytes(self._learner._path)
        if free < needed:
            self._warn(
                f"{self._learner._path} has {free / 1e6:,.0f} MB left, and an unfinished training "
                f"takes up to {needed / 1e6:,.0f} MB: this one may not survive an interruption"
            )

    def _warn(self, text: str) -> None:
        recipe = self._plan.recipe
        self._on_progress(
            Progress("training", self._iteration, recipe.iterations, {"warning": text})
        )

    def _on_step(self, step: Step) -> None:
        self._iteration = step.iteration
        self._on_progress(_step_progress(step))

    def finetune(self, expert: DualEncoder, stop: StopRequest) -> FinetuneResult:
        machine = self._learner._machine
        hooks = Hooks(
            on_step=self._on_step,
            stop_requested=stop,
            save=self._save_if_possible if machine.team.rank == 0 else None,
            save_every=machine.save_every,
        )
        try:
            return finetune(
                expert,
                self._read.data,
                self._plan.recipe,
                hooks,
                start=None if self._resumed is None else self._resumed.state,
                team=machine.team,
            )
        except TrainingInterruptedError as exc:
            if machine.team.rank == 0:
                self._save_at_the_end(exc.state)
            # A launcher ends all the others soon after the first has left.
            machine.team.share(None)
            raise self._interrupted(exc.state) from None
        except DivergedError:
            if machine.team.rank == 0:
                self._learner.drop_run()  # going on would end the same way
            raise

    def _save_if_possible(self, state: RunState) -> None:
        """A full disk must not end a training that can go on; it is said at once and at the end."""
        try:
            self._save(state)
        except (ConduError, OSError) as exc:
            text = f"the training could not be written down: {exc}"
            if not self.warnings:
                self._warn(text)
            self.warnings = (text,)
        else:
            self.warnings = ()

    def _save_at_the_end(self, state: RunState) -> None:
        before = self._learner._own_file
        try:
            self._save(state)
        except ConduError as exc:
            left = "nothing of it" if before is None else "only what was written down before"
            raise ConduError(f"{exc.message}; {left} is kept", exc.hint) from exc

    def _save(self, state: RunState) -> None:
        self._learner.keep_run(
            Unfinished(
                task=self._plan.request.task,
                run=self.mark,
                request=replace(self._plan.request, templates=self._plan.templates),
                recipe=self._plan.recipe,
                data=self._data,
                prototypes=self.prototypes,
                state=state,
            )
        )

    def _interrupted(self, state: RunState) -> InterruptedByUserError:
        task, recipe = self._plan.request.task, self._plan.recipe
        return InterruptedByUserError(
            f"the training of '{task}' stopped after iteration {state.history['iteration']} of "
            f"{recipe.iterations} and is kept",
            f"condu learn --task {task} --resume{self._where()} goes on from there",
        )

    def _where(self) -> str:
        moved = self._learner.moved_to
        return "" if moved is None else f" --registry {moved}"


def _training_record(
    plan: LearnPlan,
    read: Read,
    result: FinetuneResult,
    run: _OneTraining,
    reading_seconds: float,
    machine: Machine,
) -> dict[str, Any]:
    """What is remembered of a training; it travels with the registry, so no path is in it."""
    return {
        "run": run.mark,
        "recipe": plan.recipe.as_record(),
        "preset": {"name": plan.preset.name, "overridden": list(plan.overridden)},
        "split": plan.data.split,
        "folders": list(plan.data.folders),
        "shots": plan.request.shots,
        "limit": plan.request.limit,
        "train_images": len(read.data.pictures),
        "validation_images": len(read.data.validation) if read.data.validation else 0,
        "test_images": len(plan.data.test),
        "test_fingerprint": run.test_fingerprint,
        "unreadable_images": len(read.unreadable),
        "prototype_images": plan.request.prototype_images,
        "iterations_run": result.iterations,
        "kept_iteration": result.kept_iteration,
        "stopped_early": result.stopped_early,
        "validation": [dict(measured) for measured in result.validation],
        "final_loss": result.final_loss,
        "train_seconds": round(result.train_seconds, 3),
        "prototype_seconds": round(reading_seconds, 3),
        "device": machine.device,
        "processes": machine.team.size,
        "versions": {
            "condu": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "open_clip_torch": version("open_clip_torch"),
        },
    }


def summarise(trained: TrainedExpert, commit: Commit) -> LearnSummary:
    """What a commit of a trained expert came to."""
    training = trained.training
    recipe = training.get("recipe", {})
    return LearnSummary(
        session=commit.session.id,
        task=trained.task,
        iterations=training.get("iterations_run", recipe.get("iterations", 0)),
        final_loss=training.get("final_loss"),
        train_seconds=training.get("train_seconds", 0.0),
        prototype_seconds=training.get("prototype_seconds", 0.0),
        keep_seconds=commit.keep_seconds,
        unify_seconds=commit.unify_seconds,
        commit_seconds=commit.commit_seconds,
        pack_seconds=commit.pack_seconds,
        images=training.get("train_images", 0),
        classes=len(trained.classes),
        tasks=len(commit.session.entries),
        validation_accuracy=_kept_accuracy(training),
        warnings=commit.warnings,
    )


def _kept_accuracy(training: Mapping[str, Any]) -> float | None:
    """The measurement of the iteration whose weights became the expert."""
    kept = training.get("kept_iteration")
    measured = [v["accuracy"] for v in training.get("validation", ()) if v["iteration"] == kept]
    return measured[-1] if measured else None


def _step_progress(step: Step) -> Progress:
    figures = {"loss": step.loss, "images_per_second": step.images_per_second}
    if step.accuracy is not None:
        figures["validation_accuracy"] = step.accuracy
    return Progress("training", step.iteration, step.iterations, figures)
