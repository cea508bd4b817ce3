"""The database in an archive: cleaned on export, not trusted on import."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from condu_cli.registry.copies.archive_format import ArchiveError
from condu_cli.registry.database.engine import described_errors, exclusive_connection, make_engine
from condu_cli.registry.database.migration import run_migrations
from condu_cli.registry.manifest import RegistryConfig

LOCAL_TABLES = frozenset({"sources"})
"""Tables whose content is only valid on one machine."""

_Schema = set[tuple[str, str, str, tuple[str, ...]]]
_TOKEN = re.compile(r"\"[^\"]*\"|'[^']*'|\w+|[^\s\w]")


def write_clean_database(source: Path, target: Path, config: RegistryConfig) -> None:
    """Write what may leave the machine into a new database, byte for byte reproducible.

    Rows are inserted one by one in key order, because a copied file also holds traces of deleted
    rows. Commands in the journal that name files are reduced to their kind.
    """
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("ATTACH DATABASE ? AS source", (os.fsencode(source),))
        connection.execute("BEGIN")
        for table in _create_tables(connection):
            if table not in LOCAL_TABLES:
                _copy_rows(connection, table)
        set_base(connection, config)
        connection.execute(
            "UPDATE operations SET command = kind "
            "WHERE instr(command, '/') OR instr(command, char(92))"
        )
        connection.execute("COMMIT")
        connection.execute("DETACH DATABASE source")
        connection.execute("VACUUM")


def set_base(connection: sqlite3.Connection, config: RegistryConfig) -> None:
    """Set where the base model comes from, and the fingerprint that follows."""
    connection.execute(
        "UPDATE registry SET base_id = ?, base_pretrained = ?, fingerprint = ?",
        (config.base.id, config.base.pretrained, config.fingerprint()),
    )


def check_untrusted(database: Path, revision: str, scratch: Path) -> None:
    """Raise ArchiveError unless a database has exactly this schema and passes SQLite's checks.

    Nothing in it is read, and none of its expressions is evaluated, before its schema is known to
    be the one that our migrations create; they run in `scratch`, a new file.
    """
    expected = _made_schema(revision, scratch)
    uri = database.absolute().as_uri() + "?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
            connection.execute(f"PRAGMA {pragma}")
        if _schema(connection) != expected:
            raise ArchiveError(f"its tables are not those of schema {revision}")
        for pragma in ("quick_check(1)", "integrity_check(1)"):
            if connection.execute(f"PRAGMA {pragma}").fetchall() != [("ok",)]:
                raise ArchiveError("SQLite finds it corrupt")
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise ArchiveError("a row refers to a missing row")
        _check_rows(connection, revision)


_COUNTERS = (("sessions", "ordinal"), ("operations", "id"), ("sqlite_sequence", "seq"))
"""Columns whose next value is the highest plus one."""

_COUNTER_LIMIT = 1 << 53


def _check_rows(connection: sqlite3.Connection, revision: str) -> None:
    if connection.execute("SELECT version_num FROM alembic_version").fetchall() != [(revision,)]:
        raise ArchiveError("it does not have the schema that the archive gives")
    for table in LOCAL_TABLES & set(_tables(connection, "main")):
        if connection.execute(f"SELECT 1 FROM {table}").fetchone():  # noqa: S608 - ours
            raise ArchiveError(f"its table {table} is only valid on one machine and must be empty")
    for table, column in _COUNTERS:
        query = f"SELECT max({column}) FROM {table}"  # noqa: S608 - ours
        (highest,) = connection.execute(query).fetchone()
        if highest is not None and not (isinstance(highest, int) and highest < _COUNTER_LIMIT):
            raise ArchiveError(f"{column} of {table} leaves no room for more")


def _create_tables(connection: sqlite3.Connection) -> list[str]:
    """Create the tables and indexes of `source` in `main`, and return the tables' names."""
    statements = connection.execute(
        "SELECT sql FROM source.sqlite_master WHERE sql IS NOT NULL "
        "AND name NOT GLOB 'sqlite_*' ORDER BY type = 'index', name"
    )
    for (statement,) in statements.fetchall():
        connection.execute(statement)
    return list(_tables(connection, "source"))


def _tables(connection: sqlite3.Connection, database: str) -> Iterator[str]:
    found = connection.execute(
        f"SELECT name FROM {database}.sqlite_master WHERE type = 'table' "  # noqa: S608 - ours
        "AND name NOT GLOB 'sqlite_*' ORDER BY name"
    )
    yield from (name for (name,) in found.fetchall())


def _copy_rows(connection: sqlite3.Connection, table: str) -> None:
    columns = connection.execute(f"PRAGMA source.table_info('{table}')").fetchall()
    names = ", ".join(f'"{column[1]}"' for column in columns)
    keys = ", ".join(f'"{c[1]}"' for c in sorted(columns, key=lambda c: int(c[5])) if c[5])
    connection.execute(
        f'INSERT INTO main."{table}" ({names}) '  # noqa: S608 - names of our own tables
        f'SELECT {names} FROM source."{table}" ORDER BY {keys or names}'
    )


def _made_schema(revision: str, scratch: Path) -> _Schema:
    """Return the schema that our migrations create."""
    scratch.touch(exist_ok=False)
    with described_errors(scratch), exclusive_connection(make_engine(scratch)) as connection:
        run_migrations(connection, revision)
    with closing(sqlite3.connect(scratch)) as made:
        schema = _schema(made)
    scratch.unlink()
    return schema


def _schema(connection: sqlite3.Connection) -> _Schema:
    """Return everything in the schema: type, name, table and words of each definition."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    found = {(kind, name, table, _words(sql)) for kind, name, table, sql in rows}
    if len(found) != len(rows):
        raise ArchiveError("its tables are listed twice")
    return found


def _words(sql: object) -> tuple[str, ...]:
    """Split a definition into words: versions of SQLAlchemy and Alembic differ in spacing."""
    if sql is None:
        return ()
    if not isinstance(sql, str):
        raise ArchiveError("its tables have no definition")
    return tuple(_TOKEN.findall(sql))
