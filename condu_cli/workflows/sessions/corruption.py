"""The consequences of a corrupt or missing file: which sessions need it, and which do not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.errors import ConduError
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.states import is_intact

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from condu_cli.registry.reachability import History

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


def explain_at(path: Path, error: ConduError) -> None:
    """Explain an error that a command ended with; the registry is at `path`.

    For other errors it is not opened: that may migrate it, which must not be tried again because
    of an error that it raised.
    """
    if error.reason in NAMED | DERIVED:
        with suppress(ConduError):  # the original error is the one to report
            explain(Registry.open(path), error)


def explain(registry: Registry, error: ConduError) -> None:
    """Add to an error which files are at fault, which sessions need them and which do not.

    If the error names no file on disk, all files that its session depends on are hashed.
    """
    history = registry.history()
    if history.circular_packs():
        return
    bad = _at_fault(registry, history, error)
    if bad:
        affected = history.affected_by(bad)
        unsound = {session_id for session_id, blobs in affected.items() if blobs}
        paths = [registry.blobs.path(sha256) for sha256 in sorted(bad)]
        error.add(at_fault=paths, not_restored=error.reason in DERIVED)
        error.add(**consequences(history, bad, unsound, unsound))


def consequences(
    history: History, bad: Set[str], needing: Set[str], unsound: Set[str]
) -> dict[str, Any]:
    """Return, as facts of an error, what remains without the `bad` files.

    `needing`: the ids of the sessions that need them; `unsound`: those that need any bad file.

    needed_by      short ids of `needing`, newest first
    head_needs     whether HEAD is one of them
    only_task      the task of HEAD whose prototypes or head they are, if HEAD needs no others of
                   them
    sound_session  the newest before HEAD that is not `unsound`, else the newest of all others
    sessions_back  how many sessions a rollback to the empty state undoes
    removable      whether `gc` can remove all sessions that need them; then `keep` and `undo` are
                   its options, and `intact` is how many sound sessions go too
    """
    line = history.line(history.head)
    others = (session.id for session in history.live if session.id != history.head)
    sound = (i for i in (*line[1:], *others) if i not in unsound and i not in history.collected)
    found = next(sound, None)
    head_needs = history.head in needing
    return {
        "needed_by": [short_id(session.id) for session in history.live if session.id in needing],
        "head_needs": head_needs,
        "only_task": _task_known_by(history, bad) if head_needs else None,
        "sound_session": None if found is None else short_id(found),
        "sessions_back": len(line),
        **_removal(history, line, needing, unsound),
    }


def _task_known_by(history: History, bad: Set[str]) -> str | None:
    """Return HEAD's one task whose prototypes or head are bad, if that is all and others remain."""
    head = history.session(str(history.head))
    tasks = [e.name for e in head.entries if bad & e.expert.blob_kinds().keys()]
    alone = bad <= head.expert_blobs().keys()
    return tasks[0] if alone and len(tasks) == 1 < len(head.entries) else None


def _removal(
    history: History, line: Sequence[str], needing: Set[str], unsound: Set[str]
) -> dict[str, Any]:
    """Find the options of `gc` that remove all these sessions and the fewest sound ones."""
    first = next((place for place, i in enumerate(line) if i in needing), None)
    live = {session.id for session in history.live}
    found: list[tuple[int, int | None, bool]] = []
    for keep in dict.fromkeys((None, first)):
        for undo in (True, False):
            kept = history.kept(keep, undo=undo)
            if keep != 0 and needing.isdisjoint(kept):
                found.append((len(live - kept - unsound), keep, undo))
    if not found:
        return {"removable": False}
    intact, keep, undo = min(found, key=lambda options: options[0])
    return {"removable": True, "keep": keep, "undo": undo, "intact": intact}


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
