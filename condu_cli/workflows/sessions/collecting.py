"""Collect garbage: give up sessions that are no longer needed, and remove unreferenced files.

Nothing that HEAD, a tag, the kept history or `rollback --undo` needs is ever removed. Sessions are
first recorded as collected, in one transaction; their files are removed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from condu_cli.registry.files.listing import bytes_below
from condu_cli.registry.files.reserve import keep as keep_reserve
from condu_cli.registry.leftovers import Leftover, leftovers, remove_leftover, removed_on_failure
from condu_cli.registry.reachability import broken_references
from condu_cli.workflows.sessions.history_packing import (
    drop_corrupt_patch,
    pack_history,
    release_files,
    repack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from condu_cli.registry.manifest import Session
    from condu_cli.registry.reachability import History
    from condu_cli.registry.repository import Registry


@dataclass(frozen=True)
class Collection:
    """What is, or was, removed: sessions and files.

    `undoable` counts the sessions that are kept only because `rollback --undo` may restore them,
    `packed` those that were stored as patches in the process; `freed_bytes` is by how much the
    registry shrank.
    """

    sessions: tuple[Session, ...]
    leftovers: tuple[Leftover, ...]
    undoable: int
    packed: int = 0
    freed_bytes: int = 0
    warnings: tuple[str, ...] = ()


def plan_collection(registry: Registry, keep: int | None, *, undo: bool = True) -> Collection:
    """Return what `collect` would remove; change nothing."""
    history = registry.history()
    kept = history.kept(keep, undo=undo)
    gone = tuple(session for session in history.live if session.id not in kept)
    needed = _needed_without(history, kept)
    protected = len(kept - history.kept(keep, undo=False)) if undo else 0
    return Collection(gone, tuple(leftovers(registry, needed)), protected)


def collect(
    registry: Registry,
    keep: int | None,
    *,
    undo: bool = True,
    approved: set[str] | None = None,
    command: str = "gc",
    on_session: Callable[[Session], None] = lambda _: None,
) -> Collection:
    """Collect the sessions that `plan_collection` names, pack the others, remove leftovers.

    If `approved` is given, only those sessions are collected: others may have become unneeded
    since the user was asked.

    Raises:
        IntegrityError: a session that must be kept is corrupt; no session was removed.

    """
    with registry.lock(command), removed_on_failure(registry):
        before = bytes_below(registry.path)
        plan = plan_collection(registry, keep, undo=undo)
        gone = [s for s in plan.sessions if approved is None or s.id in approved]
        history = registry.history()
        kept = {session.id for session in history.live} - {session.id for session in gone}
        broken = {pack.session for pack in broken_references(history.packs.values(), kept)}
        release_files(registry)
        drop_corrupt_patch(registry)
        removed = _remove_leftovers(registry)  # first: a full disk may need the space
        repack(registry, history, broken, kept)
        removed += _remove_leftovers(registry)
        if gone:
            registry.record_collected([session.id for session in gone], command)
        removed += _remove_leftovers(registry)
        packed = pack_history(registry, on_session=on_session)
        removed += _remove_leftovers(registry)
        freed = before - bytes_below(registry.path)
        keep_reserve(registry.paths.reserve)
        return Collection(
            tuple(gone), tuple(removed), plan.undoable, packed.sessions, freed, packed.warnings
        )


def _remove_leftovers(registry: Registry) -> list[Leftover]:
    found = list(leftovers(registry, set(registry.history().needed_blobs())))
    for leftover in found:
        remove_leftover(registry, leftover)
    return found


def _needed_without(history: History, kept: set[str]) -> set[str]:
    needed: set[str] = set()
    for session in history.live:
        if session.id in kept:
            needed |= set(history.blobs(session))
    return needed
