"""One state of a registry, copied while others write to it.

SQLite copies the database in one read transaction, which no writer waits for. The files that this
copy refers to are immutable, but a writer may remove one that the registry no longer needs; then
the copy is stale, and the work starts over with a new one.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from condu_cli.errors import ConduError, IntegrityError, exhausted
from condu_cli.registry.database.copying import copy_standalone
from condu_cli.registry.database.engine import connect, described_errors
from condu_cli.registry.database.migration import ensure_current
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.repository import Registry

ATTEMPTS = 5
"""How many attempts are made before the last, which takes the lock."""

CHUNK = 1 << 20

_Result = TypeVar("_Result")


class VanishedError(Exception):
    """A file that a copy of the database refers to is gone."""


@dataclass(frozen=True)
class DraftPaths(RegistryPaths):
    """The paths of a registry whose database is still a draft."""

    draft: Path

    @property
    def database(self) -> Path:
        """The copy of the database."""
        return self.draft


def consistently(registry: Registry, command: str, attempt: Callable[[], _Result]) -> _Result:
    """Return the result of `attempt`; start over while it raises VanishedError."""
    for _ in range(ATTEMPTS):
        with suppress(VanishedError):
            return attempt()
    with registry.lock(command):
        try:
            return attempt()
        except VanishedError as error:
            raise IntegrityError(
                f"{error} is missing, and the registry at {registry.path} needs it",
                reason="needed-file-missing",
                path=str(error),
                registry=registry.path,
            ) from error


def copy_database(source: RegistryPaths, place: DraftPaths) -> Registry:
    """Copy the current database into a draft, and return the registry that it describes."""
    with described_errors(source.database):
        try:
            copy_standalone(source.database, place.draft)
        except sqlite3.OperationalError as error:
            raise ConduError(
                f"cannot copy {source.database} to {place.draft.parent}: {error}",
                reason="cannot-write",
                path=place.draft.parent,
            ) from error
    ensure_current(place)  # another condu may have migrated it since it was opened
    return Registry(place)


def set_wal(database: Path) -> None:
    """Set a draft to WAL mode, so that its readers never wait for a writer."""
    with described_errors(database), closing(connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def verified_chunks(path: Path, sha256: str) -> Iterator[memoryview]:
    """Yield the file's bytes in chunks, each valid until the next; at the end, check the hash.

    Raises VanishedError if the file is missing, IntegrityError if its hash is wrong.
    """
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(CHUNK))
    try:
        if path.is_symlink():
            raise _corrupt(path, "it is a symbolic link")
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise VanishedError(str(path)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        while size := _read(file.readinto, chunk, path):
            digest.update(chunk[:size])
            yield chunk[:size]
    if digest.hexdigest() != sha256:
        raise _corrupt(path, "its sha256 does not match")


@contextmanager
def described_writing(what: str, consequence: str) -> Iterator[None]:
    """Turn an OSError from writing into a ConduError."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ConduError(
            f"cannot {what}: {error.strerror or error}{where}",
            reason="cannot-write",
            path=error.filename,
            consequence=consequence,
        ) from error


def _read(readinto: Callable[[memoryview], int | None], chunk: memoryview, path: Path) -> int:
    try:
        return readinto(chunk) or 0
    except OSError as error:
        raise _unreadable(path, error) from error


def _corrupt(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is corrupt: {reason}", reason="copied-file-corrupt", path=path)


def _unreadable(path: Path, error: OSError) -> ConduError:
    return exhausted(error) or _corrupt(path, f"it cannot be read ({error.strerror or error})")
