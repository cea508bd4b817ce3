"""Preconditions on HEAD: that it holds tasks, or does not hold a certain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.manifest import short_id

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Session
    from condu_cli.registry.repository import Registry


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


def refuse_known_task(head: Session | None, task: str) -> None:
    """Raise UsageError if the session already holds the task."""
    for entry in () if head is None else head.entries:
        if entry.name == task:
            session = short_id(entry.learned_in or "")
            raise UsageError(
                f"task '{task}' has already been learned (session {session})",
                reason="task-known",
                task=task,
                session=entry.learned_in,
            )
