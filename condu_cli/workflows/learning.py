"""Learn a task: fine-tune an expert from the base model, unify it, commit a new session."""

from __future__ import annotations

import platform
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from condu_cli._version import __version__
from condu_cli.backbone.catalog import DEFAULT_BASE, canonical_base_id, load_base
from condu_cli.backbone.deltas import delta_of
from condu_cli.data.folders import few_shot, read_folder
from condu_cli.data.loading import PictureSet
from condu_cli.data.tasks import locate_data, templates_for
from condu_cli.errors import ConduError, NotFoundError, PartialError, UsageError
from condu_cli.registry.names import validate_task_name
from condu_cli.train.finetune import FinetuneResult, Step, finetune
from condu_cli.train.recipe import Recipe
from condu_cli.workflows.committing import (
    Commit,
    TrainedExpert,
    check_delta,
    commit_expert,
    load_expert,
    new_run,
    refuse_known_task,
    resume_expert,
)
from condu_cli.workflows.opening import join_or_create, open_if_there, require_space
from condu_cli.workflows.progress import Progress, ProgressCallback, silent
from condu_cli.workflows.prototyping import build_task_prototypes
from condu_cli.workflows.states import codec_for
from condu_cli.workflows.workspace import Workspace, new_config, trained_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from condu_cli.backbone.base import DualEncoder
    from condu_cli.data.folders import LabelledPictures
    from condu_cli.registry.manifest import RegistryConfig, Session
    from condu_cli.registry.repository import Registry

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class LearnRequest:
    """What to learn, and which values of the recipe to override."""

    task: str
    data: Path | None = None
    class_names: Path | None = None
    templates: tuple[str, ...] = ()
    shots: int | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    image_size: int | None = None
    seed: int = 0
    device: str = "cpu"
    base: str | None = None
    retrain: bool = False


@dataclass(frozen=True)
class LearnPlan:
    """Everything that is settled before training starts."""

    request: LearnRequest
    data_root: Path
    data: LabelledPictures
    templates: tuple[str, ...]
    recipe: Recipe
    base_id: str
    creates_registry: bool


@dataclass(frozen=True)
class LearnSummary:
    """What a finished `learn` reports; times in seconds. An imported expert has no loss.

    `keep_seconds` is writing the trained expert down before the commit, `pack_seconds` storing
    the session before as a patch after it.
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
    warnings: tuple[str, ...] = field(default=())


class Learner:
    """One run of `learn`: `plan` settles and checks everything, `run` trains and commits."""

    def __init__(self, registry_path: Path, request: LearnRequest) -> None:
        validate_task_name(request.task)
        self._path = registry_path
        self._request = request
        self._registry = open_if_there(registry_path)
        self._parent = None if self._registry is None else self._registry.head()
        refuse_known_task(self._parent, request.task)
        waiting = [] if self._registry is None else self._registry.waiting.paths(request.task)
        if waiting and not request.retrain:
            raise UsageError(
                f"an expert of '{request.task}' was trained already and waits to be committed",
                f"condu learn --task {request.task} --resume commits it; --retrain trains another "
                "in its place",
            )
        self._replaced = waiting

    def plan(self) -> LearnPlan:
        """Read the data set's layout, load the base model and settle the recipe.

        Raises:
            DataError: no usable pictures or class names.
            BaseModelError: the base model cannot be had or is not the registry's.
            UsageError: the task is known already, or a value makes no sense.

        """
        request = self._request
        templates = templates_for(request.task, request.templates)
        root = locate_data(request.task, request.data)
        data = read_folder(root, request.class_names)
        if request.shots is not None:
            data = few_shot(data, request.shots, request.seed)
        self._base = self._load_base()
        return LearnPlan(
            request=request,
            data_root=root,
            data=data,
            templates=templates,
            recipe=settle_recipe(request, self._base, templates),
            base_id=self._base.info.id,
            creates_registry=self._registry is None,
        )

    def run(self, plan: LearnPlan, on_progress: ProgressCallback = silent) -> LearnSummary:
        """Train, build prototypes, unify and commit; until the commit nothing is written.

        Raises:
            DataError: pictures that cannot be read, or training that diverges.
            LockedError: another process is committing.

        """
        config = self._registry.config if self._registry else new_config(self._base)
        require_space(self._path, config)
        pictures = PictureSet.for_training(plan.data.train, plan.recipe.image_size)
        pictures.check(lambda done: on_progress(Progress("reading", done, len(pictures))))
        # Beside the training, which it slows down by a second at most: see `Codec.prepare`.
        threading.Thread(target=codec_for(config).prepare, daemon=True).start()
        expert = self._base.expert_copy()
        result = finetune(
            expert,
            pictures,
            plan.data.class_names,
            plan.recipe,
            lambda step: on_progress(_step_progress(step)),
        )
        delta = delta_of(self._base, expert)
        del expert
        check_delta(config, delta)
        started = time.perf_counter()
        prototypes = build_task_prototypes(self._base, plan.data, plan.templates, on_progress)
        prototype_seconds = time.perf_counter() - started
        trained = TrainedExpert(
            task=plan.request.task,
            kind="learn",
            delta=delta,
            prototypes=prototypes,
            classes=plan.data.class_names,
            templates=plan.templates,
            training=_training_record(plan, result, prototype_seconds),
            folder=str(plan.data_root.resolve()),
        )
        commit = self._commit(config, trained, on_progress)
        return _summary(trained, commit)

    def _load_base(self) -> DualEncoder:
        request = self._request
        if self._registry is None:
            base = load_base(request.base or DEFAULT_BASE, request.device)
            return trained_part(base, new_config(base))
        recorded = self._registry.config.base.id
        if request.base is not None and canonical_base_id(request.base) != recorded:
            raise UsageError(
                f"the registry at {self._path} belongs to base model {recorded}, "
                f"not {request.base}",
                "Leave --base out, or name another --registry",
            )
        return Workspace(self._registry, request.device).base

    def _commit(
        self, config: RegistryConfig, trained: TrainedExpert, on_progress: ProgressCallback
    ) -> Commit:
        registry = self._registry or join_or_create(self._path, config, "learn")
        commit = commit_expert(
            registry,
            trained,
            parent=None if self._parent is None else self._parent.id,
            command=f"learn --task {trained.task}",
            on_progress=on_progress,
        )
        for path in self._replaced:
            registry.waiting.remove(path)
        return commit


@dataclass(frozen=True)
class Resumed:
    """A kept expert that is committed: its summary, or the session that had it before."""

    task: str
    summary: LearnSummary | None
    session: Session


def resume(
    registry: Registry,
    task: str | None,
    on_progress: ProgressCallback = silent,
    on_done: Callable[[Resumed], None] = lambda _: None,
) -> list[Resumed]:
    """Commit the trained experts that wait, or those of one task, on whatever HEAD is.

    `on_done` hears of each at once. One that cannot be committed does not keep the others back.

    Raises:
        NotFoundError: none waits.
        PartialError: some could not be committed; they still wait.
        ConduError: what kept the only one, or the first of them all, from being committed.

    """
    paths = registry.waiting.paths(task)
    if not paths:
        of_task = "" if task is None else f" of task '{task}'"
        raise NotFoundError(
            f"no trained expert{of_task} waits to be committed in {registry.path}",
            "Train one: condu learn --task NAME --data DIR",
        )
    found: list[Resumed] = []
    errors: list[ConduError] = []
    for path in paths:
        done = _resumed(registry, path, on_progress)
        if isinstance(done, ConduError):
            if path.exists():  # else somebody else has committed it meanwhile
                errors.append(done)
        else:
            found.append(done)
            on_done(done)
    if errors and not found:
        raise errors[0]
    if errors:
        raise PartialError(
            f"{len(errors)} of {len(paths)} kept experts still wait: {errors[0].message}",
            errors[0].hint,
        )
    return found


def _resumed(registry: Registry, path: Path, on_progress: ProgressCallback) -> Resumed | ConduError:
    try:
        expert = registry.waiting.open(path)
        trained = load_expert(registry, expert)
        done = resume_expert(
            registry,
            expert,
            trained=trained,
            command=f"learn --task {expert.task} --resume",
            on_progress=on_progress,
        )
    except ConduError as exc:
        return exc
    if isinstance(done, Commit):
        return Resumed(expert.task, _summary(trained, done), done.session)
    return Resumed(expert.task, None, done)


def settle_recipe(request: LearnRequest, base: DualEncoder, templates: Sequence[str]) -> Recipe:
    """The base model's recipe with the request's overrides.

    Training uses the first template only, as ConDU's released code does.

    Raises:
        UsageError: a value out of range, or another image size for a fixed-size tower.

    """
    defaults = base.training_defaults
    iterations = request.iterations or defaults.iterations
    size = request.image_size or defaults.image_size
    if request.learning_rate is not None and not request.learning_rate > 0:
        raise UsageError(
            f"--lr {request.learning_rate:g}: the learning rate must be above 0",
            f"Leave it out for the base model's {defaults.learning_rate:g}",
        )
    if base.preprocessing.fixed_size and size != base.preprocessing.image_size:
        raise UsageError(
            f"{base.info.id} takes pictures of {base.preprocessing.image_size} pixels only",
            "Leave --image-size out",
        )
    return Recipe(
        iterations=iterations,
        learning_rate=request.learning_rate or defaults.learning_rate,
        image_size=size,
        batch_size=request.batch_size or defaults.batch_size,
        warmup_iterations=round(iterations * WARMUP_SHARE),
        template=templates[0],
        seed=request.seed,
    )


def _training_record(
    plan: LearnPlan, result: FinetuneResult, prototype_seconds: float
) -> dict[str, Any]:
    """What is remembered of a training; it travels with the registry, so no path is in it."""
    return {
        "run": new_run(),
        "recipe": plan.recipe.as_record(),
        "split": plan.data.split,
        "folders": list(plan.data.folders),
        "shots": plan.request.shots,
        "train_images": len(plan.data.train),
        "test_images": len(plan.data.test),
        "final_loss": result.final_loss,
        "train_seconds": round(result.train_seconds, 3),
        "prototype_seconds": round(prototype_seconds, 3),
        "device": plan.request.device,
        "versions": {
            "condu": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "open_clip_torch": version("open_clip_torch"),
        },
    }


def _summary(trained: TrainedExpert, commit: Commit) -> LearnSummary:
    training = trained.training
    return LearnSummary(
        session=commit.session.id,
        task=trained.task,
        iterations=training.get("recipe", {}).get("iterations", 0),
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
        warnings=commit.warnings,
    )


def _step_progress(step: Step) -> Progress:
    return Progress(
        "training",
        step.iteration,
        step.iterations,
        {"loss": step.loss, "images_per_second": step.images_per_second},
    )
