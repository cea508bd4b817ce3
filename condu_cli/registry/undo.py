"""Which rollback an undo undoes: rollbacks form a stack, and a commit empties it."""

from collections.abc import Iterable

from condu_cli.errors import UsageError
from condu_cli.registry.manifest import Operation

ROLLBACK = "rollback"
UNDO = "undo-rollback"


def rollback_to_undo(newest_first: Iterable[Operation]) -> Operation:
    """Return the latest rollback that is not undone; raise UsageError if there is none.

    A session committed since would be lost from sight by an undo, so it ends the search.
    """
    already_undone = 0
    committed: Operation | None = None
    for operation in newest_first:
        if operation.kind == UNDO:
            already_undone += 1
        elif operation.kind != ROLLBACK:
            committed = operation
            break
        elif already_undone:
            already_undone -= 1
        else:
            return operation
    since = f" since {committed.command!r}" if committed and committed.kind != "init" else ""
    raise UsageError(
        f"there is no rollback to undo{since}",
        "name the session to go to: `condu rollback SESSION`; `condu log` lists them all",
    )
