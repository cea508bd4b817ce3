"""`condu tasks`, `ls`, `evaluate`, `forget` and `rename`: known tasks and learned ones."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.options import (
    ClassNamesOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    ExpertsOption,
    RouterName,
    RouterOption,
    RuleOption,
)
from condu_cli.cli.writing.codec_words import figure, key_name, keys_of
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import omitted_text, percent, size, unreadable_text

if TYPE_CHECKING:
    from condu_cli.data.sources.known_tasks import KnownTask
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.answering.evaluation import Evaluation
    from condu_cli.workflows.sessions.committing import Commit


MATRIX_COLUMNS = 12
"""A wider matrix of tasks does not fit on a screen."""
CONFUSIONS = 3
"""How many confusions between tasks `evaluate` names."""


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


def tasks(
    run: Run,
    name: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="Show one task in detail.", show_default=False),
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """List the tasks known by name, and where their pictures are."""
    from condu_cli.data.sources.known_tasks import DATA_VARIABLE, known_tasks
    from condu_cli.data.sources.known_tasks import data_root as default_root
    from condu_cli.errors import NotFoundError

    known = known_tasks()
    root = data_root if data_root is not None else default_root()
    if name is not None:
        if name not in known:
            raise NotFoundError(
                f"'{name}' is not a known task",
                reason="not-a-known-task",
                task=name,
                known=list(known),
            )
        record = {**_task_record(known[name], root), **_task_details(known[name])}
        run.out.document(record, lambda out: _print_task(out, record))
        return
    records = [_task_record(task, root) for task in known.values()]

    def human(out: Output) -> None:
        columns = ["task", "title", ">classes", ">pictures", ">size", "licence", "folder", "state"]
        out.table(columns, [_task_row(record) for record in records])
        where = f"below {root}" if root else f"below --data-root DIR or {DATA_VARIABLE}"
        out.note(f"Public data sets are looked for {where}.")
        out.hint("condu tasks TASK says which files go where; for any other task use --data DIR")

    run.out.document(records, human)


def _task_record(task: "KnownTask", root: Path | None) -> dict[str, Any]:
    """Return a task's record: `path` is where its data is looked for, `data` where it was found."""
    from condu_cli.data.sources.known_tasks import plain_folder, where

    record: dict[str, Any] = {
        "task": task.name,
        "title": task.title,
        "classes": task.classes,
        "templates": len(task.templates),
        "template": task.templates[0],
        "data": None,
        "images": task.images,
        "bytes": None,
        "licence": task.licence,
        "url": None,
        "folder": None,
        "path": None,
        "state": "not there",
        "downloadable": False,
        "needs": [],
    }
    public = task.public
    if public is not None:
        root_text = "DIR" if root is None else str(root)
        record |= {
            "bytes": public.bytes,
            "url": public.url,
            "folder": public.folder,
            "downloadable": public.downloadable,
            "needs": [text.replace("{root}", root_text) for text in public.needs],
        }
        if root is not None:
            place = where(task.name, root)
            record |= {"path": str(place.path), "state": place.state.value}
    plain = None if root is None else plain_folder(task.name, root)
    if record["state"] == "there":
        record["data"] = record["path"]
    elif plain is not None:
        record |= {"data": str(plain), "path": str(plain), "folder": plain.name, "state": "there"}
    elif task.embedded:
        record |= {"data": "embedded", "state": "embedded"}
    return record


def _task_row(record: dict[str, Any]) -> list[str]:
    return [
        record["task"],
        record["title"],
        str(record["classes"]),
        f"{record['images']:,}",
        size(record["bytes"]) if record["bytes"] else "-",
        record["licence"],
        record["folder"] or "-",
        record["state"],
    ]


def _task_details(task: "KnownTask") -> dict[str, Any]:
    """Return what `tasks TASK` shows in addition to the list."""
    from condu_cli.train.presets import presets_of

    public = task.public
    names = None if public is None else public.class_names
    recipe = None if public is None else public.paper_recipe
    return {
        "all_templates": list(task.templates),
        "class_names": None if names is None else list(names),
        "split": None if public is None else public.split,
        "train_images": None if public is None else public.train_images,
        "test_images": None if public is None else public.test_images,
        "torchvision": None if public is None else public.torchvision,
        "paper_recipe": None if recipe is None else asdict(recipe),
        "presets": [asdict(preset) for preset in presets_of(task.name, task.classes)],
    }


def _print_task(out: Output, record: dict[str, Any]) -> None:
    lines = [
        ("task", record["task"]),
        ("title", record["title"]),
        ("classes", str(record["classes"])),
        ("pictures", f"{record['images']:,}"),
        ("licence", record["licence"]),
    ]
    if record["url"]:
        lines += _public_lines(record)
    lines += [("where", record["path"] or record["folder"] or "-"), ("state", record["state"])]
    lines += [("put", text) for text in record["needs"]]
    lines += [("template", text) for text in record["all_templates"]]
    lines += [("recipe", _preset_line(preset)) for preset in record["presets"]]
    if record["class_names"]:
        lines.append(("class names", ", ".join(record["class_names"])))
    for label, text in lines:
        out.text(f"{label:<14}{text}")
    if record["downloadable"] and record["state"] == "not there":
        out.hint(
            "condu learn --task {task!q} --data-root DIR --download{here} fetches it",
            task=record["task"],
        )


def _preset_line(preset: dict[str, Any]) -> str:
    values = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in preset["values"].items()
    )
    return f"{preset['name']}: {values}".replace("_", " ")


def _public_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    used = f"{record['train_images']:,} to train, {record['test_images']:,} to test"
    download = "by condu" if record["downloadable"] else "by hand"
    lines = [
        ("home", record["url"]),
        ("download", f"about {size(record['bytes'])}, {download}"),
        ("split", f"{record['split']}: {used}"),
    ]
    recipe = record["paper_recipe"]
    if recipe:
        rates = (
            f"{recipe['lr_full']:g} full, {recipe['lr_lora']:g} LoRA, "
            f"{recipe['lr_lora_5shot']:g} LoRA with 5 shots"
        )
        lines.append(("paper's rates", rates))
    return lines


def ls(run: Run) -> None:
    """List the tasks of the current session."""
    from condu_cli.registry.manifest import short_id

    registry = run.open_registry()
    head = registry.head()
    entries = () if head is None else head.entries
    keys = keys_of((entry.record for entry in entries), listed=True)
    records = [
        {
            "task": entry.name,
            "classes": len(entry.expert.classes),
            "session": entry.learned_in,
            **{key: entry.record.get(key) for key in keys},
            "drift": entry.drift,
            "bytes": sum(registry.blobs.size(b) for b in (entry.part, *entry.expert.blob_kinds())),
        }
        for entry in entries
    ]

    def human(out: Output) -> None:
        _note_kept(out, registry)
        if not records:
            out.text("no tasks yet")
            out.hint("condu learn --task NAME --data DIR{here} teaches one")
            return
        rows = [
            [
                str(r["task"]),
                str(r["classes"]),
                short_id(str(r["session"])),
                *(figure(r, key) for key in keys),
                percent(r["drift"]),  # type: ignore[arg-type]
                size(r["bytes"]),  # type: ignore[arg-type]
            ]
            for r in records
        ]
        figures = [f">{key_name(key)}" for key in keys]
        names = ["task", ">classes", "learned in", *figures, ">drift", ">size"]
        out.table(names, rows)

    run.out.document(records, human)


def _note_kept(out: Output, registry: "Registry") -> None:
    """Mention trained experts that are not committed yet, and unfinished trainings."""
    for files, state in (
        (registry.waiting, "trained, not committed"),
        (registry.runs, "unfinished"),
    ):
        names = sorted({files.task_of(path) for path in files.paths()})
        if names:
            out.hint(
                "{state}: {names}; condu learn --resume{here} continues", state=state, names=names
            )


def forget(
    run: Run,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task to forget.")],
) -> None:
    """Commit a session without one of the tasks.

    The other experts are unified again, which may change them slightly. Older sessions keep the
    task: `condu rollback` brings it back.
    """
    from condu_cli.workflows.sessions.current import require_head
    from condu_cli.workflows.sessions.forgetting import forget

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
    """Rename a task, as a new session."""
    from condu_cli.workflows.sessions.current import require_head
    from condu_cli.workflows.sessions.forgetting import check_new_name, rename

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


def _report_session(out: Output, done: "Commit", text: str) -> None:
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
        o.hint("condu rollback{here} undoes it")

    out.document(record, human)


def evaluate(
    run: Run,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="The task; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    class_names: ClassNamesOption = None,
    split: Annotated[Split, typer.Option(help="Which pictures to measure.")] = Split.test,
    label_space: Annotated[
        LabelSpace,
        typer.Option(help="own: the task's classes. union: the classes of all tasks compete."),
    ] = LabelSpace.own,
    experts: ExpertsOption = 1,
    router: RouterOption = RouterName.pooled,
    rule: RuleOption = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Also measure the base model.")
    ] = False,
    device: DeviceOption = "auto",
) -> "list[Evaluation]":
    """Measure the accuracy of learned tasks on labelled pictures."""
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.errors import UsageError
    from condu_cli.workflows.answering.evaluation import EvaluateRequest
    from condu_cli.workflows.answering.evaluation import evaluate as evaluate_task
    from condu_cli.workflows.opening.workspace import Workspace

    workspace = Workspace(run.open_registry(), resolve_device(device))
    session = workspace.head()
    names = task or [entry.name for entry in session.entries]
    if data is not None and len(names) > 1:
        raise UsageError("--data applies to a single task", reason="data-of-one-task")
    for name in names:
        session.entry(name)
    results = []
    for name in names:
        request = EvaluateRequest(
            task=name,
            data=data,
            data_root=data_root,
            download=download,
            class_names=class_names,
            split=split.value,
            label_space=label_space.value,
            experts=experts,
            router=router.value,
            rule=None if rule is None else rule.value,
            zero_shot=zero_shot,
        )
        with run.out.progress() as on_progress:
            results.append(evaluate_task(workspace, session, request, on_progress))
        if results[-1].unreadable:
            run.out.warning(unreadable_text(results[-1].unreadable))
        if results[-1].omitted:
            run.out.warning(omitted_text(results[-1].omitted))
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
    _print_routes({r.task: r.routed_to for r in results if r.routed_to is not None}, out)


def _print_routes(routes: dict[str, dict[str, int]], out: Output) -> None:
    """Print which task took whose pictures: a matrix for several tasks, and the main confusions."""
    takers = sorted({taker for taken in routes.values() for taker in taken})
    if len(routes) > 1 and len(takers) <= MATRIX_COLUMNS:
        rows = [[task, *(str(taken.get(t, 0)) for t in takers)] for task, taken in routes.items()]
        out.table(["routed to", *(f">{taker}" for taker in takers)], rows)
    confused = [
        (count, f"{task} to {taker} {count} of {sum(taken.values())}")
        for task, taken in routes.items()
        for taker, count in taken.items()
        if taker != task
    ]
    if confused:
        worst = sorted(confused, key=lambda one: -one[0])[:CONFUSIONS]
        out.text("routed to another task: " + ", ".join(text for _, text in worst))
