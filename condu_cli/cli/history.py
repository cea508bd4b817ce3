"""`condu log`, `show`, `rollback`, `tag` and `diff`: sessions, and where HEAD stands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import percent, size, when

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Operation, Session, TaskEntry
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.comparing import TaskMoment


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(log)
    command(app)(show)
    command(app, changes=True, short_n=False)(rollback)
    command(app)(tag)
    command(app)(diff)


def log(
    run: Run,
    operations: Annotated[
        bool, typer.Option("--operations", help="List what moved HEAD, and when.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="List sessions of which only the record is left too.")
    ] = False,
) -> None:
    """List all sessions, newest first; the current one is HEAD."""
    registry = run.open_registry()
    if operations:
        _log_operations(run.out, registry.operations())
        return
    history = registry.history()
    kept = set(history.line(history.head))
    records = [
        {
            "session": session.id,
            "parent": session.parent,
            "kind": session.kind,
            "task": session.task,
            "created_at": session.created_at,
            "head": session.id == history.head,
            "current": session.id in kept,
            "tasks": len(session.entries),
            "tags": [name for name, target in history.tags.items() if target == session.id],
            "stored": _stored(history, session),
        }
        for session in history.sessions
        if everything or session.id not in history.collected
    ]
    run.out.document(records, lambda out: _print_log(out, records))


def _print_log(out: Output, records: list[dict[str, Any]]) -> None:
    from condu_cli.registry.manifest import short_id

    if not records:
        out.text("no sessions yet")
        out.hint("condu learn --task NAME --data DIR makes the first")
        return
    rows = [
        [
            short_id(r["session"]),
            _mark(r),
            r["kind"],
            r["task"],
            str(r["tasks"]),
            r["stored"],
            when(r["created_at"]),
        ]
        for r in records
    ]
    out.table(["session", "", "kind", "task", ">tasks", "stored", "created"], rows)


def _mark(record: dict[str, Any]) -> str:
    place = "HEAD" if record["head"] else ("" if record["current"] else "rolled back")
    return ", ".join([*([place] if place else []), *record["tags"]])


def _stored(history: "History", session: "Session") -> str:
    """How its experts lie on disk: in files, as a patch, or not any more."""
    if session.id in history.collected:
        return "removed"
    return "files" if history.has_files(session) else "patch"


def _log_operations(out: Output, operations: "list[Operation]") -> None:
    records = [
        {
            "operation": o.id,
            "at": o.at,
            "kind": o.kind,
            "from": o.from_session,
            "to": o.to_session,
            "command": o.command,
        }
        for o in operations
    ]

    def human(out: Output) -> None:
        rows = [[str(o.id), when(o.at), o.kind, *_moved(o), o.command] for o in operations]
        out.table([">#", "at", "kind", "HEAD from", "HEAD to", "command"], rows)

    out.document(records, human)


def _moved(operation: "Operation") -> tuple[str, str]:
    """Where HEAD went, blank for an operation that left it where it was."""
    if operation.kind in ("init", "gc", "tag", "untag"):
        return "", ""
    return _name(operation.from_session), _name(operation.to_session)


def show(
    run: Run,
    name: Annotated[
        str, typer.Argument(metavar="TASK|SESSION", help="A task of HEAD, or a session's id.")
    ] = "@",
) -> None:
    """Show a task or a session in full: recipe, classes, blobs, what became of it."""
    from dataclasses import asdict

    from condu_cli.workflows.comparing import task_history

    registry = run.open_registry()
    head = registry.head()
    known = {} if head is None else {entry.name: entry for entry in head.entries}
    if head is not None and name in known:
        entry = known[name]
        moments = task_history([head, *registry.ancestors(head)], entry)
        folder = registry.folder_of(entry)
        record = {
            **entry.to_json(),
            "folder": folder,
            "history": [asdict(moment) for moment in moments],
        }

        def human(out: Output) -> None:
            _print_task(out, entry, folder)
            _print_moments(out, moments)

        run.out.document(record, human)
        return
    session = _session_or_task_hint(registry, name)
    run.out.document(
        {"session": session.id, **session.manifest()}, lambda out: _print_session(out, session)
    )


def _session_or_task_hint(registry: "Registry", name: str) -> "Session":
    from condu_cli.errors import NotFoundError

    try:
        session = registry.resolve(name)
    except NotFoundError as exc:
        raise NotFoundError(
            f"there is no task and no session called '{name}'",
            "condu ls lists the tasks, condu log the sessions",
        ) from exc
    if session is None:
        raise NotFoundError("nothing has been learned yet", "condu learn --task NAME --data DIR")
    return session


def _print_moments(out: Output, moments: "list[TaskMoment]") -> None:
    rows = [
        [
            _name(m.session),
            f"{m.kind} {m.changed_by}",
            percent(m.drift),
            f"{m.rescaler:.4f}",
            percent(m.mask_density),
            when(m.created_at),
        ]
        for m in moments
    ]
    columns = ["session", "by", ">drift", ">rescaler", ">mask density", "created"]
    out.table(columns, rows, title="history, newest first")


def _print_task(out: Output, entry: "TaskEntry", folder: str | None) -> None:
    training = dict(entry.expert.training)
    recipe = training.get("recipe", {})
    lines = {
        "task": entry.name,
        "learned in": _name(entry.learned_in),
        "classes": f"{len(entry.expert.classes)}: {_some(entry.expert.classes)}",
        "templates": _some(entry.expert.templates),
        "pictures": _pictures(training, folder),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
        "final loss": _loss(training.get("final_loss")),
        "rescaler": f"{entry.rescaler:.6f}",
        "mask density": percent(entry.mask_density),
        "L1 norm of delta": f"{entry.l1_norm:.6g}",
        "drift": percent(entry.drift),
        "mask blob": entry.part,
        "prototype blob": entry.expert.prototypes,
    }
    for key, value in lines.items():
        out.text(f"{key:17} {value}")


def _pictures(training: dict[str, Any], folder: str | None) -> str:
    count = training.get("train_images", 0)
    where = folder or training.get("data") or "a folder that this machine does not know"
    learned = f"{count} from {where} ({training.get('split', '?')})" if count else "none"
    imported = training.get("imported_from")
    return f"{learned}; imported from {imported}" if imported else learned


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_session(out: Output, session: "Session") -> None:
    lines = {
        "session": session.id,
        "parent": session.parent or "none",
        "kind": f"{session.kind} {session.task}",
        "created": when(session.created_at),
        "unified delta": session.shared or "none",
        "tasks": ", ".join(entry.name for entry in session.entries) or "none",
    }
    for key, value in lines.items():
        out.text(f"{key:14} {value}")


def _some(values: tuple[str, ...], limit: int = 5) -> str:
    rest = f", … ({len(values) - limit} more)" if len(values) > limit else ""
    return ", ".join(values[:limit]) + rest


def rollback(
    run: Run,
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION", help="Where to go: an id, a tag, or @~N.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("-n", "--steps", metavar="N", min=1, help="Go back N sessions. Default: 1."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last rollback.")] = False,
) -> None:
    """Move HEAD to an older session, or undo that. Nothing is deleted."""
    from condu_cli.errors import UsageError
    from condu_cli.workflows.moving_head import roll_back, undo_rollback

    if sum((session is not None, steps is not None, undo)) > 1:
        raise UsageError("SESSION, -n and --undo exclude each other", "Choose one of them")
    registry = run.open_registry()
    before = registry.head()
    if run.settings.dry_run:
        target = registry.undo_target() if undo else _target(registry, session, steps)
        record = {"dry_run": True, "to": None if target is None else target.id, "undo": undo}
        run.out.document(record, lambda out: out.text(f"Would move HEAD to {_describe(target)}"))
        return
    if undo:
        operation = undo_rollback(registry, "rollback --undo")
    else:
        operation = roll_back(registry, lambda r: _target(r, session, steps), "rollback")
    record = {
        "operation": operation.kind,
        "from": operation.from_session,
        "to": operation.to_session,
    }
    after = registry.head()

    def human(out: Output) -> None:
        out.text(f"HEAD moved from {_describe(before)} to {_describe(after)}")
        out.hint(
            "condu log lists all sessions; condu rollback SESSION goes to any of them"
            if undo
            else "condu rollback --undo brings it back"
        )

    run.out.document(record, human)


def _target(registry: "Registry", session: str | None, steps: int | None) -> "Session | None":
    return registry.rollback_target(steps or 1) if session is None else registry.resolve(session)


def tag(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The tag.", show_default=False)
    ] = None,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="An id, a tag, or @~N.")] = "@",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag.")] = False,
) -> None:
    """Name a session, so that it is found again and never collected. Without NAME: list tags."""
    from condu_cli.errors import UsageError

    registry = run.open_registry()
    if name is None:
        if delete:
            raise UsageError("--delete needs the NAME of a tag", "condu tag lists them")
        _list_tags(run.out, registry)
        return
    if delete:
        was = registry.remove_tag(name, f"tag --delete {name}")
        text = f"Removed tag {name}; it was at session {_name(was)}"
        record: dict[str, Any] = {"tag": name, "session": was, "deleted": True}
    else:
        target = registry.resolve(session)
        if target is None:
            raise UsageError("the empty state before the first session cannot be tagged")
        registry.tag(name, target, f"tag {name} {_name(target.id)}")
        text = f"Tagged {_describe(target)} as {name}"
        record = {"tag": name, "session": target.id, "deleted": False}

    def human(out: Output) -> None:
        out.text(text)
        out.hint(f"condu tag {name} {_name(was)}" if delete else f"condu tag --delete {name}")

    run.out.document(record, human)


def _list_tags(out: Output, registry: "Registry") -> None:
    tags = registry.tags()
    records = [{"tag": name, "session": session} for name, session in tags.items()]

    def human(out: Output) -> None:
        if not tags:
            out.text("no tags yet")
            out.hint("condu tag NAME [SESSION] makes one")
            return
        rows = [[name, _describe(registry.session(session))] for name, session in tags.items()]
        out.table(["tag", "session"], rows)

    out.document(records, human)


def diff(
    run: Run,
    before: Annotated[str, typer.Argument(metavar="SESSION", help="An id, a tag, or @~N.")] = "@~1",
    after: Annotated[str, typer.Argument(metavar="SESSION")] = "@",
) -> None:
    """Compare two sessions: tasks, how far each expert moved, mask overlap, storage."""
    from dataclasses import asdict

    from condu_cli.workflows.comparing import compare

    registry = run.open_registry()
    one, other = registry.resolve(before), registry.resolve(after)
    found = compare(registry, one, other)

    def human(out: Output) -> None:
        rows = [
            [
                t.after or t.before or "",
                f"renamed from {t.before}" if t.change == "renamed" else t.change,
                percent(t.mask_overlap),
                percent(t.drift),
            ]
            for t in found.tasks
        ]
        title = f"{_describe(one)} -> {_describe(other)}"
        out.table(["task", "change", ">mask overlap", ">drift"], rows, title=title)
        out.text(
            f"blobs of the one {size(found.before_bytes)}, of the other "
            f"{size(found.after_bytes)}, of both {size(found.shared_bytes)}"
        )

    run.out.document(asdict(found), human)


def _name(session_id: str | None) -> str:
    from condu_cli.registry.manifest import short_id

    return short_id(session_id) if session_id else "empty"


def _describe(session: "Session | None") -> str:
    if session is None:
        return "the empty registry"
    tasks = ", ".join(entry.name for entry in session.entries) or "no tasks"
    return f"{_name(session.id)} ({tasks})"
