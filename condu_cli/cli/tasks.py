"""`condu tasks`, `learn`, `ls`, `evaluate`, `forget` and `rename`: tasks, known and learned."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import duration, percent, plural, size

if TYPE_CHECKING:
    from condu_cli.workflows.evaluation import Evaluation
    from condu_cli.workflows.learning import LearnPlan, LearnSummary
    from condu_cli.workflows.removing import Removal


class LabelSpace(str, Enum):
    """Which classes can be the answer."""

    own = "own"
    union = "union"


class Split(str, Enum):
    """Which pictures of a data set."""

    test = "test"
    train = "train"


class RouterName(str, Enum):
    """How tasks are chosen when none is named."""

    pooled = "pooled"
    paper = "paper"


RouterOption = Annotated[RouterName, typer.Option(help="How tasks are chosen when none is named.")]
ExpertsOption = Annotated[
    int, typer.Option("--experts", metavar="K", min=1, help="Ask the K best tasks' experts.")
]
DeviceOption = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or mps.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of pictures: train/CLASS and test/CLASS, or CLASS alone.",
        show_default=False,
    ),
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Class names in words: JSON (folder to name, or a list) or one per line. "
        "Default: classes.json in DIR, else the folders' names.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(learn)
    command(app)(evaluate)
    command(app)(ls)
    command(app)(tasks)
    command(app, changes=True)(forget)
    command(app, changes=True)(rename)


def tasks(run: Run) -> None:
    """List the tasks that condu knows by name, and where their pictures would come from."""
    from condu_cli.data.tasks import DATA_VARIABLE, data_root, known_tasks

    root = data_root()
    records: list[dict[str, Any]] = []
    for task in known_tasks().values():
        folder = None if root is None or not (root / task.name).is_dir() else root / task.name
        source = "embedded" if task.embedded else (str(folder) if folder else None)
        records.append(
            {
                "task": task.name,
                "title": task.title,
                "classes": task.classes,
                "templates": len(task.templates),
                "template": task.templates[0],
                "data": source,
            }
        )

    def human(out: Output) -> None:
        rows = [
            [r["task"], r["title"], str(r["classes"]), r["template"], r["data"] or "--data DIR"]
            for r in records
        ]
        out.table(["task", "title", ">classes", "first template", "pictures"], rows)
        where = f"below {root}" if root else f"in one folder per task; name it in {DATA_VARIABLE}"
        out.note(f"Public data sets are looked for {where}.")
        out.hint("any other name works too: condu learn --task NAME --data DIR")

    run.out.document(records, human)


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
    from condu_cli.workflows.learning import resume

    registry = run.open_registry()
    if run.settings.dry_run:
        waiting = registry.waiting.all() if task is None else registry.waiting.of_task(task)
        records = [{"task": w.task, "bytes": w.size, "at": w.record.get("at")} for w in waiting]
        run.out.document(
            {"dry_run": True, "waiting": records},
            lambda out: out.text("Would commit: " + (", ".join(w.task for w in waiting) or "none")),
        )
        return
    with run.out.progress(json_events=True) as on_progress:
        summaries = resume(registry, task, on_progress)
    for summary in summaries:
        _report(run.out, summary)
    if not summaries:
        run.out.note("The kept experts were committed already.")


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
    loss = "not known" if summary.final_loss is None else f"{summary.final_loss:.3f}"
    out.text(
        f"Learned {summary.task} in session {short_id(summary.session)}: loss "
        f"{loss} after {summary.iterations} iterations; the registry holds "
        f"{plural(summary.tasks, 'task')}"
    )
    out.text(
        f"training {duration(summary.train_seconds)}, prototypes "
        f"{duration(summary.prototype_seconds)}, unify {duration(summary.unify_seconds)}, commit "
        f"{duration(summary.commit_seconds)} (unify and commit: "
        f"{percent(tail / max(summary.train_seconds, 1e-9))} of training), keeping the expert "
        f"{duration(summary.keep_seconds)}, packing history {duration(summary.pack_seconds)}"
    )
    out.hint(f"condu evaluate --task {summary.task} measures it; condu rollback takes it back")


def ls(run: Run) -> None:
    """List the tasks of the current session."""
    from condu_cli.registry.manifest import short_id

    registry = run.open_registry()
    head = registry.head()
    entries = () if head is None else head.entries
    records = [
        {
            "task": entry.name,
            "classes": len(entry.expert.classes),
            "session": entry.learned_in,
            "rescaler": entry.rescaler,
            "mask_density": entry.mask_density,
            "drift": entry.drift,
            "bytes": registry.blobs.size(entry.part) + registry.blobs.size(entry.expert.prototypes),
        }
        for entry in entries
    ]

    def human(out: Output) -> None:
        if not records:
            out.text("no tasks yet")
            out.hint("condu learn --task NAME --data DIR teaches one")
            return
        rows = [
            [
                str(r["task"]),
                str(r["classes"]),
                short_id(str(r["session"])),
                f"{r['rescaler']:.3f}",
                percent(r["mask_density"]),  # type: ignore[arg-type]
                percent(r["drift"]),  # type: ignore[arg-type]
                size(r["bytes"]),  # type: ignore[arg-type]
            ]
            for r in records
        ]
        names = ["task", ">classes", "learned in", ">rescaler", ">mask density", ">drift", ">size"]
        out.table(names, rows)

    run.out.document(records, human)


def forget(
    run: Run,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task to leave out.")],
) -> None:
    """Commit a session without a task; the others are unified again from what is stored."""
    from condu_cli.workflows.removing import forget, require_head

    registry = run.open_registry()
    if run.settings.dry_run:
        entry = require_head(registry).entry(task)
        _print_plan_of(run.out, {"task": entry.name}, f"Would forget {entry.name}")
        return
    done = forget(registry, task, f"forget {task}")
    _report_session(run.out, done, f"Forgot {task}")


def rename(
    run: Run,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The task's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> None:
    """Commit a session in which a task has another name."""
    from condu_cli.registry.names import validate_task_name
    from condu_cli.workflows.removing import rename, require_head

    registry = run.open_registry()
    if run.settings.dry_run:
        require_head(registry).entry(old)
        record = {"task": old, "to": validate_task_name(new)}
        _print_plan_of(run.out, record, f"Would rename {old} to {new}")
        return
    done = rename(registry, old, new, f"rename {old} {new}")
    _report_session(run.out, done, f"Renamed {old} to {new}")


def _print_plan_of(out: Output, record: dict[str, Any], text: str) -> None:
    out.document({"dry_run": True, **record}, lambda o: o.text(text))


def _report_session(out: Output, done: "Removal", text: str) -> None:
    from condu_cli.registry.manifest import short_id

    for warning in done.warnings:
        out.warning(warning)
    session = done.session
    moved = {entry.name: entry.drift for entry in session.entries}
    record = {
        "session": session.id,
        "kind": session.kind,
        "task": session.task,
        "parent": session.parent,
        "drift": moved,
    }

    def human(o: Output) -> None:
        o.text(f"{text} in session {short_id(session.id)}")
        largest = max((drift or 0.0 for drift in moved.values()), default=0.0)
        if largest:
            o.text(f"the other experts moved by at most {percent(largest)}")
        o.hint("condu rollback takes it back")

    out.document(record, human)


def evaluate(
    run: Run,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Task; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    data: DataOption = None,
    class_names: ClassNamesOption = None,
    split: Annotated[Split, typer.Option(help="Which pictures.")] = Split.test,
    label_space: Annotated[
        LabelSpace,
        typer.Option(help="own: the task is named. union: all classes of all tasks compete."),
    ] = LabelSpace.own,
    experts: ExpertsOption = 1,
    router: RouterOption = RouterName.pooled,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Measure the base model on the same pictures too.")
    ] = False,
    device: DeviceOption = "auto",
) -> "list[Evaluation]":
    """Measure the accuracy of learned tasks on labelled pictures."""
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.errors import UsageError
    from condu_cli.workflows.evaluation import EvaluateRequest
    from condu_cli.workflows.evaluation import evaluate as evaluate_task
    from condu_cli.workflows.workspace import Workspace

    workspace = Workspace(run.open_registry(), resolve_device(device))
    session = workspace.head()
    names = task or [entry.name for entry in session.entries]
    if data is not None and len(names) > 1:
        raise UsageError("--data belongs to one task", "Name it: --task NAME --data DIR")
    for name in names:
        session.entry(name)
    results = []
    for name in names:
        request = EvaluateRequest(
            task=name,
            data=data,
            class_names=class_names,
            split=split.value,
            label_space=label_space.value,
            experts=experts,
            router=router.value,
            zero_shot=zero_shot,
        )
        with run.out.progress() as on_progress:
            results.append(evaluate_task(workspace, session, request, on_progress))
        if run.settings.json:
            run.out.document(asdict(results[-1]), lambda _: None)
    if not run.settings.json:
        _print_evaluations(run.out, results)
    return results


def _print_evaluations(out: Output, results: "list[Evaluation]") -> None:
    columns = ["task", ">accuracy", ">pictures", "label space", ">experts"]
    extra = [name for name in ("zero_shot", "routed") if getattr(results[0], name) is not None]
    titles = {"zero_shot": ">zero-shot", "routed": ">routed right"}
    rows = [
        [r.task, percent(r.accuracy), str(r.n), r.label_space, str(r.experts)]
        + [percent(getattr(r, name)) for name in extra]
        for r in results
    ]
    out.table([*columns, *(titles[name] for name in extra)], rows)
