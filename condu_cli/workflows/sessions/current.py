"""Preconditions on HEAD: that it holds tasks, or does not hold a certain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.manifest import short_id

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.registry.repository import Registry

LEARN = "learn"
QUICK = "quick"
"""The key of a training record that is true for a beginning, the expert of `learn --quick`."""


def require_head(registry: Registry) -> Session:
    """Return HEAD; raise NotFoundError if it holds no tasks."""
    return require_tasks(registry, registry.head())


def require_tasks(registry: Registry, head: Session | None) -> Session:
    """Return `head`, just read from the registry; raise NotFoundError if it holds no tasks."""
    if head is None or not head.entries:
        raise NotFoundError(
            f"the registry at {registry.path} holds no tasks yet",
            reason="no-tasks",
            registry=registry.path,
        )
    return head


def beginning_of(head: Session | None, task: str) -> TaskEntry | None:
    """Return the task's entry if its expert is a beginning, which `learn` replaces."""
    entry = _entry_of(head, task)
    return entry if entry is not None and entry.expert.training.get(QUICK) is True else None


def is_learned(head: Session | None, task: str) -> bool:
    """Whether a session holds more of the task than a beginning, so that `learn` is refused."""
    return _entry_of(head, task) is not None and beginning_of(head, task) is None


def refuse_known_task(head: Session | None, task: str, kind: str = LEARN) -> None:
    """Raise UsageError if a session already holds the task; `learn` may replace a beginning.

    `kind` is that of the session to be committed.
    """
    entry = _entry_of(head, task)
    if entry is None or (kind == LEARN and not is_learned(head, task)):
        return
    session = short_id(entry.learned_in or "")
    raise UsageError(
        f"task '{task}' has already been learned (session {session})",
        reason="task-known",
        task=task,
        session=entry.learned_in,
    )


def _entry_of(head: Session | None, task: str) -> TaskEntry | None:
    entries = () if head is None else head.entries
    return next((entry for entry in entries if entry.name == task), None)
