"""`condu log`, `show` and `rollback`: sessions, and where HEAD stands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.output import Output
from condu_cli.cli.run import Run, command
from condu_cli.cli.wording import percent, when

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Operation, Session, TaskEntry
    from condu_cli.registry.repository import Registry


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(log)
    command(app)(show)
    command(app, changes=True, short_n=False)(rollback)


def log(
    run: Run,
    operations: Annotated[
        bool, typer.Option("--operations", help="List what moved HEAD, and when.")
    ] = False,
) -> None:
    """List all sessions, newest first; the current one is HEAD."""
    registry = run.open_registry()
    if operations:
        _log_operations(run.out, registry.operations())
        return
    head = registry.head()
    kept = set() if head is None else {head.id, *(s.id for s in registry.ancestors(head))}
    records = [
        {
            "session": session.id,
            "parent": session.parent,
            "kind": session.kind,
            "task": session.task,
            "created_at": session.created_at,
            "head": head is not None and session.id == head.id,
            "current": session.id in kept,
            "tasks": len(session.entries),
        }
        for session in registry.sessions()
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
            "HEAD" if r["head"] else ("" if r["current"] else "rolled back"),
            r["kind"],
            r["task"],
            str(r["tasks"]),
            when(r["created_at"]),
        ]
        for r in records
    ]
    out.table(["session", "", "kind", "task", ">tasks", "created"], rows)


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
        rows = [
            [str(o.id), when(o.at), o.kind, _name(o.from_session), _name(o.to_session), o.command]
            for o in operations
        ]
        out.table([">#", "at", "kind", "HEAD from", "HEAD to", "command"], rows)

    out.document(records, human)


def show(
    run: Run,
    name: Annotated[
        str, typer.Argument(metavar="TASK|SESSION", help="A task of HEAD, or a session's id.")
    ] = "@",
) -> None:
    """Show a task or a session in full: recipe, classes, blobs."""
    registry = run.open_registry()
    head = registry.head()
    known = {} if head is None else {entry.name: entry for entry in head.entries}
    if name in known:
        entry = known[name]
        run.out.document(entry.to_json(), lambda out: _print_task(out, entry))
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


def _print_task(out: Output, entry: "TaskEntry") -> None:
    training = entry.expert.training
    recipe = training.get("recipe", {})
    lines = {
        "task": entry.name,
        "learned in": _name(entry.learned_in),
        "classes": f"{len(entry.expert.classes)}: {_some(entry.expert.classes)}",
        "templates": _some(entry.expert.templates),
        "pictures": f"{training.get('train_images', '?')} from {training.get('data', '?')} "
        f"({training.get('split', '?')})",
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
        "final loss": f"{training.get('final_loss', float('nan')):.4f}",
        "rescaler": f"{entry.rescaler:.6f}",
        "mask density": percent(entry.mask_density),
        "L1 norm of delta": f"{entry.l1_norm:.6g}",
        "drift": percent(entry.drift),
        "mask blob": entry.part,
        "prototype blob": entry.expert.prototypes,
    }
    for key, value in lines.items():
        out.text(f"{key:17} {value}")


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
        typer.Argument(metavar="SESSION", help="Where to go: an id, or @~N.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("-n", "--steps", metavar="N", min=1, help="Go back N sessions. Default: 1."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last rollback.")] = False,
) -> None:
    """Move HEAD to an older session, or undo that. Nothing is deleted."""
    from condu_cli.errors import UsageError

    if sum((session is not None, steps is not None, undo)) > 1:
        raise UsageError("SESSION, -n and --undo exclude each other", "Choose one of them")
    registry = run.open_registry()
    before = registry.head()
    if run.settings.dry_run:
        target = _undo_target(registry) if undo else _target(registry, session, steps)
        record = {"dry_run": True, "to": None if target is None else target.id, "undo": undo}
        run.out.document(record, lambda out: out.text(f"Would move HEAD to {_describe(target)}"))
        return
    if undo:
        operation = registry.undo_rollback("rollback --undo")
    else:
        with registry.lock("rollback"):  # so that N steps are counted from the HEAD that moves
            operation = registry.rollback(_target(registry, session, steps), "rollback")
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


def _undo_target(registry: "Registry") -> "Session | None":
    from condu_cli.registry.undo import rollback_to_undo

    undone = rollback_to_undo(registry.operations()).from_session
    return None if undone is None else registry.session(undone)


def _name(session_id: str | None) -> str:
    from condu_cli.registry.manifest import short_id

    return short_id(session_id) if session_id else "empty"


def _describe(session: "Session | None") -> str:
    if session is None:
        return "the empty registry"
    tasks = ", ".join(entry.name for entry in session.entries) or "no tasks"
    return f"{_name(session.id)} ({tasks})"
