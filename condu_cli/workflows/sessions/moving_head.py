"""Move HEAD to another session, whose files are restored before HEAD points at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from condu_cli.errors import ConduError, InterruptedByUserError
from condu_cli.registry.leftovers import removed_on_failure
from condu_cli.registry.manifest import short_id
from condu_cli.workflows.sessions.history_packing import release_session
from condu_cli.workflows.sessions.states import check_state, restore_files

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Operation, Session
    from condu_cli.registry.repository import Registry
    from condu_cli.registry.rollbacks import Aim


def roll_back(registry: Registry, aim: Aim, command: str) -> Operation:
    """Roll back, or undo a rollback, while holding the lock.

    Raises:
        NotFoundError: there is no such session, or it was collected.
        UsageError: HEAD is already there, or there is no rollback to undo.
        IntegrityError: the session's files cannot be restored, or are corrupt.

    """
    with registry.lock(command), removed_on_failure(registry):
        left, target = registry.head(), registry.target(aim)
        _make_ready(registry, target)
        operation = registry.rollback(target, command, aim.kind)
        _release(registry, left, operation)
        return operation


def _make_ready(registry: Registry, target: Session | None) -> None:
    if target is None:
        return
    registry.require_live(target)
    restore_files(registry, target)
    check_state(registry, target)


def _release(registry: Registry, left: Session | None, operation: Operation) -> None:
    there = operation.to_session
    moved = f"HEAD has moved to {short_id(there) if there else 'the empty state'}"
    try:
        release_session(registry, left)
    except KeyboardInterrupt:
        raise InterruptedByUserError(
            f"interrupted, but {moved}", reason="interrupted-after-move", session=there
        ) from None
    except ConduError as exc:
        raise ConduError(
            f"{moved}, but files that are no longer needed remain: {exc.message}",
            reason="moved-but-files-left",
            session=there,
        ) from exc
