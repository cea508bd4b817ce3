import dataclasses
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import one_in, with_shared_fixtures
from made_sessions import session_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import (
    ConduError,
    IntegrityError,
    LockedError,
    NoRegistryError,
    NotFoundError,
    UsageError,
)
from condu_cli.registry.manifest import Operation, RegistryConfig, Session
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import UNDO, Aim

Learn = Callable[[str], Session]


def execute(registry: Registry, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        connection.execute(statement, values)
        connection.commit()


# --- opening ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["missing", "folder"])
def test_without_a_registry_the_hint_is_to_create_one(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NoRegistryError) as missing:
        Registry.open(tmp_path / place)
    assert str(tmp_path / place) in missing.value.message
    assert "condu init" in hint_of(missing.value)
    assert "condu learn" in hint_of(missing.value)
    assert missing.value.exit_code == 10


def test_a_path_that_is_a_file_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoRegistryError, match="is a file") as refused:
        Registry.open(tmp_path / "file")
    assert hint_of(refused.value) == "Name another folder with --registry"


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_corrupt_database_is_an_integrity_error(registry: Registry, keep: int) -> None:
    registry.paths.database.write_bytes(registry.paths.database.read_bytes()[:keep])
    with pytest.raises(IntegrityError) as corrupt:
        Registry.open(registry.path)
    assert str(registry.path) in corrupt.value.message
    assert hint_of(corrupt.value)


def test_an_interrupted_creation_is_recognised(registry: Registry) -> None:
    execute(registry, "DELETE FROM registry")
    with pytest.raises(IntegrityError, match="empty"):
        Registry.open(registry.path)


def test_a_registry_reads_the_same_after_it_is_opened_again(
    registry: Registry, learn: Learn
) -> None:
    learn("pets")
    learn("dtd")
    again = Registry.open(registry.path)
    assert again.config == registry.config
    assert again.created_at == registry.created_at
    assert again.sessions() == registry.sessions()
    assert again.head() == registry.head()
    assert again.operations() == registry.operations()


def test_a_registry_may_be_moved(registry: Registry, learn: Learn, tmp_path: Path) -> None:
    session = learn("pets")
    moved = Registry.open(shutil.copytree(registry.path, tmp_path / "elsewhere #2"))
    assert moved.head() == session
    moved.blobs.verify(session.entry("pets").part)


# --- committing ------------------------------------------------------------------------------


def test_a_commit_makes_a_session_head(registry: Registry) -> None:
    session = session_of(registry, "pets", None, seed=1)
    with registry.lock("learn"):
        assert registry.commit(session, command="condu learn --task pets") == session
    assert registry.head() == registry.session(session.id) == session
    operation = registry.operations()[0]
    assert operation == Operation(
        2, session.created_at, "learn", None, session.id, "condu learn --task pets"
    )


def test_times_are_utc_with_microseconds(learn: Learn) -> None:
    from datetime import datetime, timezone

    at = datetime.strptime(learn("pets").created_at, "%Y-%m-%dT%H:%M:%S.%fZ")
    age = datetime.now(timezone.utc) - at.replace(tzinfo=timezone.utc)
    assert 0 <= age.total_seconds() < 60


def test_sessions_form_a_chain(registry: Registry, learn: Learn) -> None:
    first, second, third = learn("a"), learn("b"), learn("c")
    assert [s.parent for s in (first, second, third)] == [None, first.id, second.id]
    assert registry.sessions() == [third, second, first]
    assert registry.ancestors(third) == [second, first]
    assert registry.ancestors(first) == []
    assert [entry.name for entry in third.entries] == ["a", "b", "c"]
    assert [entry.learned_in for entry in third.entries] == [first.id, second.id, third.id]


def test_an_expert_is_stored_once_however_many_sessions_carry_it(
    registry: Registry, learn: Learn
) -> None:
    for task in "abc":
        learn(task)
    with closing(sqlite3.connect(registry.paths.database)) as connection:
        assert connection.execute("SELECT count(*) FROM experts").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM session_tasks").fetchone() == (6,)


def test_learning_a_task_again_replaces_its_expert(registry: Registry, learn: Learn) -> None:
    first = learn("a")
    second = learn("a")
    assert [entry.learned_in for entry in second.entries] == [second.id]
    assert registry.session(first.id).entry("a").learned_in == first.id


def test_an_expert_may_be_carried_under_another_name(registry: Registry, learn: Learn) -> None:
    first = learn("a")
    renamed = dataclasses.replace(first.entry("a"), name="b")
    second = Session.on(first.id, "import", "b", first.shared, [renamed])
    with registry.lock("rename"):
        registry.commit(second, command="rename")
    assert registry.session(second.id).entry("b").expert == first.entry("a").expert
    assert registry.session(second.id).entry("b").learned_in == first.id


def test_the_last_task_may_be_forgotten(registry: Registry, learn: Learn) -> None:
    first = learn("a")
    empty = Session.on(first.id, "forget", "a", None, [])
    with registry.lock("forget"):
        registry.commit(empty, command="condu forget a")
    assert registry.head() == empty
    assert (empty.shared, empty.entries, empty.blobs()) == (None, (), set())


def test_what_is_known_about_an_expert_never_changes(registry: Registry, learn: Learn) -> None:
    first = learn("a")
    entry = first.entry("a")
    other = dataclasses.replace(
        entry, expert=dataclasses.replace(entry.expert, classes=("changed",))
    )
    altered = Session.on(first.id, "learn", "a", first.shared, [other])
    with registry.lock("learn"), pytest.raises(ConduError, match="'a'"):
        registry.commit(altered, command="x")
    assert registry.head() == first


def test_a_commit_without_the_lock_is_a_mistake_of_the_caller(registry: Registry) -> None:
    session = session_of(registry, "pets", None, seed=1)
    with pytest.raises(RuntimeError, match="lock"):
        registry.commit(session, command="learn")
    other = Registry.open(registry.path)
    with other.lock("other"), pytest.raises(RuntimeError, match="lock"):
        registry.commit(session, command="learn")


def test_a_commit_on_a_session_that_is_no_longer_head_is_refused(
    registry: Registry, learn: Learn
) -> None:
    session = session_of(registry, "late", None, seed=99)
    meanwhile = learn("quick")
    with registry.lock("learn"), pytest.raises(ConduError, match="HEAD moved") as refused:
        registry.commit(session, command="condu learn --task late")
    assert "again" in hint_of(refused.value)
    assert registry.sessions() == [meanwhile]
    assert len(registry.operations()) == 2


@pytest.mark.parametrize("what", ["shared", "part", "prototypes"])
def test_a_session_whose_blobs_are_not_all_there_is_refused(registry: Registry, what: str) -> None:
    session = session_of(registry, "pets", None, seed=1)
    assert session.shared is not None
    entry = session.entries[0]
    missing = {"shared": session.shared, "part": entry.part, "prototypes": entry.expert.prototypes}
    registry.blobs.path(missing[what]).unlink()
    with registry.lock("learn"), pytest.raises(IntegrityError, match=missing[what]):
        registry.commit(session, command="learn")
    assert registry.head() is None
    assert registry.sessions() == []


CRASH = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_sessions import session_of
from condu_cli.registry.database import rows
from condu_cli.registry.repository import Registry
registry = Registry.open(Path(sys.argv[1]))
head = registry.head()
session = session_of(registry, "crash", head, seed=77)
if sys.argv[3] == "in the transaction":
    rows.move_head = lambda *_, **__: os._exit(9)
else:
    os._exit(9)
with registry.lock("learn"):
    registry.commit(session, command="learn")
"""


@pytest.mark.parametrize("moment", ["after the blobs", "in the transaction"])
def test_a_crash_leaves_the_old_head_and_at_most_unreferenced_blobs(
    registry: Registry, learn: Learn, moment: str
) -> None:
    head = learn("a")
    before = {ref.sha256 for ref in registry.blobs.all()}
    run = subprocess.run(
        [sys.executable, "-c", CRASH, str(registry.path), str(Path(__file__).parent), moment],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 9, run.stderr
    again = Registry.open(registry.path)
    assert again.head() == head
    assert again.sessions() == [head]
    assert before < {ref.sha256 for ref in again.blobs.all()}
    for sha256 in head.blobs():
        again.blobs.verify(sha256)
    assert learn("b").parent == head.id


def test_readers_are_not_kept_waiting_by_the_lock(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    with registry.lock("condu learn"):
        other = Registry.open(registry.path)
        assert other.head() == session
        with pytest.raises(LockedError, match="condu learn"), other.lock("mine", timeout=0):
            pytest.fail("two writers at once")


# --- integrity -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alteration",
    [
        "UPDATE sessions SET task = 'other'",
        "UPDATE sessions SET created_at = '2000-01-01T00:00:00.000000Z'",
        "UPDATE sessions SET note = '{}'",
        "UPDATE sessions SET note = 'not json'",
        "UPDATE sessions SET shared = NULL",
        "UPDATE session_tasks SET record = replace(record, '12.5', '12.500000000001')",
        'UPDATE session_tasks SET codec_options = \'{"dtype":"int8"}\'',
        'UPDATE sessions SET codec = \'{"name":"condu","options":{}}\'',
        "UPDATE session_tasks SET name = 'other'",
        "UPDATE session_tasks SET name = '../other'",
        "UPDATE session_tasks SET part = (SELECT shared FROM sessions)",
        "UPDATE experts SET classes = '[\"other\"]'",
        "UPDATE experts SET classes = '7'",
        "UPDATE experts SET training = '{}'",
        "DELETE FROM session_tasks",
    ],
)
def test_an_altered_row_is_noticed_when_its_session_is_read(
    registry: Registry, learn: Learn, alteration: str
) -> None:
    session = learn("a")
    execute(registry, alteration)
    for use in (registry.head, registry.sessions, lambda: registry.session(session.id)):
        with pytest.raises(IntegrityError, match=session.id) as altered:
            use()
        assert hint_of(altered.value) == "Restore condu.sqlite from a backup"


@pytest.mark.parametrize("column", ["parameters", "codec_options", "method_options"])
@pytest.mark.parametrize("text", ["not json", "7", "[[1]]", "[]"])
def test_a_corrupt_description_of_the_registry_is_noticed(
    registry: Registry, column: str, text: str
) -> None:
    execute(registry, f"UPDATE registry SET {column} = ?", text)  # noqa: S608
    with pytest.raises(IntegrityError, match="parameters"):
        Registry.open(registry.path)


# --- naming sessions -------------------------------------------------------------------------


def test_a_session_is_named_by_its_place_or_by_its_id(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    for text in ("@", "HEAD", "@~0", second.id, second.id[:4], second.id[:12].upper()):
        assert registry.resolve(text) == second
    for text in ("@~1", "HEAD~1", first.id, first.id[:9]):
        assert registry.resolve(text) == first
    assert registry.resolve("@~2") is None


def test_the_state_before_the_first_session_is_none(registry: Registry) -> None:
    assert registry.resolve("@") is None
    with pytest.raises(NotFoundError, match="0 sessions"):
        registry.resolve("@~1")


@pytest.mark.parametrize("text", ["@~3", "HEAD~99", "0000", "zzzz", "", "abc"])
def test_a_session_that_is_not_there_is_not_found(
    registry: Registry, learn: Learn, text: str
) -> None:
    learn("a")
    learn("b")
    with pytest.raises(NotFoundError) as missing:
        registry.resolve(text)
    assert "condu log" in hint_of(missing.value)
    assert missing.value.exit_code == 4


def test_a_rolled_back_session_still_has_its_name(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    registry.rollback(first, "condu rollback")
    assert registry.resolve(second.id[:12]) == second
    assert registry.resolve("@") == first
    assert registry.sessions() == [second, first]


def test_an_unknown_full_id_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="f" * 64):
        registry.session("f" * 64)


# --- rollback and undo -----------------------------------------------------------------------


def test_a_rollback_moves_head_and_is_recorded(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    operation = registry.rollback(first, "condu rollback")
    assert registry.head() == first
    assert operation == registry.operations()[0]
    assert (operation.kind, operation.from_session, operation.to_session) == (
        "rollback",
        second.id,
        first.id,
    )


def test_a_rollback_may_go_before_the_first_session(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    assert registry.target(Aim()) is None
    registry.rollback(None, "condu rollback")
    assert registry.head() is None
    registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)
    assert registry.head() == session


def test_the_target_of_a_rollback_is_n_sessions_back(registry: Registry, learn: Learn) -> None:
    first, second, _ = learn("a"), learn("b"), learn("c")
    assert registry.target(Aim()) == second
    assert registry.target(Aim(steps=2)) == first
    assert registry.target(Aim(steps=3)) is None
    for steps in (4, 0, -1):
        with pytest.raises(UsageError, match="cannot go back"):
            registry.target(Aim(steps=steps))


def test_a_rollback_to_where_head_is_changes_nothing(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    with pytest.raises(UsageError, match="already"):
        registry.rollback(session, "condu rollback")
    assert len(registry.operations()) == 2


def test_a_rollback_takes_the_lock(registry: Registry, learn: Learn) -> None:
    learn("a")
    other = Registry.open(registry.path)
    with other.lock("condu learn"):
        registry.lock = lambda command: Registry.lock(registry, command, timeout=0)  # type: ignore[assignment,method-assign,misc]
        with pytest.raises(LockedError, match="condu learn"):
            registry.rollback(None, "condu rollback")
        with pytest.raises(LockedError, match="condu learn"):
            registry.rollback(None, "condu rollback --undo", UNDO)


def test_a_rollback_inside_the_callers_lock_uses_that(registry: Registry, learn: Learn) -> None:
    learn("a")
    with registry.lock("condu rollback"):
        registry.rollback(None, "condu rollback")
        registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)


def test_a_commit_after_a_rollback_starts_a_branch(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    registry.rollback(first, "condu rollback")
    third = learn("c")
    assert third.parent == first.id
    assert [entry.name for entry in third.entries] == ["a", "c"]
    assert registry.sessions() == [third, second, first]
    with pytest.raises(UsageError, match="no rollback to undo") as refused:
        registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)
    assert "condu rollback SESSION" in hint_of(refused.value)
    assert registry.head() == third


def test_a_rollback_to_a_session_of_another_registry_is_refused(
    registry: Registry, learn: Learn
) -> None:
    session = learn("a")
    foreign = dataclasses.replace(session, id="e" * 64)
    with pytest.raises(NotFoundError):
        registry.rollback(foreign, "condu rollback")
    assert registry.head() == session


ACTIONS = st.lists(
    st.one_of(
        st.just(("learn", 0)),
        st.tuples(st.just("rollback"), st.integers(0, 5)),
        st.just(("undo", 0)),
    ),
    max_size=12,
)


@with_shared_fixtures(one_in(2))
@given(ACTIONS)
def test_head_moves_as_in_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory,
    config: RegistryConfig,
    actions: list[tuple[str, int]],
) -> None:
    """Compare with a list of heads: learning clears the stack, a rollback pushes, an undo pops."""
    registry = Registry.create(tmp_path_factory.mktemp("model") / "r", config)
    known: list[Session | None] = [None]
    head: Session | None = None
    stack: list[Session | None] = []
    for number, (action, choice) in enumerate(actions):
        if action == "learn":
            parent = None if head is None else head.id
            head = Session.on(parent, "learn", "t", None, [], note={"n": number})
            with registry.lock("learn"):
                registry.commit(head, command="learn")
            known.append(head)
            stack.clear()
        elif action == "rollback":
            target = known[choice % len(known)]
            if target == head:
                with pytest.raises(UsageError):
                    registry.rollback(target, "rollback")
            else:
                registry.rollback(target, "rollback")
                stack.append(head)
                head = target
        elif stack:
            registry.rollback(registry.target(Aim(undo=True)), "undo", UNDO)
            head = stack.pop()
        else:
            with pytest.raises(UsageError):
                registry.rollback(registry.target(Aim(undo=True)), "undo", UNDO)
        assert registry.head() == head
    assert registry.sessions() == [session for session in reversed(known) if session]
