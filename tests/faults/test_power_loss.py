"""A power cut loses what was not flushed: check the order of writes, flushes and renames.

A kill keeps what is in the system's memory, a power cut does not; so here the order itself is
checked. After `fsync` of a file its bytes are safe, after `fsync` of a folder its names are.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_registry as tiny
from steps import record

from condu_cli.registry.database.engine import connect
from condu_cli.registry.names import is_sha256
from condu_cli.registry.repository import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from steps import Steps

COMMITS = ("learn, first task", "learn, fourth task", "import", "forget", "rename")
PACKING = ("learn, fourth task", "forget")
MOVES = ("rollback", "undo")
REWRITES = ("gc",)
RECORDED = (*COMMITS, *MOVES, *REWRITES, "migration")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Steps]:
    """All steps of each operation."""
    return record(RECORDED, tmp_path_factory.mktemp("power"))


def statements_that_write(steps: Steps) -> Iterator[tuple[int, list[str]]]:
    """The index of every COMMIT, with the statements of its transaction."""
    statements: list[str] = []
    for place, step in enumerate(steps):
        if step.what in ("BEGIN", "COMMIT", "ROLLBACK"):
            if step.what == "COMMIT" and statements:
                yield place, statements
            statements = []
        elif step.text:
            statements.append(step.text)


def commit_of(steps: Steps, words: str) -> int:
    """The COMMIT of the transaction with a statement that contains these words."""
    for place, statements in statements_that_write(steps):
        if any(words in statement for statement in statements):
            return place
    raise AssertionError(f"no transaction has {words!r}")


def is_blob(path: str) -> bool:
    return is_sha256(Path(path).name)


def renames(steps: Steps) -> list[tuple[int, str, str]]:
    """Renames to a final name: (index, draft, name)."""
    found = [(n, *s.paths) for n, s in enumerate(steps) if s.what == "os.rename"]
    return [
        (n, old, new)
        for n, old, new in found
        if Path(new).parent.name != "tmp" and Path(new).name != "lock.holder"
    ]


def flushed(steps: Steps, path: str | Path, after: int, before: int) -> bool:
    return any(s.what == "fsync" and s.paths == (str(path),) for s in steps[after + 1 : before])


@pytest.mark.parametrize("name", [*COMMITS, *MOVES, *REWRITES])
def test_a_file_is_flushed_before_it_gets_its_name(
    name: str, recorded: Mapping[str, Steps]
) -> None:
    steps = recorded[name]
    placed = renames(steps)
    assert placed or name in ("rename", "undo")
    for number, draft, target in placed:
        assert flushed(steps, draft, -1, number), f"{target} is renamed before it is flushed"


@pytest.mark.parametrize("name", [*COMMITS, *MOVES])
def test_names_are_flushed_before_head_moves(name: str, recorded: Mapping[str, Steps]) -> None:
    """The folder of every blob, and `blobs` itself if that folder may be new."""
    steps = recorded[name]
    moved = commit_of(steps, "UPDATE head")
    for number, _, target in renames(steps):
        if is_blob(target) and number < moved:
            folder = Path(target).parent
            assert flushed(steps, folder, number, moved), f"{target} may be lost with its name"
            assert flushed(steps, folder.parent, number, moved), f"{folder} may be lost"


@pytest.mark.parametrize("name", [*PACKING, *REWRITES])
def test_a_patch_is_on_the_disk_before_it_is_recorded(
    name: str, recorded: Mapping[str, Steps]
) -> None:
    steps = recorded[name]
    words = ("INSERT INTO packs", "UPDATE packs")
    packs = [p for p, s in statements_that_write(steps) if any(t.startswith(words) for t in s)]
    assert packs
    for place in packs:
        earlier = [found for found in renames(steps) if found[0] < place and is_blob(found[2])]
        number, _, target = earlier[-1]
        assert flushed(steps, Path(target).parent, number, place)
        assert flushed(steps, Path(target).parent.parent, number, place)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "INTO packs") for name in PACKING),
        *((name, "UPDATE packs") for name in REWRITES),
        ("undo", "UPDATE head"),
    ],
)
def test_no_blob_is_removed_before_the_database_can_do_without_it(
    name: str, words: str, recorded: Mapping[str, Steps]
) -> None:
    steps = recorded[name]
    removed = [n for n, s in enumerate(steps) if s.what == "os.remove" and is_blob(s.paths[0])]
    assert removed
    assert removed[0] > commit_of(steps, words)


@pytest.mark.parametrize("name", ["learn, first task", "learn, fourth task", "import"])
def test_a_trained_expert_stays_until_head_has_it(name: str, recorded: Mapping[str, Steps]) -> None:
    steps = recorded[name]
    (number, target), *others = [(n, t) for n, _, t in renames(steps) if "/trained/" in t]
    assert not others
    locked = next(n for n, s in enumerate(steps) if s.paths and Path(s.paths[0]).name == "lock")
    folder = Path(target).parent
    assert flushed(steps, folder, number, locked), "it may be lost while others are waited for"
    assert flushed(steps, folder.parent, -1, locked), "its folder is new, and may be lost"
    gone = next(n for n, s in enumerate(steps) if s.what == "os.remove" and s.paths == (target,))
    assert gone > commit_of(steps, "UPDATE head")


def test_a_migration_has_its_backup_on_the_disk_first(recorded: Mapping[str, Steps]) -> None:
    steps = recorded["migration"]
    backup = next(found for found in renames(steps) if "/backups/" in found[2])
    changed = next(n for n, s in enumerate(steps) if s.what in ("CREATE", "ALTER"))
    assert flushed(steps, backup[1], -1, backup[0])
    assert flushed(steps, Path(backup[2]).parent, backup[0], changed)


def test_sqlite_waits_for_the_disk(tmp_path: Path) -> None:
    """synchronous=FULL: a committed transaction is in the log on the disk, not only in memory."""
    registry = tiny.create(tmp_path / "registry")
    with closing(connect(registry.paths.database)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_connection_of_a_commit_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tiny.create(tmp_path / "registry", 1)
    opened: list[sqlite3.Connection] = []
    real = sqlite3.connect

    def watched(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = real(*arguments, **options)  # type: ignore[call-overload]
        settings: list[str] = []
        connection.set_trace_callback(settings.append)
        opened.append(settings)  # type: ignore[arg-type]
        return connection  # type: ignore[no-any-return]

    monkeypatch.setattr(sqlite3, "connect", watched)
    tiny.learn(Registry.open(registry.path), "new")
    writers = [s for s in opened if any("BEGIN IMMEDIATE" in text for text in s)]  # type: ignore[attr-defined]
    assert len(writers) >= 2  # the session, and the pack of its parent
    for settings in writers:
        assert "PRAGMA synchronous = FULL" in settings  # type: ignore[operator]
