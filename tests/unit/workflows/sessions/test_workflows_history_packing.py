"""Packing: which session becomes a patch on which, and that nothing is removed too early."""

import pytest
from made_registries import blob_bytes, decoded, flip, learn, made_fresh, made_registry

from condu_cli.errors import ConduError
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions import committing, history_packing
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.history_packing import Packed, pack_history, pack_session, repack
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import restore_files
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars", "digits")


@pytest.fixture
def unpacked(tmp_path, monkeypatch) -> Registry:
    """Three sessions that all have their files."""
    with monkeypatch.context() as patch:
        patch.setattr(committing, "pack_parent", lambda *_: Packed())
        return made_fresh(tmp_path / "unpacked", "birds", "cars", "digits")


def references(registry) -> dict[str, str]:
    return {pack.session: pack.reference for pack in registry.packs().values()}


def on_disk(registry) -> set[str]:
    return {ref.sha256 for ref in registry.blobs.all()}


def pack(registry, **values) -> Packed:
    with registry.lock("test"):
        return pack_history(registry, **values)


# After a commit


def test_a_commit_stores_the_session_before_as_a_patch_on_it(registry):
    third, second, first = registry.sessions()
    assert references(registry) == {second.id: third.id, first.id: second.id}
    assert len(blob_bytes(registry, third)) == 4
    assert blob_bytes(registry, second) == blob_bytes(registry, first) == {}


def test_only_what_somebody_needs_is_left_on_the_disk(registry):
    assert on_disk(registry) == set(registry.history().needed_blobs())
    assert verify(registry).problems == ()


def test_prototypes_stay_files(registry):
    for session in registry.sessions():
        for entry in session.entries:
            assert registry.blobs.exists(entry.expert.prototypes)


def test_a_renamed_task_needs_no_patch_at_all(registry):
    head = registry.head()
    renamed = rename(registry, "cars", "vehicles", "rename").session
    found = registry.packs()[head.id]
    assert (found.reference, found.patch) == (renamed.id, None)
    assert len(blob_bytes(registry, head)) == 4  # the new session shares them


def test_a_forgotten_task_is_restored_from_the_patch(registry):
    head = registry.head()
    before = decoded(registry, head)
    forget(registry, "cars", "forget")
    assert blob_bytes(registry, head).keys() < set(head.state_blobs())
    assert decoded(registry, head) == before


def test_the_last_task_can_be_forgotten_and_its_session_is_still_there(tmp_path):
    registry = made_registry(tmp_path / "one", "birds")
    head = registry.head()
    before = decoded(registry, head)
    assert forget(registry, "birds", "forget").session.entries == ()
    assert decoded(registry, head) == before
    assert verify(registry).problems == ()


@pytest.mark.parametrize("error", [ConduError("no space left", reason="cannot-write"), None])
def test_a_commit_persists_although_packing_fails(registry, monkeypatch, error):
    head = registry.head()
    files = blob_bytes(registry, head)

    def fail(*_):
        raise error

    if error is None:  # a patch that does not restore the session
        real = history_packing.patch_of
        monkeypatch.setattr(
            history_packing,
            "patch_of",
            lambda *args: {**real(*args), "header/0": real(*args)["header/0"][::-1]},
        )
    else:
        monkeypatch.setattr(history_packing, "patch_of", fail)
    commit = commit_of(registry, "flags")
    assert registry.head().id == commit.session.id
    (warning,) = commit.warnings
    assert "keeps its files" in warning
    assert blob_bytes(registry, head) == files
    assert head.id not in registry.packs()
    assert verify(registry).problems == ()
    monkeypatch.undo()
    assert pack(registry).sessions == 1  # what `condu gc` does
    assert verify(registry).problems == ()


def commit_of(registry, task):
    from made_registries import made_expert

    return committing.commit_expert(
        registry, made_expert(task), parent=registry.head().id, command="learn"
    )


# The whole history


def test_packing_the_history_is_what_packing_after_each_commit_is(registry, unpacked):
    assert references(unpacked) == {}
    done = pack(unpacked)
    assert (done.sessions, done.warnings) == (2, ())
    assert done.removed_bytes > done.patch_bytes > 0
    third, second, first = unpacked.sessions()
    assert references(unpacked) == {second.id: third.id, first.id: second.id}
    assert len(on_disk(unpacked)) == len(on_disk(registry))


def test_packing_again_changes_nothing(unpacked):
    pack(unpacked)
    before = on_disk(unpacked)
    assert pack(unpacked) == Packed()
    assert on_disk(unpacked) == before


def test_who_asks_hears_of_each_session_that_is_packed(unpacked):
    _, second, first = unpacked.sessions()
    told = []
    assert pack(unpacked, on_session=told.append).sessions == 2
    assert [session.id for session in told] == [second.id, first.id]


def test_the_bytes_that_are_reported_are_those_on_the_disk(unpacked):
    before = sum(ref.size for ref in unpacked.blobs.all())
    done = pack(unpacked)
    after = sum(ref.size for ref in unpacked.blobs.all())
    assert before - after == done.removed_bytes - done.patch_bytes


def test_a_patch_that_would_be_larger_is_not_written(unpacked, monkeypatch):
    real = history_packing.patch_of
    import numpy as np

    monkeypatch.setattr(
        history_packing,
        "patch_of",
        lambda *args: {**real(*args), "header/x": np.zeros(10**6, np.uint8)},
    )
    before = on_disk(unpacked)
    assert pack(unpacked).sessions == 0
    assert references(unpacked) == {}
    assert on_disk(unpacked) == before


def test_a_corrupt_session_is_not_packed_away(unpacked):
    """A patch would record what it should contain, and its files would be lost."""
    _, second, _ = unpacked.sessions()
    path = unpacked.blobs.path(second.shared)
    flip(path, -2)
    done = pack(unpacked)
    assert f"session {short_id(second.id)} keeps its files" in done.warnings[0]
    assert path.exists()
    assert second.id not in references(unpacked)


# Successors


def successor(history, session, kept=None):
    found = history.successors(kept).get(session.id)
    return None if found is None else history.session(found)


@pytest.fixture
def forked(registry):
    """birds - cars - digits, and flags beside digits, which is HEAD."""
    roll_back(registry, Aim(), "rollback")
    learn(registry, "flags")
    return registry


def test_a_sessions_successor_is_its_child_on_the_way_to_head(forked):
    flags, digits, cars, birds = forked.sessions()
    history = forked.history()
    assert successor(history, birds) == cars
    assert successor(history, cars) == flags
    assert successor(history, digits) is None
    assert successor(history, flags) is None


def test_off_the_line_to_head_it_is_the_next_on_the_newest_line(forked):
    roll_back(forked, Aim(forked.sessions()[-1].id), "rollback")  # to birds
    flags, _, cars, birds = forked.sessions()
    history = forked.history()
    assert successor(history, birds) == cars
    assert successor(history, cars) == flags


def test_where_only_some_are_kept_it_is_the_next_of_those(registry):
    third, second, first = registry.sessions()
    history = registry.history()
    assert successor(history, first, {first.id, third.id}) == third
    assert successor(history, first, {first.id, second.id, third.id}) == second
    assert successor(history, first, {first.id}) is None


def test_what_was_rolled_back_keeps_its_files_and_what_was_head_gets_a_new_patch(forked):
    flags, digits, cars = forked.sessions()[:3]
    assert len(blob_bytes(forked, digits)) == 4
    assert references(forked)[cars.id] == flags.id
    assert on_disk(forked) == set(forked.history().needed_blobs())
    assert verify(forked).problems == ()


def test_a_session_is_not_packed_on_one_that_was_corrupt_while_it_had_files(tmp_path):
    registry = made_registry(tmp_path / "two", "birds", "cars")
    second, first = registry.sessions()
    before, old = decoded(registry, first), registry.packs()[first.id].patch
    roll_back(registry, Aim(), "rollback")
    flip(registry.blobs.path(second.shared), -1)
    third = learn(registry, "digits")
    assert references(registry)[first.id] == third.id
    assert decoded(registry, first) == before
    assert blob_bytes(registry, first) == {}
    assert not registry.blobs.exists(old)
    assert [p.object for p in verify(registry).problems] == [f"blob {second.shared}"]


def test_what_was_head_keeps_its_files_if_its_new_patch_cannot_be_written(tmp_path, monkeypatch):
    registry = made_registry(tmp_path / "two", "birds", "cars")
    first = registry.sessions()[1]
    before = decoded(registry, first)
    roll_back(registry, Aim(), "rollback")
    files = blob_bytes(registry, first)

    def full(*_):
        raise ConduError("the disk is full", reason="cannot-write")

    monkeypatch.setattr(history_packing, "patch_of", full)
    learn(registry, "digits")
    assert blob_bytes(registry, first) == files
    assert first.id not in registry.packs()
    assert decoded(registry, first) == before


def test_no_patch_is_made_on_a_corrupt_session(tmp_path):
    registry = made_registry(tmp_path / "two", "birds", "cars")
    head, first = registry.sessions()
    before = decoded(registry, first)
    with registry.lock("test"):
        restore_files(registry, first)
        registry.record_files(first)
    files = blob_bytes(registry, first)
    flip(registry.blobs.path(head.shared), -1)
    (warning,) = pack(registry).warnings
    assert f"session {short_id(first.id)} keeps its files" in warning
    assert head.shared in warning
    assert references(registry) == {}
    assert blob_bytes(registry, first) == files
    assert decoded(registry, first) == before


# Another reference


def test_repacking_stores_a_session_on_another_one(registry):
    third, _, first = registry.sessions()
    before = decoded(registry, first)
    with registry.lock("test"):
        repack(
            registry,
            registry.history(),
            {first.id},
            {first.id, third.id},
        )
    assert references(registry)[first.id] == third.id
    assert decoded(registry, first) == before


def test_repacking_on_nothing_gives_the_files_back(registry):
    _, second, _ = registry.sessions()
    before = decoded(registry, second)
    with registry.lock("test"):
        repack(registry, registry.history(), {second.id}, {second.id})
    assert second.id not in references(registry)
    assert len(blob_bytes(registry, second)) == 3
    assert decoded(registry, second) == before
    assert verify(registry).problems == ()


def test_a_pack_is_recorded_under_the_lock_only(unpacked):
    third, second, _ = unpacked.sessions()
    with pytest.raises(RuntimeError, match="lock"):
        pack_session(unpacked, second, third)


def test_warnings_name_the_session(unpacked, monkeypatch):
    from condu_cli.core.arrays.layout import InvalidStateError

    def broken(*_):
        raise InvalidStateError("mask", "is broken")

    monkeypatch.setattr(history_packing, "patch_of", broken)
    _, second, first = unpacked.sessions()
    done = pack(unpacked)
    assert done.sessions == 0
    assert [short_id(s.id) in w for s, w in zip((second, first), done.warnings, strict=True)] == [
        True,
        True,
    ]


def test_a_commit_persists_without_memory_to_pack_its_parent(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    registry = made_registry(tmp_path / "made", "birds")
    parent = registry.head()
    monkeypatch.setattr(history_packing, "pack_session", exhausted)
    session = learn(registry, "cars")
    assert registry.head() == session
    with registry.lock("test"):
        packed = history_packing.pack_parent(registry, session, parent)
    assert packed.warnings == ("the session before this one keeps its files: not enough memory",)
    assert len(blob_bytes(registry, parent)) == 2
