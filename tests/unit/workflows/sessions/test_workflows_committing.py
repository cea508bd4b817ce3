"""Committing: an expert is on disk before anything can fail, and is committed exactly once."""

from dataclasses import asdict

import pytest
from made_registries import decoded, flip, learn, made_expert, made_registry

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import (
    ConduError,
    HeadMovedError,
    IntegrityError,
    InterruptedByUserError,
    LockedError,
    UsageError,
)
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.learning.resuming import resume
from condu_cli.workflows.sessions import committing
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import Commit, commit_expert, resume_expert
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.trained_experts import (
    keep_expert,
)
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds")


def commit(registry, expert, parent="head"):
    head = registry.head()
    parent = (head.id if head else None) if parent == "head" else parent
    return commit_expert(registry, expert, parent=parent, command=f"learn --task {expert.task}")


# A commit


def test_a_commit_is_a_session_on_head_and_leaves_nothing_waiting(registry):
    before = registry.head()
    done = commit(registry, made_expert("cars", folder="/pictures/cars"))
    assert registry.head() == done.session
    assert (done.parent, done.session.parent) == (before, before.id)
    assert [entry.name for entry in done.session.entries] == ["birds", "cars"]
    assert registry.waiting.paths() == []
    assert all(seconds >= 0 for seconds in asdict(done.seconds).values())


def test_the_folder_is_kept_beside_the_session_and_not_in_it(registry):
    session = commit(registry, made_expert("cars", folder="/pictures/cars")).session
    assert registry.folder_of(session.entry("cars")) == "/pictures/cars"
    assert "/pictures" not in str(session.manifest())
    assert registry.folder_of(session.entry("birds")) is None


def test_the_old_experts_say_how_far_they_moved(registry):
    session = commit(registry, made_expert("cars")).session
    assert session.entry("birds").drift > 0
    assert session.entry("cars").drift is None


# HEAD has moved


@pytest.mark.parametrize("stale", [None, "f" * 64])
def test_a_moved_head_stops_the_commit_and_names_both_sessions(registry, stale):
    head = registry.head()
    blobs = {ref.sha256 for ref in registry.blobs.all()}
    with pytest.raises(HeadMovedError) as caught:
        commit(registry, made_expert("cars"), parent=stale)
    was = "the empty state" if stale is None else stale[:12]
    assert f"HEAD moved from {was} to {head.id[:12]}" in caught.value.message
    assert "condu learn --task cars --resume" in hint_of(caught.value)
    assert caught.value.exit_code == 11
    assert registry.head() == head
    assert {ref.sha256 for ref in registry.blobs.all()} == blobs
    assert [expert.task for expert in registry.waiting.all()] == ["cars"]


def test_a_rollback_moves_head_too(registry):
    head = registry.head()
    registry.rollback(None, "rollback")
    with pytest.raises(HeadMovedError, match="to the empty state"):
        commit(registry, made_expert("cars"), parent=head.id)


# Keeping


FAILURES = {
    "lock": (LockedError("locked by another", reason="registry-locked"), "lock"),
    "unify": (ConduError("no memory", reason="no-memory"), "_unify"),
    "write": (ConduError("no space left", reason="cannot-write"), "session_of_state"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_after_training_the_expert_is_kept(registry, monkeypatch, failure):
    head, (error, name) = registry.head(), FAILURES[failure]

    def fail(*_args, **_values):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(registry if name == "lock" else committing, name, fail)
        with pytest.raises(type(error)) as caught:
            commit(registry, made_expert("cars"))
    assert "condu learn --task cars --resume commits it" in hint_of(caught.value)
    assert registry.head() == head
    (waiting,) = registry.waiting.all()
    done = resume_expert(registry, waiting, command="resume")
    assert [e.name for e in done.session.entries] == ["birds", "cars"]
    assert verify(registry).problems == ()


def test_a_corrupt_head_keeps_the_expert(registry):
    path = registry.blobs.path(registry.head().shared)
    sound = path.read_bytes()
    flip(path, -1)
    with pytest.raises(IntegrityError, match="corrupt"):
        commit(registry, made_expert("cars"))
    path.write_bytes(sound)
    assert resume(registry, "cars")[0].summary.tasks == 2


def test_ctrl_c_while_committing_says_that_the_expert_is_kept(registry, monkeypatch):
    def interrupt(*_args, **_values):
        raise KeyboardInterrupt

    head = registry.head()
    with monkeypatch.context() as patch:
        patch.setattr(committing, "session_of_state", interrupt)
        with pytest.raises(InterruptedByUserError, match="interrupted while committing") as caught:
            commit(registry, made_expert("cars"))
    assert "condu learn --task cars --resume commits it" in hint_of(caught.value)
    assert caught.value.exit_code == 130
    assert registry.head() == head
    assert resume(registry, "cars")[0].summary.tasks == 2


def test_an_expert_that_another_process_has_resumed_is_not_said_to_be_kept(registry, monkeypatch):
    def kept_and_resumed(*args):
        kept = keep_expert(*args)
        other = Registry.open(registry.path)
        resume_expert(other, other.waiting.open(kept.path), command="resume")
        return kept

    monkeypatch.setattr(committing, "keep_expert", kept_and_resumed)
    with pytest.raises(HeadMovedError) as caught:
        commit(registry, made_expert("cars"))
    assert registry.waiting.paths() == []
    assert "kept" not in hint_of(caught.value)
    assert "--resume" not in hint_of(caught.value)


def test_a_full_disk_while_the_expert_is_kept_is_an_error_that_says_so(registry, monkeypatch):
    from condu_cli.registry.blobs import kept_files

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_files, "write_durably", full)
    with pytest.raises(ConduError, match=r"cannot keep the trained expert.*No space left"):
        commit(registry, made_expert("cars"))


# Resuming


@pytest.fixture
def waiting(registry):
    """An expert of `cars` that waits."""
    return keep_expert(registry, made_expert("cars", folder="/pictures"))


def test_resume_commits_what_waits_on_whatever_head_is(registry, waiting):
    other = learn(registry, "digits")
    done = resume_expert(registry, waiting, command="resume")
    assert done.session.parent == other.id
    assert [entry.name for entry in done.session.entries] == ["birds", "digits", "cars"]
    assert registry.folder_of(done.session.entry("cars")) == "/pictures"
    assert registry.waiting.paths() == []


def test_resuming_gives_the_same_bits_as_an_undisturbed_commit(tmp_path, registry, waiting):
    straight = made_registry(tmp_path / "straight", "birds", "cars")
    session = resume_expert(registry, waiting, command="resume").session
    assert decoded(registry, session) == decoded(straight, straight.head())
    assert session.state_blobs() == straight.head().state_blobs()


def test_an_expert_is_committed_once_although_its_file_was_left(registry):
    """The program crashed between the commit and the removal of the file."""
    expert = made_expert("cars")
    left = keep_expert(registry, expert).path.read_bytes()
    path = registry.waiting.paths()[0]
    commit(registry, expert)
    head = registry.head()
    path.write_bytes(left)
    assert resume_expert(registry, registry.waiting.open(path), command="resume") == head
    assert registry.head() == head
    assert registry.waiting.paths() == []


def test_an_expert_whose_session_was_collected_is_committed_again(registry):
    """The file is its only copy."""
    expert = made_expert("cars")
    left = keep_expert(registry, expert)
    content = left.path.read_bytes()
    gone = commit(registry, expert).session
    before = decoded(registry, gone)
    roll_back(registry, Aim(), "rollback")
    left.path.write_bytes(content)
    found = resume_expert(registry, registry.waiting.open(left.path), command="resume")
    assert found == gone  # a rollback can still be undone
    collect(registry, None, undo=False)
    assert gone.id in registry.history().collected
    left.path.write_bytes(content)
    done = resume_expert(registry, registry.waiting.open(left.path), command="resume")
    assert isinstance(done, Commit)
    assert registry.head() == done.session
    assert decoded(registry, done.session) == before
    assert registry.waiting.paths() == []
    assert verify(registry).problems == ()


def test_resume_of_several_commits_them_oldest_first(registry):
    for task in ("cars", "digits"):
        keep_expert(registry, made_expert(task))
    assert [done.task for done in resume(registry, None)] == ["cars", "digits"]
    assert [e.name for e in registry.head().entries] == ["birds", "cars", "digits"]


def test_resume_of_one_task_leaves_the_others(registry):
    for task in ("cars", "digits"):
        keep_expert(registry, made_expert(task))
    resume(registry, "digits")
    assert [expert.task for expert in registry.waiting.all()] == ["cars"]


@pytest.mark.parametrize("task", [None, "cars"])
def test_resume_of_nothing_is_an_error(registry, task):
    with pytest.raises(ConduError, match="is waiting to be committed") as caught:
        resume(registry, task)
    assert caught.value.exit_code == 4


def test_a_name_taken_meanwhile_is_refused_until_it_is_free(registry, waiting):
    learn(registry, "cars", seed=1)
    with pytest.raises(UsageError, match="already been learned"):
        resume_expert(registry, waiting, command="resume")
    assert waiting.path.exists()
    forget(registry, "cars", "forget")
    assert isinstance(resume_expert(registry, waiting, command="resume"), Commit)


def test_a_corrupt_kept_expert_is_an_error_and_stays(registry, waiting):
    flip(waiting.path, -1)
    with pytest.raises(IntegrityError, match=f"the trained expert {waiting.path} is corrupt: "):
        resume_expert(registry, registry.waiting.open(waiting.path), command="resume")
    assert waiting.path.exists()
    assert [p.object for p in verify(registry).problems] == [f"trained/{waiting.path.name}"]


# Ctrl-C after the commit


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_while_the_parent_is_packed_says_that_head_has_moved(registry, monkeypatch):
    learn(registry, "first")
    monkeypatch.setattr("condu_cli.workflows.sessions.history_packing.pack_session", interrupt)
    with pytest.raises(InterruptedByUserError) as caught:
        learn(registry, "second")
    head = registry.head()
    assert head.task == "second"
    assert caught.value.facts == {"session": head.id}
    assert caught.value.exit_code == 130
    assert short_id(head.id) in caught.value.message
    assert "rollback" in hint_of(caught.value)
    assert registry.waiting.paths() == []
    monkeypatch.undo()
    assert verify(registry).problems == ()


def test_ctrl_c_between_the_commit_and_the_next_line_says_so_too(registry, monkeypatch):
    real = Registry.commit

    def commit(*args, **values):
        real(*args, **values)
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "commit", commit)
    with pytest.raises(InterruptedByUserError, match="is committed") as caught:
        learn(registry, "first")
    assert caught.value.facts["session"] == registry.head().id
    assert registry.waiting.paths() == []


def test_ctrl_c_before_the_commit_keeps_the_expert(registry, monkeypatch):
    before = registry.head()
    monkeypatch.setattr(Registry, "commit", interrupt)
    with pytest.raises(InterruptedByUserError, match="while committing") as caught:
        learn(registry, "first")
    assert caught.value.facts == {"kept_expert": "first"}
    assert registry.head() == before


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("forget", lambda registry: forget(registry, "first", "forget")),
        ("rename", lambda registry: rename(registry, "first", "other", "rename")),
    ],
)
def test_ctrl_c_after_another_kind_of_commit_says_so_too(registry, monkeypatch, kind, change):
    learn(registry, "first")
    learn(registry, "second")
    monkeypatch.setattr("condu_cli.workflows.sessions.history_packing.pack_session", interrupt)
    with pytest.raises(InterruptedByUserError, match="is committed"):
        change(registry)
    assert registry.head().kind == kind
