"""Which of some blobs must be files: what `History.blobs` says, asked of the database for a few."""

from collections.abc import Iterable

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session as Transaction

from condu_cli.registry.database import rows

_LIVE = "NOT IN (SELECT session FROM collected)"


def _filed(session: str) -> str:
    """Say in SQL that the session in a column has files of its own."""
    packed = f"{session} IN (SELECT session FROM packs)"  # noqa: S608 - ours
    is_head = f"{session} IN (SELECT session FROM head)"  # noqa: S608 - ours
    return f"{session} {_LIVE} AND (NOT {packed} OR {is_head})"


_NEEDED = text(
    f"""
    SELECT shared FROM sessions WHERE shared IN :blobs AND {_filed("id")}
    UNION SELECT part FROM session_tasks WHERE part IN :blobs AND {_filed("session")}
    UNION SELECT patch FROM packs WHERE patch IN :blobs AND session {_LIVE}
    UNION SELECT prototypes FROM experts WHERE prototypes IN :blobs AND EXISTS (
        SELECT 1 FROM session_tasks WHERE expert = experts.id AND session {_LIVE})
    """  # noqa: S608 - ours
).bindparams(bindparam("blobs", expanding=True))


def needed_among(transaction: Transaction, blobs: Iterable[str]) -> set[str]:
    """Return those of `blobs` that must be files for HEAD or any other live session."""
    needed: set[str] = set()
    for chunk in rows.chunks(blobs):
        needed |= set(transaction.scalars(_NEEDED, {"blobs": chunk}))
    return needed
