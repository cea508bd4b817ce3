"""Check the database: SQLite's own checks, references between rows, and every session's id."""

from collections.abc import Iterator
from contextlib import closing

from condu_cli.errors import ConduError
from condu_cli.registry.database.engine import connect, described_errors
from condu_cli.registry.names import shown_id
from condu_cli.registry.repository import Registry

_SHOWN = 5


def check_database(registry: Registry) -> list[str]:
    """Return descriptions of what is wrong with the database; empty if nothing is."""
    return [*_sqlite_faults(registry), *_history_faults(registry)]


def _sqlite_faults(registry: Registry) -> Iterator[str]:
    with (
        described_errors(registry.paths.database),
        closing(connect(registry.paths.database)) as connection,
    ):
        for (line,) in connection.execute(f"PRAGMA integrity_check({_SHOWN})"):
            if line != "ok":
                yield str(line)
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
        for table, row, parent, _ in orphans[:_SHOWN]:
            yield f"row {row} of {table} refers to a missing row of {parent}"


def _history_faults(registry: Registry) -> Iterator[str]:
    try:
        history = registry.history(fresh=True)
    except ConduError as error:
        yield error.message
        return
    known = {session.id for session in history.sessions}
    if history.head in history.collected:
        yield f"HEAD is at session {shown_id(history.head)}, which was collected"
    for pack in history.packs.values():
        session, reference = shown_id(pack.session), shown_id(pack.reference)
        if pack.reference not in known or pack.reference in history.collected:
            yield f"session {session} is a patch on {reference}, which is missing"
    for pack in history.circular_packs():
        yield f"the patches of session {shown_id(pack.session)} form a cycle"
