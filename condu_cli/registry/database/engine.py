"""Connections to condu.sqlite: explicit transactions, and errors that name the database.

The driver's own transaction handling is off (`isolation_level=None`), because it would leave half
of a failed migration behind. Reads run in `BEGIN` and see one state of the registry however long
a writer works beside them (WAL). Writes run in `BEGIN IMMEDIATE`, because a transaction that reads
before it writes fails at once when another process writes.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from condu_cli.errors import ConduError, IntegrityError, LockedError

BUSY_SECONDS = 10.0
ATTEMPTS = 5
"""How often a database that is being written to is copied again."""
_BEGIN = "condu_begin"
_NO_ROOM = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN})
"""What SQLite reports if it cannot make its files beside the database."""
_CORRUPT = ("no such", "Could not decode")
"""How messages about a corrupt database begin that SQLite reports as operational errors."""


def connect(database: Path, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open an existing database; never create one.

    Even a reader of a WAL database makes files beside it, which a full disk does not allow. Then
    the connection keeps their content in its own memory, and the database to itself. In a folder
    that may only be read, changes that a writer has not merged yet are merged in memory.
    """
    if not os.access(database.parent, os.W_OK) and _bytes_in(log_of(database)):
        merged = _merged_in_memory(database)
        if merged is not None:
            return merged
    try:
        return _connected(database, busy_seconds, "NORMAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM:
            raise
        return _connected(database, busy_seconds, "EXCLUSIVE")


def _connected(database: Path, busy_seconds: float, locking: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        _uri(database), uri=True, isolation_level=None, timeout=busy_seconds
    )
    try:
        connection.execute(f"PRAGMA locking_mode = {locking}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # opens its files
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def log_of(database: Path) -> Path:
    """Return the file of changes that SQLite has not merged into the database yet."""
    return database.with_name(f"{database.name}-wal")


def _bytes_in(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _merged_in_memory(database: Path) -> sqlite3.Connection | None:
    """Return a connection to a copy in memory, with the log's changes; it refuses to write.

    A writer may be at work; then the copy is made again. None if it has removed the log.
    """
    try:
        for _ in range(ATTEMPTS):
            with tempfile.TemporaryDirectory(prefix="condu-") as folder:
                copy = Path(folder, database.name)
                if _copied_unchanged(database, copy):
                    return _in_memory(copy)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise sqlite3.OperationalError(f"it cannot be copied: {error}") from error
    raise sqlite3.OperationalError("it changed at every attempt to read it")


def _copied_unchanged(database: Path, copy: Path) -> bool:
    """Copy a database and its log; return whether neither changed in the meantime."""
    log = log_of(database)
    before = _state(database), _state(log)
    shutil.copyfile(database, copy)
    shutil.copyfile(log, log_of(copy))
    return (_state(database), _state(log)) == before


def _in_memory(database: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    with closing(sqlite3.connect(database)) as merged:
        merged.backup(memory)
    memory.execute("PRAGMA query_only = ON")  # what is written here would be lost
    return memory


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def make_engine(database: Path, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Return the engine of an existing database; no connection outlives its transaction."""
    engine = create_engine(
        "sqlite://", creator=lambda: connect(database, busy_seconds), poolclass=NullPool
    )
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def read(engine: Engine) -> Iterator[Session]:
    """Open a read transaction, which sees one consistent state of the registry."""
    with _transaction(engine, "BEGIN") as session:
        yield session


@contextmanager
def write(engine: Engine) -> Iterator[Session]:
    """Open a write transaction: commit at the end of the block, roll back on any exception."""
    with _transaction(engine, "BEGIN IMMEDIATE") as session:
        yield session


@contextmanager
def exclusive_connection(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a write transaction in which tables may be rebuilt.

    Foreign keys are off: with them on, rebuilding a parent table deletes its children. Run `PRAGMA
    foreign_key_check` before the end of the block. The switch has no effect inside a transaction,
    so it is made here.
    """
    with engine.connect().execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}) as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None  # noqa: S101 - it has just been opened
        driver.cursor().execute("PRAGMA foreign_keys = OFF")
        with connection.begin():
            yield connection


@contextmanager
def described_errors(database: Path) -> Iterator[None]:
    """Turn SQLite's errors about `database` into condu's."""
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.DatabaseError):
            raise
        raise _describe(error.orig, database) from error
    except sqlite3.DatabaseError as error:
        raise _describe(error, database) from error


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


@contextmanager
def _transaction(engine: Engine, begin: str) -> Iterator[Session]:
    with Session(engine.execution_options(**{_BEGIN: begin})) as session, session.begin():
        session.connection()  # begin now: a writer must lock before it reads
        yield session


def _uri(database: Path) -> str:
    """Return the URI that opens `database` for writing, or read-only if its folder is.

    Even to be read, a WAL database needs files beside it. In a folder that is not writable (an
    example in a package, a mounted backup) it is opened as immutable. SQLite then takes no locks:
    if a user who may write there commits at that very moment, the reader can see pages of both
    states. No wrong session is ever returned, because each is compared with its id; the read fails,
    and can be repeated.
    """
    uri = database.absolute().as_uri()
    writable = os.access(database.parent, os.W_OK)
    return f"{uri}?mode=rw" if writable else f"{uri}?mode=ro&immutable=1"


def _describe(error: sqlite3.DatabaseError, database: Path) -> ConduError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return LockedError(
            f"{database} is locked by another process", reason="registry-locked", path=database
        )
    if isinstance(error, sqlite3.OperationalError) and not text.startswith(_CORRUPT):
        return ConduError(
            f"cannot use {database}: {text}", reason="database-unusable", path=database
        )
    return IntegrityError(
        f"{database} is not an intact registry database: {text}",
        reason="database-corrupt",
        path=database,
        copies=sorted(path.name for path in (database.parent / "backups").glob("*.sqlite")),
    )
