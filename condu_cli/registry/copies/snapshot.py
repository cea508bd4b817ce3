"""One state of a registry, copied while others write to it.

The database is copied by SQLite in one read transaction, which no writer waits for. The files
that this copy asks for are immutable, but a writer may remove one that the registry has stopped
asking for since; then the copy is out of date, and the work starts over with a new one.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from condu_cli.disk import flush_folder
from condu_cli.errors import ConduError, IntegrityError, exhausted
from condu_cli.registry.creation import draft_folders
from condu_cli.registry.database.copying import copy_standing_alone
from condu_cli.registry.database.engine import connect, described_errors
from condu_cli.registry.database.migration import ensure_current
from condu_cli.registry.files.drafts import draft_name
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.repository import Registry

ATTEMPTS = 5
"""How often the work starts over before it locks the writers out."""

CHUNK = 1 << 20

_Result = TypeVar("_Result")


class VanishedError(Exception):
    """A file that a copy of the database asks for is gone."""


@dataclass(frozen=True)
class DraftPaths(RegistryPaths):
    """A registry whose database has not got its name yet."""

    draft: Path

    @property
    def database(self) -> Path:
        """The copy of the database."""
        return self.draft


def consistently(registry: Registry, command: str, attempt: Callable[[], _Result]) -> _Result:
    """Return what `attempt` does; while it raises VanishedError, let it start over."""
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
                registry=registry.path,
            ) from error


def copy_database(source: RegistryPaths, place: DraftPaths) -> Registry:
    """Copy the database as it is now into a draft, and return the registry that it describes."""
    with described_errors(source.database):
        try:
            copy_standing_alone(source.database, place.draft)
        except sqlite3.OperationalError as error:
            raise ConduError(
                f"cannot copy {source.database} to {place.draft.parent}: {error}",
                reason="cannot-write",
                path=place.draft.parent,
            ) from error
    ensure_current(place)  # a newer condu may have migrated it since it was opened
    return Registry(place)


def set_wal(database: Path) -> None:
    """Mark a draft so that who opens it under its name never makes readers wait for a writer."""
    with described_errors(database), closing(connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def sound_chunks(path: Path, sha256: str) -> Iterator[memoryview]:
    """Yield the bytes of the file, each view until the next; at their end, check their hash.

    Raises VanishedError if there is no file, IntegrityError if it has other bytes.
    """
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(CHUNK))
    try:
        if path.is_symlink():
            raise _damaged(path, "it is a symbolic link")
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
        raise _damaged(path, "its sha256 does not match")


@contextmanager
def built_beside(place: Path) -> Iterator[Path]:
    """Yield a new folder beside `place`, to be renamed; what is left of it is removed."""
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    draft = place.parent / f".{place.name}-{draft_name()}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in draft_folders(place):
            shutil.rmtree(abandoned, ignore_errors=True)
        draft.mkdir()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: it holds what was built
                folder.rmdir()


def is_free(place: Path) -> bool:
    """Say whether a folder can be renamed to `place`: nothing is there, or an empty folder."""
    return not place.exists() or (
        place.is_dir() and not os.path.ismount(place) and not any(place.iterdir())
    )


def move_folder(draft: Path, place: Path) -> None:
    """Give a folder that is whole its name, for good."""
    if os.name == "nt" and place.exists():  # elsewhere a rename replaces an empty folder
        place.rmdir()
    draft.rename(place)
    flush_folder(place.parent)


@contextmanager
def described_writing(what: str, consequence: str) -> Iterator[None]:
    """Turn what the operating system says about writing into an error of ours."""
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


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is corrupt: {reason}", reason="copied-file-corrupt", path=path)


def _unreadable(path: Path, error: OSError) -> ConduError:
    return exhausted(error) or _damaged(path, f"it cannot be read ({error.strerror or error})")
