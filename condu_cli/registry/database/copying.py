"""Copies of the database, made while others write."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from condu_cli.registry.database.engine import connect


def copy_standalone(source: Path, target: Path) -> None:
    """Copy a database in one read transaction, which no writer waits for; may raise sqlite3.Error.

    The copy is one file: no log beside it, and none is created when it is read.
    """
    with closing(connect(source)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def remove_database(database: Path) -> None:
    """Remove a draft database and the files that SQLite may have left beside it."""
    for end in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            database.with_name(database.name + end).unlink(missing_ok=True)
