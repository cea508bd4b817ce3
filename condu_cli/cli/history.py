"""`condu log`, `rollback`, `tag` and `diff`: the history of sessions."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.options import SESSION_HELP
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import describe_session, percent, session_name, size, when

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Operation, Session
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(log)
    command(app, changes=True, short_n=False)(rollback)
    command(app, writes=True)(tag)
    command(app)(diff)


def log(
    run: Run,
    operations: Annotated[
        bool,
        typer.Option(
            "--operations", help="List operations (commits, rollbacks, tags, gc) instead."
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Include sessions that gc removed; their records remain.")
    ] = False,
) -> None:
    """List the sessions, newest first; HEAD is the current one."""
    registry = run.open_registry()
    if operations:
        _log_operations(run.out, registry.operations())
        return
    history = registry.history()
    kept = set(history.line(history.head))
    tags: dict[str, list[str]] = {}
    for tag_name, target in history.tags.items():
        tags.setdefault(target, []).append(tag_name)
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
            "tags": tags.get(session.id, []),
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
        out.hint("condu learn --task NAME --data DIR{here} makes the first")
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
    """Return how a session's experts are stored: in files, as a patch, or removed."""
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
    """Return where HEAD moved from and to; blank if the operation did not move it."""
    if operation.kind in ("init", "gc", "tag", "untag"):
        return "", ""
    return session_name(operation.from_session), session_name(operation.to_session)


def rollback(
    run: Run,
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help=SESSION_HELP, show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("-n", "--steps", metavar="N", min=1, help="Go back N sessions. Default: 1."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last rollback.")] = False,
) -> None:
    """Move HEAD to an older session; --undo moves it back.

    Nothing is deleted: only `condu gc` removes sessions.
    """
    from condu_cli.errors import UsageError
    from condu_cli.registry.rollbacks import Aim
    from condu_cli.workflows.sessions.moving_head import roll_back

    if sum((session is not None, steps is not None, undo)) > 1:
        raise UsageError("use only one of SESSION, -n and --undo", reason="options-exclude")
    registry = run.open_registry()
    aim = Aim(session, steps or 1, undo)
    if run.settings.dry_run:
        target = registry.target(aim)
        record = {"dry_run": True, "to": None if target is None else target.id, "undo": undo}
        run.out.document(
            record, lambda out: out.text(f"Would move HEAD to {describe_session(target)}")
        )
        return
    operation = roll_back(registry, aim, "rollback --undo" if undo else "rollback")
    record = {
        "operation": operation.kind,
        "from": operation.from_session,
        "to": operation.to_session,
    }

    def human(out: Output) -> None:
        # From the operation, not from HEAD: other processes may have moved HEAD since.
        ends = (operation.from_session, operation.to_session)
        before, after = (None if end is None else registry.session(end) for end in ends)
        out.text(f"HEAD moved from {describe_session(before)} to {describe_session(after)}")
        out.hint(
            "condu log{here} lists all sessions; condu rollback SESSION{here} goes to any of them"
            if undo
            else "condu rollback --undo{here} brings it back"
        )

    run.out.document(record, human)


def tag(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The tag.", show_default=False)
    ] = None,
    session: Annotated[str, typer.Argument(metavar="SESSION", help=SESSION_HELP)] = "@",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag.")] = False,
) -> None:
    """Tag a session so that it is never removed, or list the tags.

    A tag can be used wherever a session is named.
    """
    from condu_cli.errors import UsageError

    registry = run.open_registry()
    if name is None:
        if delete:
            raise UsageError("--delete needs the NAME of a tag", reason="no-tag-named")
        _list_tags(run.out, registry)
        return
    if delete:
        was = registry.remove_tag(name, f"tag --delete {name}")
        text = f"Removed tag {name}; it was at session {session_name(was)}"
        record: dict[str, Any] = {"tag": name, "session": was, "deleted": True}
    else:
        target = registry.resolve(session)
        if target is None:
            raise UsageError(
                "the empty state before the first session cannot be tagged",
                reason="empty-state-not-tagged",
            )
        registry.tag(name, target, f"tag {name} {session_name(target.id)}")
        text = f"Tagged {describe_session(target)} as {name}"
        record = {"tag": name, "session": target.id, "deleted": False}

    def human(out: Output) -> None:
        out.text(text)
        out.hint(
            "condu tag {name!q} {session}{here}" if delete else "condu tag --delete {name!q}{here}",
            name=name,
            session=session_name(record["session"]),
        )

    run.out.document(record, human)


def _list_tags(out: Output, registry: "Registry") -> None:
    tags = registry.tags()
    records = [{"tag": name, "session": session} for name, session in tags.items()]

    def human(out: Output) -> None:
        if not tags:
            out.text("no tags yet")
            out.hint("condu tag NAME [SESSION]{here} makes one")
            return
        rows = [
            [name, describe_session(registry.session(session))] for name, session in tags.items()
        ]
        out.table(["tag", "session"], rows)

    out.document(records, human)


def diff(
    run: Run,
    before: Annotated[str, typer.Argument(metavar="BEFORE", help=SESSION_HELP)] = "@~1",
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The other session.")] = "@",
) -> None:
    """Compare two sessions.

    Shows for each task whether it was added, changed or removed, how far its expert moved (drift)
    and how much its masks overlap, then the bytes that each session uses.
    """
    from dataclasses import asdict

    from condu_cli.workflows.sessions.comparing import compare

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
        title = f"{describe_session(one)} -> {describe_session(other)}"
        out.table(["task", "change", ">mask overlap", ">drift"], rows, title=title)
        out.text(
            f"blobs: {size(found.before_bytes)} in the first session, {size(found.after_bytes)} in "
            f"the second, {size(found.shared_bytes)} shared"
        )

    run.out.document(asdict(found), human)
