"""A database that condu did not write: whatever its cells hold, an error names the fault."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import one_in
from made_sessions import session_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.integrity import check_database
from condu_cli.registry.manifest import RegistryConfig, Session
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import UNDO, Aim

TABLES = (
    "registry",
    "head",
    "sessions",
    "experts",
    "session_tasks",
    "operations",
    "packs",
    "tags",
    "collected",
    "blobs",
    "sources",
)

ID = "c0ffee" + "0" * 58
NONSENSE: dict[str, object] = {
    "nothing": None,
    "bytes": b"\xff\x00",
    "empty": "",
    "a NUL": "\0",
    "lines": "a\n\x1b[2Jb",
    "a path": "../../etc/passwd",
    "an id": ID,
    "zero": 0,
    "negative": -(2**63),
    "huge": 2**63 - 1,
    "a float": 1e300,
    "infinity": float("inf"),
    "no JSON": "{not json",
    "JSON of another type": "[1]",
    "a JSON object": '{"a":{}}',
    "NaN in JSON": '[NaN,{"a":Infinity}]',
    "a lone surrogate": '["\\ud800"]',
    "a long number": "9" * 5000,
    "deep JSON": "[" * 100_000,
    "deep and whole JSON": "[" * 900 + "]" * 900,
    "not UTF-8": "CAST",  # see `overwrite`
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry with a row in every table; tests must not change it."""
    config = _config()
    registry = Registry.create(tmp_path_factory.mktemp("original") / "registry", config)
    sessions: list[Session] = []
    for number, task in enumerate("abcd"):
        head = registry.head()
        session = session_of(registry, task, head, seed=number)
        with registry.lock("learn"):
            sessions.append(registry.commit(session, command="learn", folder="/x"))
    registry.tag("best", sessions[1], "condu tag best")
    with registry.lock("gc"):
        registry.record_collected([sessions[0].id], "condu gc")
        patch = registry.blobs.put({})
        registry.record_pack(sessions[1], sessions[2], patch)
        registry.record_pack(sessions[2], sessions[3], None)
    return registry.path


def _config() -> RegistryConfig:
    from condu_cli.base_identity import BaseIdentity
    from condu_cli.registry.manifest import CodecChoice, ParameterShape

    base = BaseIdentity("tiny", "tiny", "nothing", "gelu", "b" * 64, 8)
    return RegistryConfig(base, "full", CodecChoice("condu"), (ParameterShape("w", (3, 4)),))


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def columns(original: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(original / "condu.sqlite")) as connection:
        return [
            (table, row[1])
            for table in TABLES
            for row in connection.execute(f"PRAGMA table_info({table})").fetchall()
        ]


def overwrite(path: Path, table: str, column: str, row: int, value: object) -> bool:
    """Write a value into one cell with every check off; return whether SQLite accepted it."""
    with closing(sqlite3.connect(path / "condu.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA foreign_keys = OFF")
        rows = [r for (r,) in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]  # noqa: S608
        given = "CAST(x'ff00fe' AS TEXT)" if value == "CAST" else "?"
        values = (rows[row % len(rows)],) if value == "CAST" else (value, rows[row % len(rows)])
        try:
            connection.execute(f"UPDATE {table} SET {column} = {given} WHERE rowid = ?", values)  # noqa: S608
        except sqlite3.IntegrityError:  # NOT NULL, UNIQUE and the type of a rowid always hold
            return False
        return True


def uses(registry: Registry) -> Iterator[Callable[[], object]]:
    """Return everything that reads rows; the first five must blame the database."""
    yield registry.sessions
    yield registry.history
    yield registry.operations
    yield lambda: check_database(registry)
    yield registry.blob_sizes
    yield registry.head
    yield registry.tags
    yield registry.packs
    yield lambda: registry.target(Aim(undo=True))
    yield lambda: registry.session_of_run("x")
    yield lambda: registry.target(Aim())
    yield lambda: registry.resolve("@~1")
    yield lambda: registry.resolve("best")
    yield lambda: registry.resolve("c0ff")


def error_of(use: Callable[[], object]) -> ConduError | None:
    try:
        use()
    except ConduError as error:
        return error
    return None


def assert_told(error: ConduError) -> None:
    assert error.message
    assert hint_of(error)
    assert error.message.isprintable()


def assert_every_use_works_or_tells(path: Path) -> None:
    try:
        registry = Registry.open(path)
    except IntegrityError as error:
        assert_told(error)
        return
    for number, use in enumerate(uses(registry)):
        error = error_of(use)
        if error is not None:
            assert number >= 5 or isinstance(error, IntegrityError)
            assert_told(error)
    with suppress(ConduError):
        history = registry.history()
        history.needed_blobs()
        history.spare_blobs()
        history.kept(1)


def commit_works_or_tells(path: Path) -> None:
    with suppress(ConduError):
        registry = Registry.open(path)
        head = registry.head()
        session = session_of(registry, "new", head, seed=9)
        with registry.lock("learn"):
            registry.commit(session, command="learn")
        registry.rollback(registry.target(Aim()), "condu rollback")
        registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)
        with registry.lock("gc"):
            registry.record_collected([s.id for s in registry.history().live[-1:]], "condu gc")


def test_the_untouched_copy_is_sound(copy: Path) -> None:
    registry = Registry.open(copy)
    assert check_database(registry) == []
    for use in uses(registry):
        with suppress(ConduError):
            use()
    assert len(registry.sessions()) == 4
    with closing(sqlite3.connect(copy / "condu.sqlite")) as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() > (0,)  # noqa: S608


@one_in(2)
@given(data=st.data())
def test_nonsense_in_any_cell_is_an_integrity_error_or_harmless(
    original: Path, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(shutil.copytree(original, Path(folder, "copy")))
        for _ in range(data.draw(st.integers(1, 3))):
            table, column = data.draw(st.sampled_from(columns(original)))
            value = NONSENSE[data.draw(st.sampled_from(sorted(NONSENSE)))]
            overwrite(path, table, column, data.draw(st.integers(0, 3)), value)
        assert_every_use_works_or_tells(path)
        commit_works_or_tells(path)
