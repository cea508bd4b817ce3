"""Forget or rename a task: both commit a new session, so both can be rolled back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.errors import UsageError
from condu_cli.registry.leftovers import removed_on_failure
from condu_cli.registry.manifest import Session
from condu_cli.registry.names import validate_task_name
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.committing import Commit, moved_entries, session_of_state
from condu_cli.workflows.sessions.current import require_head
from condu_cli.workflows.sessions.history_packing import pack_parent
from condu_cli.workflows.sessions.remaining import all_but
from condu_cli.workflows.sessions.states import check_state, corrupt_session, open_state

if TYPE_CHECKING:
    from condu_cli.registry.repository import Registry


def forget(registry: Registry, task: str, command: str) -> Commit:
    """Commit a session without a task; the others are unified again.

    Raises:
        NotFoundError: there is no such task.
        IntegrityError: the current session is corrupt.

    """
    with registry.lock(command), removed_on_failure(registry):
        head = require_head(registry)
        codec = codec_for(registry.config, head)
        index = head.entries.index(head.entry(task))
        check_state(registry, head)
        before = open_state(registry, head)
        try:
            rest = all_but(codec, head.entries, before, index)
            entries = moved_entries(codec, rest, rest.after)
        except InvalidStateError as exc:
            raise corrupt_session(head, exc) from exc
        session = session_of_state(
            registry, codec, rest.after, entries, head.id, kind="forget", task=task
        )
        return _committed(registry, session, head, command)


def rename(registry: Registry, old: str, new: str, command: str) -> Commit:
    """Commit a session in which a task has a new name; nothing else changes.

    Raises:
        NotFoundError: there is no such task.
        UsageError: the new name is taken or invalid.

    """
    with registry.lock(command):
        head = require_head(registry)
        check_new_name(head, old, new)
        check_state(registry, head)
        entries = tuple(
            replace(entry, name=new if entry.name == old else entry.name, drift=0.0)
            for entry in head.entries
        )
        session = Session.on(
            head.id, "rename", new, head.shared, entries, note={"from": old}, codec=head.codec
        )
        return _committed(registry, session, head, command)


def check_new_name(head: Session, old: str, new: str) -> None:
    """Raise NotFoundError or UsageError if a task cannot get that name."""
    validate_task_name(new)
    head.entry(old)
    for entry in head.entries:
        if entry.name == new:
            raise UsageError(
                f"there is already a task '{new}'", reason="task-name-in-use", task=new
            )


def _committed(registry: Registry, session: Session, head: Session, command: str) -> Commit:
    registry.commit(session, command=command)
    warnings = pack_parent(registry, session, head).warnings
    return Commit(session=session, parent=head, warnings=warnings)
