"""Migrate a registry's database to this program's schema when it is opened.

The revision is compared with the standard library alone; Alembic is imported only to migrate, and
never for a new database. An older database is locked, backed up and upgraded in one transaction; a
newer one is refused.
"""

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from condu_cli._version import __version__
from condu_cli.disk import flush_file, flush_folder
from condu_cli.errors import ConduError, IntegrityError, RegistryTooNewError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.database.copying import copy_standalone, remove_database
from condu_cli.registry.database.engine import (
    connect,
    described_errors,
    exclusive_connection,
    make_engine,
)
from condu_cli.registry.files.drafts import draft_name
from condu_cli.registry.files.lock import RegistryLock
from condu_cli.registry.files.paths import RegistryPaths

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

SCHEMA_REVISION = "0006"
SCHEMA = Path(__file__).with_name("schema.sql")
"""The schema at that revision; tests/unit/registry/database writes the file."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,39}", re.ASCII)

Notify = Callable[[str], None]


def create_database(paths: RegistryPaths) -> None:
    """Create an empty database with the current schema, from SQL.

    The migrations create the same schema, word for word (a test compares the two), but need
    Alembic, which takes longer to import than everything else that `condu init` does.
    """
    schema = SCHEMA.read_text(encoding="utf-8")
    stamp = f"INSERT INTO alembic_version VALUES ('{SCHEMA_REVISION}');"  # noqa: S608 - ours
    paths.database.touch(exist_ok=False)
    with described_errors(paths.database), closing(connect(paths.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN IMMEDIATE; {schema} {stamp} COMMIT;")


def ensure_current(paths: RegistryPaths, notify: Notify | None = None) -> None:
    """Migrate an older database, accept a current one, refuse a newer one."""
    if current_revision(paths.database) == SCHEMA_REVISION:
        return
    _refuse_unknown(paths.database)
    with RegistryLock(paths.lock).acquire("migration"):
        # Another process may have migrated while this one waited.
        before = current_revision(paths.database)
        if before == SCHEMA_REVISION:
            return
        with described_errors(paths.database):
            backup = back_up(paths, f"before-{SCHEMA_REVISION}-was-{before}")
            _upgrade(paths.database)
    if notify is not None:
        notify(
            f"migrated the registry at {paths.root} from schema {before} to {SCHEMA_REVISION}; "
            f"the previous database was copied to {backup}"
        )


def current_revision(database: Path) -> str:
    """Return the schema revision that the database records."""
    with described_errors(database), closing(connect(database)) as connection:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise IntegrityError(
            f"{database} does not record its schema", reason="schema-unknown", path=database
        )
    return str(rows[0][0])


def back_up(paths: RegistryPaths, label: str) -> Path:
    """Copy the current database into backups/ and return the copy's path."""
    stamp = utc_now().replace(":", "").replace("-", "").replace(".", "")
    target = paths.backups / f"condu-{stamp}-{label}.sqlite"
    draft = paths.tmp / f"{draft_name()}.sqlite"  # where gc finds it if the process is killed
    try:
        for folder in (paths.backups, paths.tmp):
            folder.mkdir(exist_ok=True)  # git, for one, does not keep empty folders
        copy_standalone(paths.database, draft)
        flush_file(draft)
        draft.replace(target)
        flush_folder(paths.backups)
    except OSError as error:
        raise ConduError(
            f"cannot back the database up to {target}: {error.strerror or error}",
            reason="cannot-write",
            path=target,
            consequence="nothing was changed",
        ) from error
    finally:
        remove_database(draft)
    return target


def migrations_folder() -> Path:
    """Return the folder of the Alembic scripts, in the wheel or in a checkout."""
    with suppress(ImportError):
        package = import_module("condu_cli.migrations")
        return Path(os.fspath(next(iter(package.__path__))))
    return Path(__file__).resolve().parents[3] / "migrations"


def known_revisions() -> set[str]:
    """Return every schema revision that this program can upgrade."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    return {script.revision for script in scripts.walk_revisions()}


def run_migrations(connection: "Connection", revision: str) -> None:
    """Run all missing migrations up to a revision, in the caller's transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _refuse_unknown(database: Path) -> None:
    """Raise RegistryTooNewError unless the database's revision is one that we can upgrade."""
    revision = current_revision(database)
    if revision in known_revisions():
        return
    writer = _written_by(database)
    raise RegistryTooNewError(
        f"the registry at {database.parent} has schema {ascii(revision[:40])[1:-1]}"
        + (f", written by condu {writer}" if writer else "")
        + f"; condu {__version__} knows schemas up to {SCHEMA_REVISION}",
        reason="registry-too-new",
        path=database.parent,
        writer=writer,
        knows=SCHEMA_REVISION,
    )


def _written_by(database: Path) -> str | None:
    """Return the version that wrote the database, if its schema still records it this way.

    A hint suggests pasting it into a shell, so it must be a version and nothing else.
    """
    with suppress(sqlite3.DatabaseError), closing(connect(database)) as connection:
        row = connection.execute("SELECT written_by FROM registry").fetchone()
        return str(row[0]) if row and _VERSION.fullmatch(str(row[0])) else None
    return None


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    # ConfigParser reads the value, and a percent sign is special to it.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(database: Path) -> None:
    """Run all missing migrations in one transaction."""
    engine = make_engine(database)
    with exclusive_connection(engine) as connection:
        try:
            run_migrations(connection, SCHEMA_REVISION)
        except (
            ValueError,
            TypeError,
            RecursionError,
        ) as error:  # from a row that condu never wrote
            raise IntegrityError(
                f"{database} cannot be migrated: its content was altered ({error})",
                reason="cannot-migrate",
                path=database,
            ) from error
        connection.exec_driver_sql("UPDATE registry SET written_by = ?", (__version__,))
        orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if orphans:
            raise IntegrityError(
                f"a migration of {database} would leave {len(orphans)} rows without a parent",
                reason="migration-leaves-orphans",
                path=database,
                rows=len(orphans),
            )
