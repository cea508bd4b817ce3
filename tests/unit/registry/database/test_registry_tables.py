"""The database refuses invalid rows, whatever bug wrote them."""

import sqlite3
from contextlib import closing

import pytest

from condu_cli.registry.database.engine import connect
from condu_cli.registry.repository import Registry


@pytest.fixture
def session(registry: Registry, learn: object) -> str:
    assert callable(learn)
    return str(learn("a").id)


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO registry SELECT 2, format, created_at, written_by, base_id, "
        "base_architecture, base_pretrained, base_activation, base_weights_sha256, "
        "base_image_size, method, method_options, codec, codec_options, parameters, fingerprint, "
        "base_preparation FROM registry",
        "INSERT INTO head VALUES (2, NULL)",
        "UPDATE head SET session = 'nowhere'",
        "UPDATE sessions SET id = 'short'",
        "UPDATE sessions SET parent = 'nowhere'",
        "UPDATE sessions SET shared = 'nowhere'",
        "UPDATE experts SET learned_in = 'nowhere'",
        "UPDATE experts SET prototypes = 'nowhere'",
        "UPDATE session_tasks SET part = 'nowhere'",
        "UPDATE session_tasks SET expert = 99",
        "UPDATE session_tasks SET session = 'nowhere'",
        "UPDATE session_tasks SET record = NULL",
        "UPDATE session_tasks SET codec_options = NULL",
        "UPDATE session_tasks SET position = -1",
        "UPDATE operations SET to_session = 'nowhere'",
        "UPDATE operations SET at = NULL",
        "INSERT INTO tags VALUES ('best', 'nowhere', '2026')",
        "INSERT INTO tags SELECT 'best', id, NULL FROM sessions",
        "INSERT INTO tags SELECT 'best', id, '2026' FROM sessions UNION ALL "
        "SELECT 'best', id, '2027' FROM sessions",
        "INSERT INTO packs SELECT id, id, NULL FROM sessions",
        "INSERT INTO packs SELECT id, 'nowhere', NULL FROM sessions",
        "INSERT INTO packs SELECT 'nowhere', id, NULL FROM sessions",
        "INSERT INTO collected VALUES ('nowhere', '2026')",
        "INSERT INTO collected SELECT id, NULL FROM sessions",
        "INSERT INTO sources VALUES (99, '/pictures')",
        "INSERT INTO sources SELECT id, NULL FROM experts",
        "UPDATE blobs SET size = -1",
        "INSERT INTO blobs VALUES ('short', 1, 'part')",
        "DELETE FROM blobs",
        "DELETE FROM sessions",
        "DELETE FROM experts",
        "INSERT INTO session_tasks SELECT session, 7, name, expert, part, drift, "
        "record, codec_options FROM session_tasks",
        "INSERT INTO sessions SELECT replace(id, substr(id, 1, 1), 'x'), ordinal, parent, kind, "
        "task, created_at, shared, note, codec FROM sessions",
    ],
)
def test_the_database_refuses(registry: Registry, statement: str) -> None:
    with (
        closing(connect(registry.paths.database)) as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (
            "INSERT INTO packs SELECT parent, id, 'nowhere' FROM sessions WHERE parent",
            "FOREIGN KEY",
        ),
        ("INSERT INTO packs SELECT id, id, NULL FROM sessions", "ck_packs_reference"),
        (
            "INSERT INTO collected SELECT id, '2026' FROM sessions UNION ALL "
            "SELECT id, '2027' FROM sessions",
            "collected.session",
        ),
    ],
)
def test_a_session_is_stored_in_one_way_that_is_there(
    registry: Registry, learn: object, statement: str, constraint: str
) -> None:
    assert callable(learn)
    learn("a")
    learn("b")
    statement = statement.replace("WHERE parent", "WHERE parent IS NOT NULL")
    with (
        closing(connect(registry.paths.database)) as connection,
        pytest.raises(sqlite3.IntegrityError, match=constraint),
    ):
        connection.execute(statement)


def test_each_blob_is_recorded_with_its_size_and_use(registry: Registry, session: str) -> None:
    committed = registry.session(session)
    entry = committed.entry("a")
    with closing(connect(registry.paths.database)) as connection:
        rows = set(connection.execute("SELECT sha256, size, kind FROM blobs"))
    assert rows == {
        (entry.part, registry.blobs.size(entry.part), "part"),
        (entry.expert.prototypes, registry.blobs.size(entry.expert.prototypes), "prototypes"),
        (committed.shared, registry.blobs.size(str(committed.shared)), "shared"),
    }
