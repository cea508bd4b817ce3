"""`condu gc`, `verify` and `backup`: keep a registry small, intact and safe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import plural, size, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.sessions.collecting import Collection
    from condu_cli.workflows.sessions.verification import Verification


UNKNOWN_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app, changes=True)(gc)
    command(app)(verify)
    command(app, writes=True)(backup)


def gc(
    run: Run,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Keep HEAD and the N-1 sessions before it. Default: keep the whole history.",
            show_default=False,
        ),
    ] = None,
    no_undo: Annotated[
        bool,
        typer.Option("--no-undo", help="Also remove what `rollback --undo` could restore."),
    ] = False,
) -> None:
    """Remove sessions and files that are no longer needed.

    Never removed: HEAD, its history (unless --keep shortens it) and tagged sessions.
    """
    from condu_cli.workflows.sessions.collecting import collect, plan_collection

    registry = run.open_registry()
    plan = plan_collection(registry, keep, undo=not no_undo)
    if run.settings.dry_run:
        run.out.document(_record(plan, dry_run=True), lambda out: _print_plan(out, plan))
        return
    if plan.sessions and not run.out.confirm(
        f"Remove {plural(len(plan.sessions), 'session')} for good?",
        assume=run.settings.yes,
        show=lambda out: _print_plan(out, plan),
    ):
        run.out.note("Nothing was removed.")
        return
    approved = {session.id for session in plan.sessions}
    done = collect(registry, keep, undo=not no_undo, approved=approved, command="gc")
    for warning in done.warnings:
        run.out.warning(warning)
    run.out.document(_record(done, dry_run=False), lambda out: _print_done(out, done))


def _record(found: "Collection", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "sessions": [session.id for session in found.sessions],
        "files": [
            {"path": str(item.path), "kind": item.kind, "bytes": item.size}
            for item in found.leftovers
        ],
        "bytes": sum(item.size for item in found.leftovers),
        "freed_bytes": found.freed_bytes,
        "packed": found.packed,
        "undoable": found.undoable,
    }


def _print_plan(out: Output, plan: "Collection") -> None:
    total = sum(item.size for item in plan.leftovers)
    if plan.sessions:
        rows = [_session_row(session) for session in plan.sessions]
        out.table(["session", "kind", "task", "created"], rows, title="Sessions to remove")
    out.text(
        f"{plural(len(plan.sessions), 'session')} and {plural(len(plan.leftovers), 'file')} of "
        f"{size(total)} to remove"
    )
    _note_undoable(out, plan)


def _session_row(session: "Session") -> list[str]:
    from condu_cli.registry.manifest import short_id

    return [short_id(session.id), session.kind, session.task, when(session.created_at)]


def _note_undoable(out: Output, found: "Collection") -> None:
    if found.undoable:
        out.hint(
            "condu rollback --undo{here} can still restore {sessions}; condu gc --no-undo{here} "
            "removes them too",
            sessions=plural(found.undoable, "session"),
        )


def _print_done(out: Output, done: "Collection") -> None:
    out.text(
        f"Removed {plural(len(done.sessions), 'session')} and {plural(len(done.leftovers), 'file')}"
        f"; stored {plural(done.packed, 'session')} as a patch; the registry is "
        f"{size(abs(done.freed_bytes))} {'smaller' if done.freed_bytes >= 0 else 'larger'}"
    )
    _note_undoable(out, done)


def verify(
    run: Run,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Check without reading every byte: no hashes, no patches."),
    ] = False,
) -> None:
    """Check every session and every blob, byte for byte.

    Lists problems and what to do about them, and then exits with code 14. Changes nothing.
    """
    from condu_cli.cli.hints.making import hint_for
    from condu_cli.errors import IntegrityError
    from condu_cli.workflows.sessions.verification import verify

    registry = run.open_registry()
    with run.out.progress() as on_progress:
        found = verify(registry, quick=quick, on_progress=on_progress)
    advice = [hint_for(p.failure, p.facts, run.settings.registry) for p in found.problems]
    run.out.document(
        _verification_record(found, advice), lambda out: _print_verification(out, found, advice)
    )
    if found.problems:
        first = found.problems[0]
        raise IntegrityError(
            f"{plural(len(found.problems), 'problem')}; the first: "
            f"{first.path or first.object} {first.reason}",
            reason=first.failure,
            **first.facts,
        )


def _verification_record(found: "Verification", advice: "Sequence[str]") -> dict[str, Any]:
    return {
        "sound": not found.problems,
        "quick": found.quick,
        "sessions": found.sessions,
        "blobs": found.blobs,
        "bytes": found.bytes,
        "problems": [
            {
                "object": p.object,
                "failure": p.failure,
                "reason": p.reason,
                "path": None if p.path is None else str(p.path),
                "sessions": p.sessions,
                "advice": hint,
            }
            for p, hint in zip(found.problems, advice, strict=True)
        ],
        "leftovers": [str(item.path) for item in found.leftovers],
        "unknown": [str(path) for path in found.unknown],
    }


def _print_verification(out: Output, found: "Verification", advice: "Sequence[str]") -> None:
    from condu_cli.registry.manifest import short_id

    for problem, hint in zip(found.problems, advice, strict=True):
        needed = ", ".join(short_id(session) for session in problem.sessions)
        out.text(f"{problem.object} {problem.reason}")
        if problem.path is not None:
            out.text(f"  file: {problem.path}")
        if needed:
            out.text(f"  needed by: {needed}")
        out.text(f"  what to do: {hint}")
    if not found.problems:
        how = "checked" if found.quick else "read and compared"
        out.text(
            f"No problems found: {plural(found.sessions, 'session')}, "
            f"{plural(found.blobs, 'blob')} of {size(found.bytes)} {how}"
        )
    _print_unknown(out, found)
    if found.leftovers:
        total = sum(item.size for item in found.leftovers)
        out.hint(
            "no longer needed: {files} ({size}); condu gc{here} removes them",
            files=plural(len(found.leftovers), "file"),
            size=size(total),
        )


def _print_unknown(out: Output, found: "Verification") -> None:
    if found.unknown:
        names = ", ".join(map(str, found.unknown[:UNKNOWN_SHOWN]))
        more = len(found.unknown) - UNKNOWN_SHOWN
        out.warning(
            f"{plural(len(found.unknown), 'file')} that condu did not write and will not remove: "
            f"{names}" + (f" and {more} more" if more > 0 else "")
        )


def backup(
    run: Run,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or an earlier backup to update.")
    ],
) -> None:
    """Copy the registry to another folder, even while in use.

    An earlier backup in that folder is updated. The copy is a registry that condu can open.
    """
    from dataclasses import asdict

    from condu_cli.registry.copies.backup import back_up_registry
    from condu_cli.workflows.progress import Progress

    registry = run.open_registry()
    target = folder.expanduser()
    with run.out.progress() as on_progress:
        summary = back_up_registry(
            registry, target, lambda done, total: on_progress(Progress("copying", done, total))
        )

    def human(out: Output) -> None:
        out.text(
            f"{'Backed up to' if summary.created else 'Updated the backup'} {target}; "
            f"{plural(summary.copied_files, 'file')} of {size(summary.copied_bytes)} copied, "
            f"{plural(summary.sessions, 'session')} in {plural(summary.blobs, 'blob')}"
        )
        if summary.unneeded_blobs:
            out.hint(
                "no longer needed in the backup: {blobs} ({size}); condu gc --registry "
                "{target!q} removes them",
                blobs=plural(summary.unneeded_blobs, "blob"),
                size=size(summary.unneeded_bytes),
                target=target,
            )
        out.hint("condu verify --registry {target!q} checks the copy", target=target)

    run.out.document({**asdict(summary), "path": str(target)}, human)
