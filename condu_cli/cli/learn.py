"""`condu learn`: train new tasks, or resume an interrupted training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from condu_cli.cli import learn_options as options
from condu_cli.cli.command import Run, command
from condu_cli.cli.options import ClassNamesOption, DataRootOption, DeviceOption, DownloadOption
from condu_cli.cli.writing.learning_words import note_plan, report_summary, show_plan
from condu_cli.cli.writing.output import Mode, Output

if TYPE_CHECKING:
    from pathlib import Path

    from condu_cli.registry.blobs.kept_files import TaskFiles
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.learning.planning import LearnRequest
    from condu_cli.workflows.learning.summaries import LearnSummary
    from condu_cli.workflows.learning.training import Machine


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(learn)


def learn(
    run: Run,
    task: options.TaskOption = None,
    data: options.LearnDataOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    class_names: ClassNamesOption = None,
    template: options.TemplateOption = None,
    shots: options.ShotsOption = None,
    limit: options.LimitOption = None,
    max_unreadable: options.MaxUnreadableOption = None,
    prototype_images: options.PrototypeImagesOption = None,
    workers: options.WorkersOption = None,
    quick: options.QuickOption = False,
    iterations: options.IterationsOption = None,
    epochs: options.EpochsOption = None,
    lr: options.LearningRateOption = None,
    batch_size: options.BatchSizeOption = None,
    accumulation: options.AccumulationOption = None,
    warmup: options.WarmupOption = None,
    weight_decay: options.WeightDecayOption = None,
    clip_norm: options.ClipNormOption = None,
    label_smoothing: options.LabelSmoothingOption = None,
    precision: options.PrecisionOption = None,
    image_size: options.ImageSizeOption = None,
    validate_every: options.ValidateEveryOption = None,
    validation_share: options.ValidationShareOption = None,
    keep: options.KeepOption = None,
    patience: options.PatienceOption = None,
    seed: options.SeedOption = None,
    device: DeviceOption = "auto",
    devices: options.DevicesOption = 1,
    save_every: options.SaveEveryOption = None,
    resume: options.ResumeOption = False,
    retrain: options.RetrainOption = False,
    base: options.NewBaseOption = None,
) -> "list[LearnSummary]":
    """Fine-tune an expert for a task and commit a new session.

    The new expert is unified with all others. Recipe options override the preset for the base
    model and the task; `--dry-run` prints the preset, and so does `condu tasks NAME` for a known
    task.

    If there is no registry yet, one is created with default options; `condu init` offers others.
    """
    if devices > 1 and not _is_launched():
        raise typer.Exit(_launch(devices, device))
    overrides = {
        "iterations": iterations,
        "epochs": epochs,
        "learning_rate": lr,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "warmup_iterations": warmup,
        "weight_decay": weight_decay,
        "clip_norm": clip_norm,
        "label_smoothing": label_smoothing,
        "precision": precision and precision.value,
        "image_size": image_size,
        "validate_every": validate_every,
        "validation_share": validation_share,
        "keep": keep and keep.value,
        "patience": patience,
    }
    pictures = {
        "data": data,
        "data_root": data_root,
        "class_names": class_names,
        "templates": tuple(template or ()),
        "shots": shots,
        "limit": limit,
        "max_unreadable": max_unreadable,
        "prototype_images": prototype_images,
        "workers": workers,
    }
    given = _Given(
        pictures, overrides, base, seed=seed, download=download, retrain=retrain, quick=quick
    )
    if download and run.settings.dry_run:
        _refuse_to_download()
    with _machine(device, save_every or 0) as machine:
        # Only process 0 of a team prints.
        run = run if machine.team.rank == 0 else replace(run, out=Output(Mode.SILENT))
        if resume:
            given.refuse_beside_resume()
            return _resume(run, task or [], machine)
        return _learn(run, given.requests(task or []), base, machine, retrain=retrain)


@dataclass(frozen=True)
class _Given:
    """The command line's options, grouped by subject; None and () mean not given."""

    pictures: dict[str, Any]
    overrides: dict[str, Any]
    base: str | None
    seed: int | None
    download: bool
    retrain: bool
    quick: bool

    def requests(self, tasks: Sequence[str]) -> "list[LearnRequest]":
        """One request per task."""
        from condu_cli.errors import UsageError
        from condu_cli.workflows.learning.planning import LearnRequest

        if not tasks:
            raise UsageError("the new task needs a name", reason="no-task-named")
        if len(set(tasks)) != len(tasks):
            raise UsageError("a task is named twice", reason="task-named-twice")
        single = [n for n in ("data", "class_names", "templates") if self.pictures[n]]
        if len(tasks) > 1 and single:
            option = (
                "--template" if single[0] == "templates" else "--" + single[0].replace("_", "-")
            )
            raise UsageError(
                f"{option} applies to a single task, but {len(tasks)} are named",
                reason="option-of-one-task",
            )
        overrides = {name: value for name, value in self.overrides.items() if value is not None}
        return [
            LearnRequest(
                task=task,
                **self.pictures,
                download=self.download,
                overrides=overrides,
                seed=self.seed or 0,
                quick=self.quick,
            )
            for task in tasks
        ]

    def refuse_beside_resume(self) -> None:
        """Refuse options that were fixed when the training began."""
        from condu_cli.errors import UsageError

        given = [self.seed, self.base, *self.pictures.values(), *self.overrides.values()]
        said = any(value not in (None, ()) for value in given)  # 0 says something too
        if self.retrain or self.download or self.quick or said:
            raise UsageError(
                "--resume continues with the original options; only --task, --device, "
                "--devices and --save-every may be given",
                reason="resume-with-options",
            )


def _refuse_to_download() -> NoReturn:
    """Refuse --download with --dry-run, which reads the pictures but changes nothing."""
    from condu_cli.errors import UsageError

    raise UsageError(
        "--dry-run reads the pictures, but downloads nothing", reason="dry-run-downloads-nothing"
    )


def _is_launched() -> bool:
    from condu_cli.train.launching import launched_processes

    return launched_processes() > 1


def _launch(devices: int, device: str) -> int:
    """Start this command again in several processes; return their exit code."""
    import sys

    from condu_cli.backbone.devices import check_devices
    from condu_cli.train.launching import launch, without_option

    kind = check_devices(device, devices)
    return launch(without_option(sys.argv[1:], "--devices"), devices, cpu=kind == "cpu")


@contextmanager
def _machine(device: str, save_every: int) -> "Iterator[Machine]":
    """Yield the device and the process team of this run; end the team afterwards."""
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.train.team import make_team
    from condu_cli.workflows.learning.training import Machine

    resolved = resolve_device(device)
    team = make_team(resolved)
    try:
        yield Machine(team.device or resolved, team, save_every)
    finally:
        team.end()


def _learn(
    run: Run,
    requests: "Sequence[LearnRequest]",
    base: str | None,
    machine: "Machine",
    *,
    retrain: bool,
) -> "list[LearnSummary]":
    """Check all tasks before training the first, then train them one by one."""
    from condu_cli.cli.hints.making import message_of
    from condu_cli.errors import ConduError, InterruptedByUserError, PartialError
    from condu_cli.workflows.learning.learner import Learner

    path = run.registry_path
    learners = [Learner(path, r, base, machine, retrain=retrain) for r in requests]
    for learner in learners:
        learner.draw()  # report mistakes in every task before loading the base model
    planned = [learner.plan() for learner in learners]
    if run.settings.dry_run:
        for one in planned:
            show_plan(run.out, one.estimate(), one.plan)
        return []
    summaries: list[LearnSummary] = []
    errors: list[ConduError] = []
    for one in planned:
        note_plan(run.out, one.plan)
        try:
            with run.out.progress(json_events=True) as on_progress:
                summary = one.run(on_progress)
        except InterruptedByUserError:
            raise
        except ConduError as exc:
            if len(planned) == 1 or machine.team.size > 1:  # a team fails as one
                raise
            run.out.warning(f"{one.plan.request.task} was not learned: {message_of(exc)}")
            errors.append(exc)
            continue
        if summary is not None:
            report_summary(run.out, summary)
            summaries.append(summary)
    if errors:
        raise PartialError(
            f"{len(errors)} of {len(planned)} tasks were not learned: {message_of(errors[0])}",
            reason=errors[0].reason,
            **{**errors[0].facts, "parameter": None},  # already part of the message
        )
    return summaries


def _resume(run: Run, tasks: Sequence[str], machine: "Machine") -> "list[LearnSummary]":
    from condu_cli.registry.manifest import short_id
    from condu_cli.workflows.learning.resuming import Resumed, resume

    registry = run.open_registry()
    if run.settings.dry_run:
        _show_kept(run.out, registry, tasks)
        return []

    def report(done: Resumed) -> None:
        if done.summary is not None:
            report_summary(run.out, done.summary)
            return
        session = done.session.id
        record = {"task": done.task, "session": session, "already": True}
        text = f"{done.task} was already committed, in session {short_id(session)}"
        run.out.document(record, lambda out: out.text(text))

    found: list[Resumed] = []
    every: list[str | None] = [*tasks] or [None]
    for task in every:
        with run.out.progress(json_events=True) as on_progress:
            found += resume(registry, task, on_progress, report, machine)
    return [done.summary for done in found if done.summary is not None]


def _show_kept(out: Output, registry: "Registry", tasks: Sequence[str]) -> None:
    from condu_cli.workflows.learning.resuming import latest_kept

    def records(files: "TaskFiles", paths: "Sequence[Path]") -> list[dict[str, Any]]:
        wanted = [path for path in paths if not tasks or files.task_of(path) in tasks]
        listed = [file for path in wanted if (file := files.open_if_there(path)) is not None]
        return [{"task": f.task, "bytes": f.size, "at": f.metadata.get("at")} for f in listed]

    found = latest_kept(registry)
    waiting = records(registry.waiting, found.experts)
    runs = records(registry.runs, found.runs)

    def human(o: Output) -> None:
        for verb, kept in (("commit", waiting), ("resume training", runs)):
            if kept or not (waiting or runs):
                o.text(f"Would {verb}: " + (", ".join(r["task"] for r in kept) or "none"))

    out.document({"dry_run": True, "waiting": waiting, "unfinished": runs}, human)
