"""`condu tasks`, `ls`, `evaluate`, `forget` and `rename`: tasks, known and learned."""

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.options import (
    ClassNamesOption,
    DataOption,
    DeviceOption,
    ExpertsOption,
    RouterName,
    RouterOption,
)
from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import percent, size

if TYPE_CHECKING:
    from condu_cli.workflows.evaluation import Evaluation
    from condu_cli.workflows.removing import Removal


class LabelSpace(str, Enum):
    """Which classes can be the answer."""

    own = "own"
    union = "union"


class Split(str, Enum):
    """Which pictures of a data set."""

    test = "test"
    train = "train"


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
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
    from condu_cli.workflows.removing import check_new_name, rename, require_head

    registry = run.open_registry()
    if run.settings.dry_run:
        check_new_name(require_head(registry), old, new)
        record = {"task": old, "to": new}
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
