"""Collecting removes what the plan lists, and never anything needed."""

from pathlib import Path

import pytest
from made_registries import (
    blob_bytes,
    decoded,
    files_of,
    flip,
    learn,
    made_expert,
    made_registry,
)

from condu_cli.errors import ConduError, IntegrityError, NotFoundError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions import collecting, history_packing
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect, plan_collection
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state, restore_files
from condu_cli.workflows.sessions.trained_experts import keep_expert
from condu_cli.workflows.sessions.verification import verify

TASKS = ("birds", "cars", "digits", "flags", "shapes")


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Five sessions in a line; HEAD is the last."""
    return made_registry(tmp_path / "made", *TASKS)


def back(registry, steps=1):
    roll_back(registry, Aim(steps=steps), "rollback")


def noted(registry) -> dict[str, dict[str, str]]:
    return {session.id: decoded(registry, session) for session in registry.sessions()}


def ids(sessions) -> set[str]:
    return {session.id for session in sessions}


# What is removed


def test_without_anything_to_do_nothing_is_done(registry):
    before = files_of(registry.path)
    plan, done = plan_collection(registry, None), collect(registry, None)
    assert (plan.sessions, plan.leftovers, plan.undoable) == ((), (), 0)
    assert (done.sessions, done.leftovers, done.packed) == ((), (), 0)
    assert files_of(registry.path) == before


@pytest.mark.parametrize("keep", [1, 2, 4, 5, 9])
def test_the_newest_sessions_of_the_line_are_kept(registry, keep):
    before, sessions = noted(registry), registry.sessions()
    done = collect(registry, keep)
    assert ids(done.sessions) == ids(sessions[keep:])
    for session in sessions[:keep]:
        assert decoded(registry, session) == before[session.id]
    for session in sessions[keep:]:
        with pytest.raises(NotFoundError, match="removed by garbage collection"):
            registry.require_live(session)
    assert verify(registry).problems == ()


def test_sessions_rolled_back_for_good_are_removed(registry):
    back(registry)
    learn(registry, "textures")
    gone = registry.sessions()[1]
    assert [e.name for e in gone.entries] == list(TASKS)
    before = noted(registry)
    done = collect(registry, None)
    assert ids(done.sessions) == {gone.id}
    for session in registry.history().live:
        assert decoded(registry, session) == before[session.id]


# What is kept


def test_what_an_undo_brings_back_stays_until_no_undo(registry):
    before, head = noted(registry), registry.head()
    back(registry)
    second = registry.head()
    assert plan_collection(registry, None).undoable == 1
    assert collect(registry, None).sessions == ()
    roll_back(registry, Aim(undo=True), "undo")
    assert registry.head() == head
    assert decoded(registry, head) == before[head.id]
    back(registry)
    done = collect(registry, None, undo=False)
    assert ids(done.sessions) == {head.id}
    assert done.undoable == 0
    assert registry.head() == second
    assert decoded(registry, second) == before[second.id]
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        roll_back(registry, Aim(undo=True), "undo")
    assert verify(registry).problems == ()


def test_each_of_several_rollbacks_can_still_be_undone(registry):
    before, sessions = noted(registry), registry.sessions()
    back(registry, 2)
    back(registry, 2)
    collect(registry, 1)
    for session in (sessions[2], sessions[0]):
        roll_back(registry, Aim(undo=True), "undo")
        assert registry.head() == session
        assert decoded(registry, session) == before[session.id]


def test_a_tagged_session_stays_for_ever(registry):
    before, tagged = noted(registry), registry.sessions()[3]
    registry.tag("good", tagged, "tag")
    done = collect(registry, 1, undo=False)
    assert len(done.sessions) == 3
    assert decoded(registry, tagged) == before[tagged.id]
    # The sessions between it and HEAD are gone: it is now a patch on HEAD.
    assert registry.packs()[tagged.id].reference == registry.head().id
    back_to_it = roll_back(registry, Aim("good"), "rollback")
    assert back_to_it.to_session == tagged.id
    assert verify(registry).problems == ()
    registry.remove_tag("good", "tag --delete")


def test_a_tag_on_another_branch_gets_files_if_it_has_no_successor(registry):
    before, third = noted(registry), registry.sessions()[2]
    registry.tag("good", third, "tag")
    back(registry, 4)
    learn(registry, "textures")
    collect(registry, 1, undo=False)
    assert third.id not in registry.packs()
    assert decoded(registry, third) == before[third.id]
    assert verify(registry).problems == ()


def test_head_keeps_its_files_when_its_patchs_reference_is_removed(registry):
    before = noted(registry)
    back(registry, 3)
    collect(registry, 1, undo=False)
    head = registry.head()
    assert head.id not in registry.packs()
    assert decoded(registry, head) == before[head.id]
    assert [s.id for s in registry.history().live] == [head.id]
    assert verify(registry).problems == ()


def test_an_expert_that_waits_is_not_garbage(registry):
    waiting = keep_expert(registry, made_expert("textures"))
    collect(registry, 1, undo=False)
    assert waiting.path.exists()


def test_other_peoples_files_are_not_garbage(registry):
    notes = [registry.path / "notes.txt", registry.path / "blobs" / "notes.txt"]
    for path in notes:
        path.write_text("mine")
    collect(registry, 1, undo=False)
    assert all(path.exists() for path in notes)


# Leftovers


def test_an_unreferenced_blob_is_collected(registry):
    import numpy as np

    ref = registry.blobs.put({"x": np.arange(9)})
    (leftover,) = plan_collection(registry, None).leftovers
    assert (leftover.path, leftover.size) == (registry.blobs.path(ref.sha256), ref.size)
    assert collect(registry, None).freed_bytes >= ref.size
    assert not registry.blobs.exists(ref.sha256)


def test_drafts_of_processes_that_are_gone_go_and_others_stay(registry):
    import os
    import re
    import socket

    host = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]
    dead, mine = (
        registry.paths.tmp / f"{host}-{pid}-{'0' * 16}.safetensors"
        for pid in (2**22 + 1, os.getpid())
    )
    for path in (dead, mine):
        path.write_bytes(b"half")
    assert [item.path for item in collect(registry, None).leftovers] == [dead]
    assert not dead.exists()
    assert mine.exists()


# The plan, and twice


def test_what_has_become_superfluous_since_it_was_approved_stays(registry):
    before, sessions = noted(registry), registry.sessions()
    approved = ids(plan_collection(registry, 3).sessions)
    assert approved == ids(sessions[3:])
    learn(registry, "textures")
    done = collect(registry, 3, approved=approved)
    assert ids(done.sessions) == approved
    assert set(registry.history().collected) == approved
    assert decoded(registry, sessions[2]) == before[sessions[2].id]
    assert verify(registry).problems == ()
    assert ids(collect(registry, 3, approved=set()).sessions) == set()
    assert ids(collect(registry, 3).sessions) == {sessions[2].id}


def test_what_was_approved_and_is_needed_since_stays(registry):
    approved = ids(plan_collection(registry, 1).sessions)
    tagged = registry.sessions()[2]
    registry.tag("good", tagged, "tag")
    assert ids(collect(registry, 1, approved=approved).sessions) == approved - {tagged.id}
    assert verify(registry).problems == ()


@pytest.mark.parametrize("keep", [None, 1, 2])
@pytest.mark.parametrize("undo", [True, False])
def test_the_plan_is_what_is_done_and_changes_nothing(registry, keep, undo):
    registry.tag("good", registry.sessions()[3], "tag")
    back(registry)
    before = files_of(registry.path)
    plan = plan_collection(registry, keep, undo=undo)
    assert files_of(registry.path) == before
    done = collect(registry, keep, undo=undo)
    assert (plan.sessions, plan.undoable) == (done.sessions, done.undoable)
    assert {ref.sha256 for ref in registry.blobs.all()} == set(registry.history().needed_blobs())
    again = collect(registry, keep, undo=undo)
    assert (again.sessions, again.leftovers, again.packed) == ((), (), 0)


def test_the_bytes_freed_are_those_on_the_disk(registry):
    before = sum(ref.size for ref in registry.blobs.all())
    done = collect(registry, 1, undo=False)
    freed = before - sum(ref.size for ref in registry.blobs.all())
    assert freed > 0
    assert abs(done.freed_bytes - freed) < 200_000  # the database's own files may grow


def test_collected_sessions_are_in_the_journal_and_in_the_log(registry):
    collect(registry, 1, command="gc")
    newest = registry.operations()[0]
    assert (newest.kind, newest.command) == ("gc", "gc")
    assert len(registry.sessions()) == 5
    assert len(registry.history().collected) == 4


# Failures


def test_a_session_that_cannot_be_stored_again_stops_everything_before_anything_is_removed(
    registry,
):
    tagged = registry.sessions()[3]
    registry.tag("good", tagged, "tag")
    flip(registry.blobs.path(registry.packs()[tagged.id].patch), -1)
    before = files_of(registry.path)
    with pytest.raises(IntegrityError):
        collect(registry, 1, undo=False)
    after = files_of(registry.path)
    assert before.items() <= after.items()
    assert registry.history().collected == {}


def test_a_kept_session_that_is_corrupt_and_unpacked_is_left_unchanged(registry, monkeypatch):
    """It stays: `condu verify` names it, and a backup may repair it."""
    with monkeypatch.context() as patch:
        patch.setattr(history_packing, "pack_session", lambda *_: None)
        learn(registry, "textures")
    corrupt = registry.sessions()[1]
    flip(registry.blobs.path(corrupt.shared), -1)
    done = collect(registry, 2)
    assert len(done.sessions) == 4
    assert done.warnings
    assert registry.blobs.exists(corrupt.shared)
    assert corrupt.id not in registry.packs()


def test_a_corrupt_head_takes_no_older_session_along(tmp_path):
    registry = made_registry(tmp_path / "two", "birds", "cars")
    head, first = registry.sessions()
    before = decoded(registry, first)
    with registry.lock("test"):
        restore_files(registry, first)
        registry.record_files(first)
    files = blob_bytes(registry, first)
    flip(registry.blobs.path(head.shared), -1)
    done = collect(registry, None)
    assert "keeps its files" in done.warnings[0]
    assert done.packed == 0
    assert blob_bytes(registry, first) == files
    flip(registry.blobs.path(head.shared), -1)  # the owner puts it back
    assert decoded(registry, first) == before
    assert verify(registry).problems == ()
    assert collect(registry, None).packed == 1
    assert decoded(registry, first) == before
    assert verify(registry).problems == ()


def test_a_full_disk_does_not_keep_garbage_from_going(registry, monkeypatch):
    """Freeing space is what the collector is for: patches are written once there is room."""
    with monkeypatch.context() as patch:
        patch.setattr(history_packing, "pack_session", lambda *_: None)
        learn(registry, "textures")

    def full(*_args, **_values):
        raise ConduError("no space left", reason="cannot-write")

    with monkeypatch.context() as patch:
        patch.setattr(type(registry.blobs), "put", full)
        done = collect(registry, 2)
    assert len(done.sessions) == 4
    assert done.leftovers
    assert not any(item.path.exists() for item in done.leftovers)
    assert "no space left" in done.warnings[0]
    assert collect(registry, 2).packed == 1
    assert verify(registry).problems == ()


def test_a_crash_after_the_sessions_are_noted_leaves_leftovers_and_no_corruption(
    registry, monkeypatch
):
    class CrashError(BaseException):
        pass

    def crash(*_):
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "remove_leftover", crash)
        with pytest.raises(CrashError):
            collect(registry, 2)
    again = Registry.open(registry.path)
    found = verify(again)
    assert found.problems == ()
    assert found.leftovers
    assert {item.path for item in collect(again, 2).leftovers} == {
        item.path for item in found.leftovers
    }
    assert verify(again).leftovers == ()


def test_a_reader_of_a_collected_session_reads_to_the_end(registry):
    codec, head = codec_for(registry.config), registry.head()
    wanted = _bits(registry, head)
    state = open_state(registry, head)
    for tensors in (state.shared, *state.parts):
        dict(tensors)
    back(registry, 4)
    collect(registry, 1, undo=False)
    assert not registry.blobs.exists(head.shared)
    found = [dict(codec.decode(state.shared, part)) for part in state.parts]
    for one, other in zip(found, wanted, strict=True):
        assert all((one[name] == other[name]).all() for name in other)


def _bits(registry, session) -> list:
    codec = codec_for(registry.config)
    state = open_state(registry, session)
    return [{n: v.copy() for n, v in codec.decode(state.shared, p)} for p in state.parts]


def test_a_training_beside_it_may_write_and_remove_files(registry, monkeypatch):
    """`learn` writes drafts to tmp/ without the lock."""
    draft = registry.paths.tmp / "half.safetensors"
    real = Path.lstat

    def lstat(path):
        if path == draft:
            draft.unlink(missing_ok=True)
        return real(path)

    draft.write_bytes(b"half")
    monkeypatch.setattr(Path, "lstat", lstat)
    assert collect(registry, None).sessions == ()
    assert not draft.exists()


def test_a_corrupt_file_of_head_is_repaired_from_the_patch_before_it_is_removed(registry):
    third, second, *_ = registry.sessions()
    wanted = decoded(registry, second)
    back(registry)
    flip(registry.blobs.path(second.shared), -1)
    collect(registry, 1, undo=False)
    assert third.id not in ids(registry.history().live)
    assert registry.head() == second
    assert decoded(registry, second) == wanted
    assert verify(registry).problems == ()
