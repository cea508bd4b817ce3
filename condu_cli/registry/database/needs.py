"""Which of a few blobs must be files: `History.blobs` as a query."""

from collections.abc import Iterable

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session as Transaction

from condu_cli.registry.database import rows

_LIVE = "NOT IN (SELECT session FROM collected)"


def _filed(session: str) -> str:
    """Return an SQL condition: the session in a column has its own files."""
    packed = f"{session} IN (SELECT session FROM packs)"  # noqa: S608 - ours
    is_head = f"{session} IN (SELECT session FROM head)"  # noqa: S608 - ours
    return f"{session} {_LIVE} AND (NOT {packed} OR {is_head})"


# A plus sign keeps SQLite off the index on blobs, which many sessions share; HEAD has few rows.
_NEEDED_BY_HEAD = text(
    """
    SELECT shared FROM sessions WHERE id IN (SELECT session FROM head) AND +shared IN :blobs
    UNION SELECT part FROM session_tasks
        WHERE session IN (SELECT session FROM head) AND +part IN :blobs
    UNION SELECT prototypes FROM session_tasks JOIN experts ON experts.id = expert
        WHERE session IN (SELECT session FROM head) AND +prototypes IN :blobs
    UNION SELECT experts.head FROM session_tasks JOIN experts ON experts.id = expert
        WHERE session IN (SELECT session FROM head) AND +experts.head IN :blobs
    """
).bindparams(bindparam("blobs", expanding=True))

_NEEDED = text(
    f"""
    SELECT shared FROM sessions WHERE shared IN :blobs AND {_filed("id")}
    UNION SELECT part FROM session_tasks WHERE part IN :blobs AND {_filed("session")}
    UNION SELECT patch FROM packs WHERE patch IN :blobs AND session {_LIVE}
    UNION SELECT prototypes FROM experts WHERE prototypes IN :blobs AND EXISTS (
        SELECT 1 FROM session_tasks WHERE expert = experts.id AND session {_LIVE})
    UNION SELECT head FROM experts WHERE head IN :blobs AND EXISTS (
        SELECT 1 FROM session_tasks WHERE expert = experts.id AND session {_LIVE})
    """  # noqa: S608 - ours
).bindparams(bindparam("blobs", expanding=True))


def needed_among(transaction: Transaction, blobs: Iterable[str]) -> set[str]:
    """Return those of `blobs` that must be files for HEAD or any other live session.

    HEAD comes first: looking for a blob that all sessions share would search all of them.
    """
    needed: set[str] = set()
    for chunk in rows.chunks(blobs):
        by_head = set(transaction.scalars(_NEEDED_BY_HEAD, {"blobs": chunk}))
        others = [blob for blob in chunk if blob not in by_head]
        needed |= by_head | set(transaction.scalars(_NEEDED, {"blobs": others}))
    return needed
