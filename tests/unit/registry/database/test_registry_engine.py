import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError, LockedError
from condu_cli.registry.database import engine as database_engine
from condu_cli.registry.database.engine import (
    connect,
    described_errors,
    exclusive_connection,
    log_of,
    make_engine,
    read,
    write,
)
from condu_cli.registry.repository import Registry


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a WAL database with one parent, in a folder whose name is special in a URI."""
    folder = tmp_path / "a folder? with #names & 100%"
    folder.mkdir()
    path = folder / "condu.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE child (parent INTEGER REFERENCES parent (id))")
        connection.execute("INSERT INTO parent VALUES (1)")
        connection.commit()
    return path


def count(session: Session, table: str = "parent") -> int:
    return session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608


def insert(session: Session, number: int) -> None:
    session.execute(text("INSERT INTO parent VALUES (:n)"), {"n": number})


def fail_after_writing(database: Path) -> None:
    with write(make_engine(database)) as session:
        insert(session, 2)
        raise KeyError


def test_a_write_is_there_afterwards(database: Path) -> None:
    engine = make_engine(database)
    with write(engine) as session:
        insert(session, 2)
    with read(engine) as session:
        assert count(session) == 2


def test_a_failed_write_leaves_nothing(database: Path) -> None:
    with pytest.raises(KeyError):
        fail_after_writing(database)
    with read(make_engine(database)) as session:
        assert count(session) == 1


def test_schema_changes_roll_back_too(database: Path) -> None:
    engine = make_engine(database)

    def fail_after_creating() -> None:
        with write(engine) as session:
            session.execute(text("CREATE TABLE half (x)"))
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_creating()
    with (
        pytest.raises(IntegrityError, match="no such table"),
        described_errors(database),
        read(engine) as session,
    ):
        count(session, "half")


def test_a_reader_sees_one_state_while_a_writer_works(database: Path) -> None:
    engine = make_engine(database, busy_seconds=0)
    with read(engine) as reader:
        assert count(reader) == 1
        with write(engine) as writer:
            insert(writer, 2)
            assert count(reader) == 1
            with read(engine) as second_reader:
                assert count(second_reader) == 1
        assert count(reader) == 1
    with read(engine) as later:
        assert count(later) == 2


def test_a_second_writer_waits_and_then_learns_that_it_is_locked(database: Path) -> None:
    engine = make_engine(database, busy_seconds=0.05)
    with (
        write(engine),
        pytest.raises(LockedError, match="locked") as locked,
        described_errors(database),
        write(engine),
    ):
        pytest.fail("two writers at once")
    assert str(database) in locked.value.message


def test_foreign_keys_hold(database: Path) -> None:
    engine = make_engine(database)
    with (
        pytest.raises(IntegrityError, match="FOREIGN KEY"),
        described_errors(database),
        write(engine) as session,
    ):
        session.execute(text("INSERT INTO child VALUES (99)"))


def test_foreign_keys_are_off_where_tables_are_rebuilt(database: Path) -> None:
    engine = make_engine(database)
    with exclusive_connection(engine) as connection:
        connection.exec_driver_sql("INSERT INTO child VALUES (99)")
        assert len(connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()) == 1
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            closing(connect(database, busy_seconds=0)) as other,
        ):
            other.execute("BEGIN IMMEDIATE")


def test_every_commit_reaches_the_disk(database: Path) -> None:
    with closing(connect(database)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_no_connection_outlives_its_transaction(database: Path) -> None:
    engine = make_engine(database)
    with write(engine) as session:
        insert(session, 2)
    assert [path.name for path in database.parent.iterdir()] == ["condu.sqlite"]


def test_opening_never_creates_a_database(tmp_path: Path) -> None:
    missing = tmp_path / "condu.sqlite"
    with (
        pytest.raises(ConduError, match="unable to open"),
        described_errors(missing),
        read(make_engine(missing)) as session,
    ):
        count(session)
    assert not missing.exists()


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"\0" * 4096])
def test_a_file_that_is_not_a_database_is_an_integrity_error(
    database: Path, content: bytes
) -> None:
    database.write_bytes(content)
    with (
        pytest.raises(IntegrityError) as corrupt,
        described_errors(database),
        read(make_engine(database)) as session,
    ):
        count(session)
    assert str(database) in corrupt.value.message
    assert hint_of(corrupt.value) == "Restore condu.sqlite from a backup"  # there are no others
    copy = database.parent / "backups" / "condu-2026-0001.sqlite"
    copy.parent.mkdir()
    copy.write_bytes(b"")
    with pytest.raises(IntegrityError) as again, described_errors(database):
        raise sqlite3.DatabaseError("file is not a database")
    assert hint_of(again.value).endswith(f"are in backups/: {copy.name}")


def test_a_truncated_database_is_an_integrity_error(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5000])
    with (
        pytest.raises(IntegrityError),
        described_errors(database),
        read(make_engine(database)) as session,
    ):
        count(session)


@pytest.fixture
def unwritable(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the database in a folder without write permission, even for root."""
    folder = database.parent
    access = os.access
    mode = folder.stat().st_mode
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(os, "access", lambda path, how: path != folder and access(path, how))
    yield database
    folder.chmod(mode)


def test_a_folder_without_write_permission_can_be_read(unwritable: Path) -> None:
    with read(make_engine(unwritable)) as session:
        assert count(session) == 1
        assert [path.name for path in unwritable.parent.iterdir()] == ["condu.sqlite"]


def test_a_folder_without_write_permission_is_not_written(unwritable: Path) -> None:
    with (
        pytest.raises(ConduError, match="readonly") as refused,
        described_errors(unwritable),
        write(make_engine(unwritable)) as session,
    ):
        insert(session, 2)
    assert refused.value.exit_code == 1


def test_errors_that_are_not_sqlites_pass() -> None:
    with pytest.raises(ZeroDivisionError), described_errors(Path("x")):
        _ = 1 // 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of files")
def test_a_disk_without_room_for_shared_memory_can_be_read(database: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, before[1]))  # shared memory takes 32 KiB
    try:
        for _ in range(2):
            with read(make_engine(database)) as session:
                assert count(session) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with write(make_engine(database)) as session:
        insert(session, 2)


# A folder that may only be read


@pytest.fixture
def unmerged(registry: Registry, tmp_path: Path) -> Path:
    """A copy of a registry whose last change is in the log alone, as a killed writer leaves it."""
    copy = tmp_path / "copy"
    with closing(connect(registry.paths.database)) as reader:  # the last one out would merge it
        reader.execute("PRAGMA wal_autocheckpoint = 0")
        with registry.lock("init"), write(make_engine(registry.paths.database)) as transaction:
            transaction.execute(text("UPDATE registry SET written_by = 'unmerged'"))
        shutil.copytree(registry.path, copy)
    (copy / "condu.sqlite-shm").unlink(missing_ok=True)
    return copy / "condu.sqlite"


@pytest.fixture
def lock_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every folder one that may only be read, also for root, who may write anywhere."""
    return lambda: monkeypatch.setattr("os.access", lambda path, mode: False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def written_by(database: Path) -> str:
    with read(make_engine(database)) as transaction:
        return str(transaction.scalar(text("SELECT written_by FROM registry")))


def test_changes_that_were_not_merged_are_read(unmerged: Path, lock_up: Callable[[], None]) -> None:
    lock_up()
    before = files_of(unmerged.parent)
    assert written_by(unmerged) == "unmerged"
    assert files_of(unmerged.parent) == before


def test_what_is_written_to_a_copy_is_refused(unmerged: Path, lock_up: Callable[[], None]) -> None:
    lock_up()
    with (
        pytest.raises(ConduError, match="readonly"),
        described_errors(unmerged),
        write(make_engine(unmerged)) as transaction,
    ):
        transaction.execute(text("UPDATE registry SET written_by = 'lost'"))


@pytest.mark.parametrize("place", [shutil, database_engine])
def test_a_log_that_a_writer_removes_meanwhile_is_no_log(
    unmerged: Path,
    lock_up: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    place: ModuleType,
) -> None:
    lock_up()

    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(place, "copyfile" if place is shutil else "_state", gone)
    connect(unmerged).close()


def test_an_empty_log_is_no_reason_to_copy(
    registry: Registry, lock_up: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_up()
    log_of(registry.paths.database).touch()
    monkeypatch.setattr(database_engine, "_merged_in_memory", None)
    assert written_by(registry.paths.database) != "unmerged"


def test_a_database_that_changes_while_it_is_copied_is_copied_again(
    unmerged: Path, lock_up: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_up()
    states = iter([(0, 0), (0, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)])
    monkeypatch.setattr(database_engine, "_state", lambda file: next(states))
    assert written_by(unmerged) == "unmerged"
    assert len(list(states)) == 0
    monkeypatch.setattr(database_engine, "_state", lambda file: object())
    with pytest.raises(ConduError, match="changed at every attempt"), described_errors(unmerged):
        connect(unmerged)
