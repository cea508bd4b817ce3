import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from condu_cli.registry.integrity import check_database
from condu_cli.registry.manifest import Session
from condu_cli.registry.repository import Registry

Learn = Callable[[str], Session]


@pytest.fixture
def sessions(registry: Registry, learn: Learn) -> list[Session]:
    """Return three sessions, the oldest two stored as patches."""
    a, b, c = learn("a"), learn("b"), learn("c")
    with registry.lock("gc"):
        registry.record_pack(a, b, None)
        registry.record_pack(b, c, None)
    return [a, b, c]


def execute(registry: Registry, statement: str, *values: object) -> None:
    """Run a statement with every check off."""
    with closing(sqlite3.connect(registry.paths.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)


def test_a_sound_database_has_no_faults(registry: Registry, sessions: list[Session]) -> None:
    assert registry.head() == sessions[2]
    assert check_database(registry) == []


def test_an_empty_one_has_none_either(registry: Registry) -> None:
    assert check_database(registry) == []


def test_a_row_without_its_parent_is_named(registry: Registry, sessions: list[Session]) -> None:
    execute(registry, "DELETE FROM blobs WHERE sha256 = ?", sessions[0].shared)
    assert check_database(registry) == ["row 1 of sessions refers to a missing row of blobs"]


def test_only_the_first_rows_without_their_parent_are_named(
    registry: Registry, sessions: list[Session]
) -> None:
    assert len(sessions) == 3
    execute(registry, "DELETE FROM blobs")
    assert len(check_database(registry)) == 5


@pytest.mark.usefixtures("sessions")
def test_a_figure_that_sqlite_would_refuse_is_named(registry: Registry) -> None:
    execute(registry, "UPDATE blobs SET size = -1")
    assert any("CHECK constraint failed in blobs" in fault for fault in check_database(registry))


def test_a_session_that_was_altered_is_named(registry: Registry, sessions: list[Session]) -> None:
    execute(registry, "UPDATE sessions SET task = 'x' WHERE id = ?", sessions[1].id)
    (fault,) = check_database(registry)
    assert f"the record of session {sessions[1].id} was altered after its commit" == fault


def test_a_head_that_was_collected_is_named(registry: Registry, sessions: list[Session]) -> None:
    execute(registry, "INSERT INTO collected VALUES (?, '2026')", sessions[2].id)
    assert f"HEAD is at session {sessions[2].id}, which was collected" in check_database(registry)


def test_a_patch_on_a_collected_session_is_named(
    registry: Registry, sessions: list[Session]
) -> None:
    execute(registry, "INSERT INTO collected VALUES (?, '2026')", sessions[1].id)
    assert check_database(registry) == [
        f"session {sessions[0].id} is a patch on {sessions[1].id}, which is missing"
    ]


def test_a_patch_on_a_session_that_never_was_is_named_and_does_nothing_to_a_terminal(
    registry: Registry, sessions: list[Session]
) -> None:
    execute(registry, "UPDATE packs SET reference = ? WHERE session = ?", "\x1b[2J", sessions[0].id)
    faults = check_database(registry)
    assert f"session {sessions[0].id} is a patch on '\\x1b[2J', which is missing" in faults
    assert all(fault.isprintable() for fault in faults)


def test_patches_that_form_a_cycle_are_named(registry: Registry, sessions: list[Session]) -> None:
    execute(
        registry,
        "UPDATE packs SET reference = ? WHERE session = ?",
        sessions[0].id,
        sessions[1].id,
    )
    assert check_database(registry) == [
        f"the patches of session {session.id} form a cycle" for session in sessions[:2]
    ]
