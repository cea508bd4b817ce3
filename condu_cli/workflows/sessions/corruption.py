"""The consequences of a corrupt or missing file: which sessions need it, and which do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.registry.manifest import short_id
from condu_cli.workflows.sessions.states import is_intact

if TYPE_CHECKING:
    from collections.abc import Set

    from condu_cli.errors import ConduError
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry

NAMED = frozenset(
    {
        "blob-missing",
        "blob-unreadable",
        "blob-corrupt",
        "copied-file-corrupt",
        "needed-file-missing",
    }
)
"""Reasons of errors that name the file at fault."""
DERIVED = frozenset({"blob-not-restored", "patch-damaged", "session-damaged"})
"""Reasons of errors about content restored from several files, one of which is corrupt."""


def explain(registry: Registry, error: ConduError) -> None:
    """Add to an error which files are at fault, which sessions need them and which do not.

    If the error names no file on disk, all files that its session depends on are hashed.
    """
    if error.reason not in NAMED | DERIVED:
        return
    history = registry.history()
    if history.circular_packs():
        return
    bad = _at_fault(registry, history, error)
    if bad:
        affected = history.affected_by(bad)
        unsound = {session_id for session_id, blobs in affected.items() if blobs}
        paths = [registry.blobs.path(sha256) for sha256 in sorted(bad)]
        error.add(at_fault=paths, **consequences(history, unsound, unsound))


def consequences(history: History, needing: Set[str], unsound: Set[str]) -> dict[str, Any]:
    """Return, as facts of an error, what remains if the sessions `needing` a file are lost.

    needed_by      their short ids, newest first
    head_needs     whether HEAD is one of them
    sound_session  the newest before HEAD that is not `unsound`, None if there is none
    sessions_back  how many sessions a rollback to the empty state undoes
    spare          whether `gc` may remove all sessions that need the file; HEAD is not one of them
    keep           how many sessions of HEAD's line remain then, None if all of them
    """
    line = history.line(history.head)
    sound = (i for i in line[1:] if i not in unsound and i not in history.collected)
    first = next((place for place, i in enumerate(line) if i in needing), None)
    head_needs = first == 0
    found = next(sound, None)
    return {
        "needed_by": [short_id(session.id) for session in history.live if session.id in needing],
        "head_needs": head_needs,
        "sound_session": None if found is None else short_id(found),
        "sessions_back": len(line),
        "spare": not head_needs and needing.isdisjoint(history.kept(first, undo=False)),
        "keep": first,
    }


def _at_fault(registry: Registry, history: History, error: ConduError) -> set[str]:
    facts = error.facts
    blob = str(facts.get("blob") or Path(str(facts.get("path", ""))).name)
    if error.reason in NAMED and blob in history.needed_blobs():
        return {blob}
    for session in history.live:
        if session.id == facts.get("session") or blob in session.state_blobs():
            behind = history.blobs_behind(session)
            return {sha256 for sha256 in behind if not is_intact(registry, [sha256])}
    return set()
