import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_sessions import session_of

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import HeadMovedError, IntegrityError, LockedError, NotFoundError, UsageError
from condu_cli.registry.manifest import Pack, Session
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import UNDO, Aim

Learn = Callable[[str], Session]


# --- tags ------------------------------------------------------------------------------------


def test_a_tag_names_a_session_until_it_is_removed(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    registry.tag("best", first, "condu tag best @~1")
    assert registry.tags() == {"best": first.id}
    assert registry.resolve("best") == first
    assert registry.resolve("best~1") is None
    assert registry.head() == second
    assert registry.remove_tag("best", "condu tag --delete best") == first.id
    assert registry.tags() == {}
    with pytest.raises(NotFoundError, match="'best'"):
        registry.resolve("best")


def test_tags_are_listed_in_the_order_of_names(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    for name in ("z", "b", "m"):
        registry.tag(name, session, "condu tag")
    assert list(registry.tags()) == ["b", "m", "z"]


def test_tags_are_in_the_journal_and_move_nothing(registry: Registry, learn: Learn) -> None:
    session = learn("a")
    registry.tag("best", session, "condu tag best")
    registry.remove_tag("best", "condu tag --delete best")
    removed, made = registry.operations()[:2]
    assert (made.kind, made.from_session, made.to_session) == ("tag", None, session.id)
    assert (removed.kind, removed.from_session, removed.to_session) == ("untag", session.id, None)
    assert registry.head() == session


def test_a_name_in_use_is_refused_and_stays_where_it_is(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    registry.tag("best", first, "condu tag")
    with pytest.raises(UsageError, match=f"already exists, at session {first.id[:12]}") as refused:
        registry.tag("best", second, "condu tag")
    assert "condu tag --delete best" in hint_of(refused.value)
    assert registry.tags() == {"best": first.id}
    assert len(registry.operations()) == 4


def test_a_tag_that_is_not_there_hints_at_those_that_are(registry: Registry, learn: Learn) -> None:
    with pytest.raises(NotFoundError) as missing:
        registry.remove_tag("best", "condu tag --delete best")
    assert hint_of(missing.value) == "There are no tags"
    registry.tag("worst", learn("a"), "condu tag")
    with pytest.raises(NotFoundError) as missing:
        registry.remove_tag("best", "condu tag --delete best")
    assert hint_of(missing.value) == "Tags: worst"


def test_a_collected_session_gets_no_tag(registry: Registry, learn: Learn) -> None:
    first, _ = learn("a"), learn("b")
    with registry.lock("gc"):
        registry.record_collected([first.id], "condu gc")
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        registry.tag("best", first, "condu tag")
    assert registry.tags() == {}


def test_a_session_of_another_registry_gets_no_tag(registry: Registry, learn: Learn) -> None:
    foreign = replace(learn("a"), id="e" * 64)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        registry.tag("best", foreign, "condu tag")
    assert registry.tags() == {}


# --- packs -----------------------------------------------------------------------------------


def test_a_packed_session_has_a_patch_until_it_has_files(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    patch = registry.blobs.put({"flips": np.zeros(3, np.uint8)})
    with registry.lock("gc"):
        registry.record_pack(first, second, patch)
        assert registry.packs() == {first.id: Pack(first.id, second.id, patch.sha256)}
        assert registry.blob_sizes()[patch.sha256] == patch.size
        registry.record_pack(first, second, None)
        assert registry.packs() == {first.id: Pack(first.id, second.id, None)}
        registry.record_files(first)
        registry.record_files(first)
    assert registry.packs() == {}


def test_a_session_has_files_only_when_they_are_there(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    with registry.lock("gc"):
        registry.record_pack(first, second, None)
        registry.blobs.remove(first.entry("a").part)
        with pytest.raises(IntegrityError, match=first.entry("a").part):
            registry.record_files(first)
    assert first.id in registry.packs()


def test_head_never_moves_to_a_packed_session_without_files(
    registry: Registry, learn: Learn
) -> None:
    first, second = learn("a"), learn("b")
    with registry.lock("gc"):
        registry.record_pack(first, second, None)
        registry.blobs.remove(first.entry("a").part)
    with pytest.raises(IntegrityError, match="HEAD cannot move"):
        registry.rollback(first, "condu rollback")
    assert registry.head() == second


@pytest.mark.parametrize("note", ["record_pack", "record_files", "record_collected"])
def test_noting_without_the_lock_is_a_mistake_of_the_caller(
    registry: Registry, learn: Learn, note: str
) -> None:
    session = learn("a")
    arguments = {
        "record_pack": (session, session, None),
        "record_files": (session,),
        "record_collected": ([session.id], "gc"),
    }
    with pytest.raises(RuntimeError, match="lock"):
        getattr(registry, note)(*arguments[note])


# --- collected sessions ----------------------------------------------------------------------


def test_a_collected_session_is_only_a_record(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    with registry.lock("gc"):
        registry.record_pack(first, second, None)
        registry.record_collected([first.id], "condu gc")
    assert registry.sessions() == [second, first]
    assert registry.resolve("@~1") == first
    history = registry.history()
    assert history.collected.keys() == {first.id}
    assert history.live == [second]
    assert history.packs == {}
    assert (registry.operations()[0].kind, registry.operations()[0].command) == ("gc", "condu gc")
    registry.require_live(second)
    with pytest.raises(NotFoundError, match="only its record is left") as refused:
        registry.require_live(first)
    assert "condu log" in hint_of(refused.value)


def test_head_never_moves_to_a_collected_session(registry: Registry, learn: Learn) -> None:
    first, second = learn("a"), learn("b")
    registry.rollback(first, "condu rollback")
    with registry.lock("gc"):
        registry.record_collected([second.id], "condu gc")
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        registry.rollback(second, "condu rollback")
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)
    assert registry.head() == first


def test_history_knows_what_an_undo_can_bring_back(registry: Registry, learn: Learn) -> None:
    first, second, third = learn("a"), learn("b"), learn("c")
    registry.rollback(second, "condu rollback")
    registry.rollback(first, "condu rollback")
    assert registry.target(Aim(undo=True)) == second
    assert registry.history().undoable == {second.id, third.id}
    registry.rollback(registry.target(Aim(undo=True)), "condu rollback --undo", UNDO)
    assert registry.history().undoable == {third.id}
    learn("d")
    assert registry.history().undoable == frozenset()


# --- folders of pictures, runs ---------------------------------------------------------------


@pytest.mark.parametrize("folder", [os.fsdecode(b"/caf\xe9/p"), "/a\tb", "/Stra\u00dfe"])
def test_a_folder_may_have_any_name(registry: Registry, folder: str) -> None:
    session = session_of(registry, "pets", None, seed=1)
    with registry.lock("learn"):
        registry.commit(session, command="learn pets", folder=folder)
    assert registry.folder_of(session.entries[0]) == folder


def test_the_folder_of_an_expert_is_known_here_but_not_part_of_it(registry: Registry) -> None:
    session = session_of(registry, "pets", None, seed=1)
    with registry.lock("learn"):
        registry.commit(session, command="learn", folder="/data/pets")
    entry = session.entry("pets")
    assert registry.folder_of(entry) == "/data/pets"
    assert "/data/pets" not in str(session.manifest())
    again = session_of(registry, "dtd", session, seed=2)
    with registry.lock("learn"):
        later = registry.commit(again, command="learn")
    assert registry.folder_of(later.entry("pets")) == "/data/pets"
    assert registry.folder_of(later.entry("dtd")) is None


def test_the_session_of_a_run_holds_its_expert(registry: Registry) -> None:
    session = session_of(registry, "pets", None, seed=1, run="0123")
    with registry.lock("learn"):
        registry.commit(session, command="learn")
    assert registry.session_of_run("0123") == session
    assert registry.session_of_run("01") is None


def test_the_session_of_a_run_is_head_or_the_newest_that_is_left(registry: Registry) -> None:
    first = session_of(registry, "pets", None, seed=1, run="0123")
    second = session_of(registry, "cars", first, seed=2)
    with registry.lock("learn"):
        registry.commit(first, command="learn")
        registry.commit(second, command="learn")
    assert registry.session_of_run("0123") == second
    registry.rollback(first, "rollback")
    assert registry.session_of_run("0123") == first
    registry.rollback(None, "rollback")
    assert registry.session_of_run("0123") == second
    with registry.lock("gc"):
        registry.record_collected([second.id], "gc")
        assert registry.session_of_run("0123") == first
        registry.record_collected([first.id], "gc")
    assert registry.session_of_run("0123") is None


def test_who_waits_for_the_lock_hears_who_has_it(registry: Registry, learn: Learn) -> None:
    heard: list[str] = []
    registry.on_wait = heard.append
    learn("pets")
    assert heard == []
    other = Registry.open(registry.path)
    with other.lock("gc"), pytest.raises(LockedError), registry.lock("tag", timeout=0):
        pass
    assert len(heard) == 1
    assert "gc" in heard[0]


def test_a_late_commit_is_told_where_head_is(registry: Registry, learn: Learn) -> None:
    session = session_of(registry, "late", None, seed=9)
    now = learn("quick")
    with (
        registry.lock("learn"),
        pytest.raises(HeadMovedError, match=f"from the empty state to {now.id[:12]}") as refused,
    ):
        registry.commit(session, command="learn")
    assert refused.value.exit_code == 11


# --- links -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["condu.sqlite", "blobs", "backups", "tmp", "trained", "lock", "lock.holder", "README.txt"]
    + [f"condu.sqlite-{end}" for end in ("wal", "shm", "journal")],
)
def test_a_link_in_a_registry_is_refused_and_nothing_written_through_it(
    registry: Registry, learn: Learn, tmp_path: Path, name: str
) -> None:
    learn("a")
    path, target = registry.path / name, tmp_path / "elsewhere"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    before = target.stat() if target.exists() else None
    with pytest.raises(IntegrityError, match=f"{name} is a symbolic link"):
        Registry.open(registry.path)
    after = target.stat() if target.exists() else None
    assert (before and before.st_mtime_ns) == (after and after.st_mtime_ns)


def test_the_registrys_own_folder_may_be_a_link(registry: Registry, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(registry.path)
    assert Registry.open(link).config == registry.config
