"""Moving HEAD: the files exist and are intact before HEAD points at them."""

import pytest
from made_registries import blob_bytes, decoded, flip, learn, made_registry

from condu_cli.errors import (
    ConduError,
    IntegrityError,
    InterruptedByUserError,
    NotFoundError,
    UsageError,
)
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.forgetting import rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars", "digits")


def back(registry, steps=1):
    return roll_back(registry, Aim(steps=steps), "rollback")


def test_a_packed_session_has_its_files_when_it_is_head(registry):
    target = registry.sessions()[1]
    wanted = decoded(registry, target)
    assert blob_bytes(registry, target) == {}
    operation = back(registry)
    assert (operation.kind, operation.to_session) == ("rollback", target.id)
    assert registry.head() == target
    assert len(blob_bytes(registry, target)) == 3
    assert decoded(registry, target) == wanted
    assert verify(registry).problems == ()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_there_and_back_is_as_before(registry, steps):
    before = {s.id: decoded(registry, s) for s in registry.sessions()}
    blobs = {ref.sha256 for ref in registry.blobs.all()}
    back(registry, steps)
    roll_back(registry, Aim(undo=True), "undo")
    assert {s.id: decoded(registry, s) for s in registry.sessions()} == before
    assert {ref.sha256 for ref in registry.blobs.all()} == blobs


def test_several_rollbacks_are_undone_one_by_one(registry):
    third, second, first = registry.sessions()
    back(registry)
    back(registry)
    assert registry.head() == first
    roll_back(registry, Aim(undo=True), "undo")
    assert registry.head() == second
    roll_back(registry, Aim(undo=True), "undo")
    assert registry.head() == third
    with pytest.raises(UsageError, match="no rollback to undo"):
        roll_back(registry, Aim(undo=True), "undo")


def test_what_head_leaves_keeps_its_files_if_its_patch_fails_by_now(registry):
    third, second, _ = registry.sessions()
    wanted = decoded(registry, second)
    back(registry)
    files = blob_bytes(registry, second)
    flip(registry.blobs.path(third.shared), -1)
    back(registry)
    assert blob_bytes(registry, second) == files
    assert second.id not in registry.packs()
    assert decoded(registry, second) == wanted


def test_the_files_of_the_session_that_head_leaves_are_removed_if_it_is_packed(registry):
    back(registry)
    second = registry.head()
    back(registry)
    assert blob_bytes(registry, second) == {}
    assert set(registry.history().needed_blobs()) == {r.sha256 for r in registry.blobs.all()}


def test_the_empty_state_is_a_target_like_any_other(registry):
    back(registry, 3)
    assert registry.head() is None
    roll_back(registry, Aim(undo=True), "undo")
    assert [e.name for e in registry.head().entries] == ["birds", "cars", "digits"]


def test_what_is_learned_after_a_rollback_makes_a_second_line(registry):
    wanted = {s.id: decoded(registry, s) for s in registry.sessions()}
    back(registry, 2)
    learn(registry, "flags")
    assert [e.name for e in registry.head().entries] == ["birds", "flags"]
    for session in registry.sessions()[1:]:
        assert decoded(registry, session) == wanted[session.id]
    assert verify(registry).problems == ()


def test_a_session_that_cannot_be_had_back_leaves_head_where_it_is(registry):
    head, target = registry.head(), registry.sessions()[1]
    flip(registry.blobs.path(registry.packs()[target.id].patch), -1)
    with pytest.raises(IntegrityError):
        back(registry)
    assert registry.head() == head
    assert registry.operations()[0].kind == "learn"
    assert blob_bytes(registry, target) == {}


def test_a_corrupt_file_of_the_target_is_found_before_head_moves(registry):
    back(registry)
    old = registry.operations()[0].from_session
    flip(registry.blobs.path(registry.session(old).shared), -1)
    with pytest.raises(IntegrityError, match="corrupt"):
        roll_back(registry, Aim(undo=True), "undo")
    assert registry.head().id != old


def test_a_collected_session_is_not_a_target(registry):
    first = registry.sessions()[-1]
    collect(registry, 1)
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        roll_back(registry, Aim(first.id), "rollback")
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        back(registry)


def test_the_target_is_chosen_under_the_lock(registry, monkeypatch):
    """`-n 1` counts from the current HEAD, not from an earlier one."""
    held = []
    real = Registry.target

    def target(self, aim):
        held.append(self._lock.held)
        return real(self, aim)

    monkeypatch.setattr(Registry, "target", target)
    roll_back(registry, Aim(), "rollback")
    assert held == [True]


def test_to_where_head_is_already_is_an_error(registry):
    with pytest.raises(UsageError, match="already"):
        roll_back(registry, Aim("@"), "rollback")


def test_ctrl_c_after_the_move_says_where_head_is(registry, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("condu_cli.workflows.sessions.moving_head.release_session", interrupt)
    with pytest.raises(InterruptedByUserError, match="HEAD has moved") as caught:
        back(registry)
    assert caught.value.facts == {"session": registry.head().id}
    assert verify(registry).problems == ()


def test_files_about_to_be_removed_do_not_validate_a_patch(tmp_path):
    """A renamed task's session shares its files with the one before it."""
    registry = made_registry(tmp_path / "made", "birds", "cars")
    rename(registry, "cars", "autos", "rename")
    learn(registry, "digits")
    _, renamed, second, _ = registry.sessions()
    wanted = decoded(registry, second)
    patch = registry.packs()[renamed.id].patch
    back(registry, 2)
    flip(registry.blobs.path(patch), -1)
    roll_back(registry, Aim(undo=True), "undo")
    assert decoded(registry, second) == wanted
    assert len(blob_bytes(registry, second)) == 3


def test_a_head_that_has_moved_is_not_called_a_failure(registry, monkeypatch):
    back(registry)
    third, second, _ = registry.sessions()

    def refuse(sha256):
        raise ConduError(f"{sha256}: cannot be removed", reason="cannot-remove")

    monkeypatch.setattr(registry.blobs, "remove", refuse)
    with pytest.raises(ConduError, match=f"HEAD has moved to {third.id[:12]}, but files"):
        roll_back(registry, Aim(undo=True), "undo")
    assert registry.head() == third
    assert len(blob_bytes(registry, second)) == 3
    monkeypatch.undo()
    collect(registry, None)
    assert blob_bytes(registry, second) == {}
