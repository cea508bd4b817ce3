"""Where a rollback goes, and which rollback an undo undoes.

A rollback goes to a named session, or some sessions back from HEAD. Rollbacks form a stack, which a
commit empties: an undo goes to where HEAD was before the latest rollback that is not undone.
`Registry.target` reads the sessions; everything else is here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from condu_cli.errors import UsageError
from condu_cli.registry.manifest import SESSION_KINDS, Operation

ROLLBACK = "rollback"
UNDO = "undo-rollback"


@dataclass(frozen=True)
class Aim:
    """The target of a rollback: `session`, else `steps` back; or with `undo`, an undo.

    `session` is what `revisions` reads: an id or its beginning, a tag, `@~N`.
    """

    session: str | None = None
    steps: int = 1
    undo: bool = False

    @property
    def kind(self) -> str:
        """Its kind in the journal."""
        return UNDO if self.undo else ROLLBACK


def steps_back(steps: int, line: Sequence[str]) -> str | None:
    """Return the id of the session that many steps before HEAD, None for the empty state.

    `line` is HEAD and its ancestors, as far as needed. Raises UsageError if there are fewer
    sessions.
    """
    if steps < 1:
        raise UsageError(f"cannot go back {steps} sessions", reason="steps-too-few", steps=steps)
    if steps > len(line):
        raise UsageError(
            f"cannot go back {count_of(steps)}: HEAD has {count_of(len(line))} to undo",
            reason="too-far-back",
            steps=steps,
            sessions=len(line),
        )
    return line[steps] if steps < len(line) else None


def count_of(sessions: int) -> str:
    """Return `1 session`, `2 sessions` and so on."""
    return "1 session" if sessions == 1 else f"{sessions} sessions"


def rollback_to_undo(newest_first: Iterable[Operation]) -> Operation:
    """Return the latest rollback that is not undone; raise UsageError if there is none.

    An undo would hide a session committed since, so a commit ends the search.
    """
    open_rollbacks, committed = _since_last_commit(newest_first)
    if open_rollbacks:
        return open_rollbacks[0]
    since = f" since {committed.command!r}" if committed else ""
    raise UsageError(f"there is no rollback to undo{since}", reason="nothing-to-undo")


def undoable_sessions(newest_first: Iterable[Operation]) -> set[str]:
    """Return the ids of the sessions that `rollback --undo` can still restore, one by one."""
    open_rollbacks, _ = _since_last_commit(newest_first)
    return {o.from_session for o in open_rollbacks if o.from_session is not None}


def _since_last_commit(
    newest_first: Iterable[Operation],
) -> tuple[list[Operation], Operation | None]:
    """Return the rollbacks that are not undone, latest first, and the commit before them."""
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
