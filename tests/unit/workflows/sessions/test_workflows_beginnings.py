"""A beginning is replaced when its task is learned again, in one session that can be undone."""

from dataclasses import replace

import pytest
from made_registries import decoded, flip, learn, made_expert, made_registry

from condu_cli.cli.hints.making import hint_of
from condu_cli.core.codecs.interface import EMPTY, EncodedState
from condu_cli.core.codecs.operations import drifts
from condu_cli.errors import HeadMovedError, IntegrityError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.learning.resuming import resume
from condu_cli.workflows.sessions import committing
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import commit_expert, resume_expert
from condu_cli.workflows.sessions.comparing import compare, task_history
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.trained_experts import keep_expert
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    """`cars`, the second of three tasks, is a beginning with a head."""
    registry = made_registry(tmp_path / "made", "birds")
    learn(registry, "cars", quick=True, head=True)
    learn(registry, "digits")
    return registry


def names(session) -> list[str]:
    return [entry.name for entry in session.entries]


def state_bytes(state) -> list[dict[str, bytes]]:
    tensors = [state.shared, *state.parts]
    return [{name: part[name].tobytes() for name in part} for part in tensors]


# Replacing


def test_the_new_expert_replaces_the_beginning_and_stands_last(registry):
    before = registry.head()
    session = learn(registry, "cars", seed=1, folder="/pictures/cars")
    assert registry.head() == session
    assert (session.kind, session.task, session.parent) == ("learn", "cars", before.id)
    assert names(session) == ["birds", "digits", "cars"]
    new = session.entry("cars")
    assert (new.learned_in, new.drift) == (session.id, None)
    assert "quick" not in new.expert.training
    assert new.expert.head is None
    assert registry.folder_of(new) == "/pictures/cars"
    assert registry.waiting.paths() == []
    assert verify(registry).problems == ()


def test_the_others_keep_everything_but_their_parts(registry):
    before = registry.head()
    session = learn(registry, "cars", seed=1)
    for name in ("birds", "digits"):
        old, new = before.entry(name), session.entry(name)
        moved = replace(new, part=old.part, record=old.record, drift=old.drift)
        assert moved == old
        assert new.drift > 0


def test_it_is_unified_as_after_forgetting_and_learning(tmp_path, registry):
    two_steps = made_registry(tmp_path / "two", "birds")
    for task, quick in (("cars", True), ("digits", False)):
        learn(two_steps, task, quick=quick)
    forget(two_steps, "cars", "forget")
    expected = learn(two_steps, "cars", seed=1)
    session = learn(registry, "cars", seed=1)
    assert session.state_blobs() == expected.state_blobs()
    assert [e.record for e in session.entries] == [e.record for e in expected.entries]


def test_the_drift_of_the_others_is_measured_against_the_session_before(registry):
    before = registry.head()
    old = open_state(registry, before)
    others = EncodedState(old.shared, [old.parts[0], old.parts[2]])
    session = learn(registry, "cars", seed=1)
    codec = codec_for(registry.config)
    expected = drifts(codec, others, codec, open_state(registry, session))
    assert [e.drift for e in session.entries[:2]] == pytest.approx(expected)
    moved = {t.after: t.drift for t in compare(registry, before, session).tasks}
    assert [moved["birds"], moved["digits"]] == pytest.approx(expected)


def test_the_only_expert_is_replaced_as_in_an_empty_registry(tmp_path):
    registry = made_registry(tmp_path / "one")
    learn(registry, "cars", quick=True)
    session = learn(registry, "cars", seed=1)
    codec = codec_for(registry.config)
    wanted = codec.encode(EMPTY, made_expert("cars", 1).delta)
    assert state_bytes(open_state(registry, session)) == state_bytes(wanted)
    assert names(session) == ["cars"]


@pytest.mark.parametrize("quick", [True, False])
def test_a_beginning_may_be_replaced_by_another_and_a_whole_expert_by_none(registry, quick):
    learn(registry, "cars", seed=1, quick=quick)
    if quick:
        assert names(learn(registry, "cars", seed=2)) == ["birds", "digits", "cars"]
        return
    head = registry.head()
    with pytest.raises(UsageError, match="task 'cars' has already been learned") as caught:
        learn(registry, "cars", seed=2)
    assert head.id[:12] in caught.value.message
    assert "condu forget cars" in hint_of(caught.value)
    assert registry.head() == head


@pytest.mark.parametrize("mark", [False, 1, "true", None])
def test_only_true_marks_a_beginning(tmp_path, mark):
    registry = made_registry(tmp_path / "made")
    expert = made_expert("cars")
    expert = replace(expert, training={**expert.training, "quick": mark})
    commit_expert(registry, expert, parent=None, command="learn")
    with pytest.raises(UsageError, match="already been learned"):
        learn(registry, "cars", seed=1)


def test_only_learn_replaces_it(registry):
    head = registry.head()
    with pytest.raises(UsageError, match="already been learned"):
        learn(registry, "cars", seed=1, kind="import")
    with pytest.raises(UsageError, match="already a task"):
        rename(registry, "birds", "cars", "rename")
    assert registry.head() == head


def test_a_renamed_beginning_is_one_under_its_new_name(registry):
    rename(registry, "cars", "vehicles", "rename")
    assert names(learn(registry, "vehicles")) == ["birds", "digits", "vehicles"]


# What the rest of the program makes of it


def test_the_difference_is_one_expert_removed_and_one_added(registry):
    before = registry.head()
    after = learn(registry, "cars", seed=1)
    changes = [(t.before, t.after, t.change) for t in compare(registry, before, after).tasks]
    assert changes == [
        ("birds", "birds", "changed"),
        ("cars", None, "removed"),
        ("digits", "digits", "changed"),
        (None, "cars", "added"),
    ]


def test_the_history_of_each_of_the_two_experts_is_its_own(registry):
    digits, cars, _ = registry.sessions()
    after = learn(registry, "cars", seed=1)
    sessions = registry.sessions()
    assert [m.session for m in task_history(sessions, after.entry("cars"))] == [after.id]
    beginning = task_history(sessions, digits.entry("cars"))
    assert [m.session for m in beginning] == [digits.id, cars.id]


def test_a_rollback_brings_the_beginning_back_and_an_undo_the_expert(registry):
    before, experts = registry.head(), decoded(registry, registry.head())
    after = learn(registry, "cars", seed=1)
    replaced = decoded(registry, after)
    assert before.id in registry.packs()
    roll_back(registry, Aim(), "rollback")
    assert registry.head() == before
    assert decoded(registry, before) == experts
    roll_back(registry, Aim(undo=True), "rollback --undo")
    assert decoded(registry, registry.head()) == replaced
    assert verify(registry).problems == ()


def test_every_older_session_is_restored_from_its_patch(registry):
    older = {s.id: decoded(registry, s) for s in registry.sessions()}
    learn(registry, "cars", seed=1)
    learn(registry, "flags")
    assert {i: decoded(registry, registry.session(i)) for i in older} == older
    assert set(registry.packs()) >= set(older)


def test_gc_keeps_the_beginning_while_a_session_has_it(registry):
    beginning = registry.head()
    expert = beginning.entry("cars").expert
    registry.tag("quick", beginning, "tag")
    learn(registry, "cars", seed=1)
    for tagged in (True, False):
        if not tagged:
            registry.remove_tag("quick", "tag --delete")
        collect(registry, 1, undo=False)
        assert registry.blobs.exists(expert.head) == tagged
        assert registry.blobs.exists(expert.prototypes) == tagged
        assert verify(registry).problems == ()


# Interrupted, or overtaken


def test_where_head_has_moved_the_expert_waits_and_replaces_the_beginning_later(registry):
    parent = registry.head().id
    flags = learn(registry, "flags")
    with pytest.raises(HeadMovedError) as caught:
        commit_expert(registry, made_expert("cars", 1), parent=parent, command="learn")
    assert "condu learn --task cars --resume" in hint_of(caught.value)
    (done,) = resume(registry, "cars")
    assert done.session.parent == flags.id
    assert names(done.session) == ["birds", "digits", "flags", "cars"]
    assert (done.summary.tasks, registry.waiting.paths()) == (4, [])


def test_where_the_beginning_was_forgotten_the_waiting_expert_is_a_new_task(registry):
    waiting = keep_expert(registry, made_expert("cars", 1))
    forget(registry, "cars", "forget")
    session = resume_expert(registry, waiting, command="resume").session
    assert names(session) == ["birds", "digits", "cars"]


def test_where_the_task_was_learned_meanwhile_the_waiting_expert_is_refused(registry):
    waiting = keep_expert(registry, made_expert("cars", 1))
    learn(registry, "cars", seed=2)
    with pytest.raises(UsageError, match="already been learned"):
        resume_expert(registry, waiting, command="resume")
    assert registry.waiting.paths() == [waiting.path]


def test_a_waiting_beginning_does_not_replace_a_whole_expert(registry):
    waiting = keep_expert(registry, made_expert("birds", 1, quick=True))
    with pytest.raises(UsageError, match="already been learned"):
        resume_expert(registry, waiting, command="resume")


def test_an_expert_is_committed_once_although_its_file_was_left(registry, monkeypatch):
    """The program crashed between the commit and the removal of the file."""
    with monkeypatch.context() as patch:
        patch.setattr(registry.waiting, "remove", lambda path: None)
        session = learn(registry, "cars", seed=1)
    (waiting,) = registry.waiting.all()
    assert resume_expert(registry, waiting, command="resume") == session
    assert registry.waiting.paths() == []


def test_a_failure_leaves_the_beginning_and_no_new_blob(registry, monkeypatch):
    head, blobs = registry.head(), {ref.sha256 for ref in registry.blobs.all()}

    def fail(*_args, **_values):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(committing, "session_of_state", fail)
        with pytest.raises(OSError, match="No space left"):
            learn(registry, "cars", seed=1)
    assert registry.head() == head
    assert {ref.sha256 for ref in registry.blobs.all()} == blobs
    assert resume(registry, "cars")[0].summary.tasks == 3


def test_on_a_corrupt_state_nothing_is_built(registry):
    flip(registry.blobs.path(registry.head().shared), -1)
    head = registry.head()
    with pytest.raises(IntegrityError, match="corrupt"):
        learn(registry, "cars", seed=1)
    assert registry.head() == head
