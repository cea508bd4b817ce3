"""Which rollback an undo undoes: rollbacks form a stack, and a commit empties it."""

from collections.abc import Iterable

from condu_cli.errors import UsageError
from condu_cli.registry.manifest import SESSION_KINDS, Operation

ROLLBACK = "rollback"
UNDO = "undo-rollback"


def rollback_to_undo(newest_first: Iterable[Operation]) -> Operation:
    """Return the latest rollback that is not undone; raise UsageError if there is none.

    A session committed since would be lost from sight by an undo, so it ends the search.
    """
    open_rollbacks, committed = _since_last_commit(newest_first)
    if open_rollbacks:
        return open_rollbacks[0]
    since = f" since {committed.command!r}" if committed else ""
    raise UsageError(f"there is no rollback to undo{since}", reason="nothing-to-undo")


def undoable_sessions(newest_first: Iterable[Operation]) -> set[str]:
    """Return the ids of the sessions that `rollback --undo` can still bring back, one by one."""
    open_rollbacks, _ = _since_last_commit(newest_first)
    return {o.from_session for o in open_rollbacks if o.from_session is not None}


def _since_last_commit(
    newest_first: Iterable[Operation],
) -> tuple[list[Operation], Operation | None]:
    """Return the rollbacks that are not undone, latest first, and the commit that ends them."""
    already_undone = 0
    found: list[Operation] = []
    for operation in newest_first:
        if operation.kind == UNDO:
            already_undone += 1
        elif operation.kind in SESSION_KINDS:
            return found, operation
        elif operation.kind == ROLLBACK:
            if already_undone:
                already_undone -= 1
            else:
                found.append(operation)
    return found, None
