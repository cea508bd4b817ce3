"""`condu learn`: a new task, or one that was trained and is not committed yet."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.options import ClassNamesOption, DataOption, DeviceOption
from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import duration, percent, plural

if TYPE_CHECKING:
    from condu_cli.workflows.learning import LearnPlan, LearnSummary


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(learn)


def learn(
    run: Run,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the new task.", show_default=False),
    ] = None,
    data: DataOption = None,
    class_names: ClassNamesOption = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Prompt template, {} stands for the class; may be repeated. The first trains.",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Train on N pictures per class.", show_default=False),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Training steps. Default: the base model's.",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            help="Peak learning rate. Default: the base model's.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Pictures per step.", show_default=False),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=16,
            help="Training resolution, for base models that accept more than one.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    device: DeviceOption = "auto",
    base: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Base model of a registry that does not exist yet. Default: mini.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Commit trained experts that were kept because a commit failed."
        ),
    ] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train anew although a trained expert is kept.")
    ] = False,
) -> "LearnSummary | None":
    """Fine-tune an expert for a task, unify it with all others, commit a new session."""
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.errors import UsageError
    from condu_cli.workflows.learning import Learner, LearnRequest

    if resume:
        given = (data, class_names, template, shots, iterations, lr, batch_size, image_size, base)
        if retrain or any(value is not None for value in given):
            raise UsageError(
                "--resume commits what was trained already; only --task goes with it",
                "Leave the other options out",
            )
        _resume(run, task)
        return None
    if task is None:
        raise UsageError("the new task needs a name", "condu learn --task NAME --data DIR")
    request = LearnRequest(
        task=task,
        data=data,
        class_names=class_names,
        templates=tuple(template or ()),
        shots=shots,
        iterations=iterations,
        learning_rate=lr,
        batch_size=batch_size,
        image_size=image_size,
        seed=seed,
        device=resolve_device(device),
        base=base,
        retrain=retrain,
    )
    learner = Learner(run.registry_path, request)
    plan = learner.plan()
    if run.settings.dry_run:
        run.out.document(_plan_record(plan), lambda out: _print_plan(out, plan))
        return None
    _note_plan(run.out, plan)
    with run.out.progress(json_events=True) as on_progress:
        summary = learner.run(plan, on_progress)
    _report(run.out, summary)
    return summary


def _report(out: Output, summary: "LearnSummary") -> None:
    for warning in summary.warnings:
        out.warning(warning)
    out.document(asdict(summary), lambda o: _print_summary(o, summary))


def _resume(run: Run, task: str | None) -> None:
    from condu_cli.registry.manifest import short_id
    from condu_cli.workflows.learning import Resumed, resume

    registry = run.open_registry()
    if run.settings.dry_run:
        waiting = [w for w in registry.waiting.all() if task in (None, w.task)]
        records = [{"task": w.task, "bytes": w.size, "at": w.record.get("at")} for w in waiting]
        run.out.document(
            {"dry_run": True, "waiting": records},
            lambda out: out.text("Would commit: " + (", ".join(w.task for w in waiting) or "none")),
        )
        return

    def report(done: Resumed) -> None:
        if done.summary is not None:
            _report(run.out, done.summary)
            return
        session = done.session.id
        record = {"task": done.task, "session": session, "already": True}
        text = f"{done.task} was committed already, in session {short_id(session)}"
        run.out.document(record, lambda out: out.text(text))

    with run.out.progress(json_events=True) as on_progress:
        resume(registry, task, on_progress, report)


def _note_plan(out: Output, plan: "LearnPlan") -> None:
    recipe, data = plan.recipe, plan.data
    out.note(
        f"Learning {plan.request.task} from {plural(len(data.train), 'picture')} of "
        f"{plural(len(data.class_names), 'class').replace('classs', 'classes')}: "
        f"base {plan.base_id}, {recipe.iterations} iterations of {recipe.batch_size} at "
        f"{recipe.image_size} px, learning rate {recipe.learning_rate:g}, seed {recipe.seed}"
    )


def _print_plan(out: Output, plan: "LearnPlan") -> None:
    for name, value in _plan_record(plan).items():
        out.text(f"{name:18} {value}")
    out.note("Nothing was trained or written (--dry-run).")


def _plan_record(plan: "LearnPlan") -> dict[str, Any]:
    return {
        "dry_run": True,
        "task": plan.request.task,
        "base": plan.base_id,
        "data": str(plan.data_root),
        "split": plan.data.split,
        "train_images": len(plan.data.train),
        "test_images": len(plan.data.test),
        "classes": len(plan.data.class_names),
        "templates": list(plan.templates),
        "recipe": plan.recipe.as_record(),
        "creates_registry": plan.creates_registry,
    }


def _print_summary(out: Output, summary: "LearnSummary") -> None:
    from condu_cli.registry.manifest import short_id

    tail = summary.unify_seconds + summary.commit_seconds
    share = (
        f" (unify and commit: {percent(tail / summary.train_seconds)} of training)"
        if summary.train_seconds
        else ""
    )
    loss = "not known" if summary.final_loss is None else f"{summary.final_loss:.3f}"
    out.text(
        f"Learned {summary.task} in session {short_id(summary.session)}: loss "
        f"{loss} after {summary.iterations} iterations; the registry holds "
        f"{plural(summary.tasks, 'task')}"
    )
    out.text(
        f"training {duration(summary.train_seconds)}, prototypes "
        f"{duration(summary.prototype_seconds)}, unify {duration(summary.unify_seconds)}, commit "
        f"{duration(summary.commit_seconds)}{share}, keeping the expert "
        f"{duration(summary.keep_seconds)}, packing history {duration(summary.pack_seconds)}"
    )
    out.hint(f"condu evaluate --task {summary.task} measures it; condu rollback takes it back")
