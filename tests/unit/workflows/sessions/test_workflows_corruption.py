"""Errors about a corrupt file: its path, the sessions that need it, and only what helps."""

import pytest
from made_registries import files_of, flip, learn, made_expert, made_registry

from condu_cli.cli.hints.making import hint_for, hint_of
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.copies.backup import back_up_registry
from condu_cli.registry.manifest import short_id
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.corruption import consequences, explain
from condu_cli.workflows.sessions.forgetting import forget
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars", "digits")


def explained(registry: Registry, action, *args) -> ConduError:
    """The error that an action ends with, explained as the command line does."""
    with pytest.raises(IntegrityError) as caught:
        action(registry, *args)
    explain(registry, caught.value)
    return caught.value


def go_back(registry: Registry, steps: int = 1):
    return roll_back(registry, Aim(steps=steps), "rollback")


def back_up(registry: Registry):
    return back_up_registry(registry, registry.path.parent / "copy", lambda *_: None)


def relearn(registry: Registry):
    for task in ("birds", "cars", "digits"):
        learn(registry, task)


def commit(registry: Registry):
    return commit_expert(registry, made_expert("flags"), parent=registry.head().id, command="learn")


@pytest.mark.parametrize("action", [go_back, back_up, commit])
def test_where_all_sessions_need_a_file_no_rollback_to_one_is_offered(registry, action):
    path = registry.blobs.path(registry.head().shared)
    flip(path, -1)
    error = explained(registry, action)
    assert error.facts["at_fault"] == [str(path)]
    assert error.facts["needed_by"] == [short_id(s.id) for s in registry.sessions()]
    hint = hint_of(error)
    assert str(path) in hint
    assert "condu rollback -n 3 and learn the tasks again" in hint
    assert ("try condu rollback" in hint) == (action is not go_back)  # which has just failed


def test_the_advice_to_learn_again_works(registry):
    path = registry.blobs.path(registry.head().shared)
    flip(path, -1)
    go_back(registry, 3)
    assert registry.head() is None
    relearn(registry)
    collect(registry, None, undo=False)
    assert verify(registry).problems == ()


def test_corrupt_prototypes_cost_one_task(registry):
    third, second, _ = registry.sessions()
    flip(registry.blobs.path(third.entry("cars").expert.prototypes), -1)
    error = explained(registry, back_up)
    assert error.facts["needed_by"] == [short_id(third.id), short_id(second.id)]
    assert "or condu forget cars, then learn that task again" in hint_of(error)
    forget(registry, "cars", "forget")
    learn(registry, "cars")
    assert [e.name for e in registry.head().entries] == ["birds", "digits", "cars"]
    assert all("HEAD does not need it" in advice for advice in advice_of(registry))


def test_a_corrupt_head_beside_an_expert_costs_that_task_alone(registry):
    learn(registry, "flags", head=True)
    learn(registry, "trees", head=True)
    fifth, fourth, *_ = registry.sessions()
    expert = fifth.entry("flags").expert
    for blob in (expert.head, expert.prototypes):  # both may be corrupt, of one task
        flip(registry.blobs.path(blob), -1)
        error = explained(registry, back_up)
        assert error.facts["needed_by"] == [short_id(fifth.id), short_id(fourth.id)]
        assert "or condu forget flags, then learn that task again" in hint_of(error)
    forget(registry, "flags", "forget")
    learn(registry, "flags", seed=1, head=True)
    assert all("HEAD does not need it" in advice for advice in advice_of(registry))


def test_a_rollback_is_offered_to_a_session_that_does_not_need_the_file(registry):
    """As where sessions keep their files: codecs may have no patches."""
    third, second, _ = registry.sessions()
    facts = consequences(registry.history(), {third.shared}, {third.id}, {third.id})
    hint = hint_for("needed-file-damaged", facts)
    assert hint.endswith(f"does not need it: condu rollback {short_id(second.id)}")
    roll_back(registry, Aim(steps=2), "rollback")
    first = registry.head()
    flip(registry.blobs.path(first.shared), -1)
    (advice,) = advice_of(registry)
    assert advice.endswith(f"does not need it: condu rollback {short_id(third.id)}")
    roll_back(registry, Aim(short_id(third.id)), "rollback")
    collect(registry, None)
    assert verify(registry).problems == ()


def advice_of(registry) -> list[str]:
    return [hint_for(p.failure, p.facts) for p in verify(registry).problems]


def test_a_stale_patch_of_head_costs_nothing(registry):
    """HEAD has kept it from before the rollback."""
    third, second, first = registry.sessions()
    go_back(registry)
    flip(patch_of(registry, second), -1)
    (problem,) = verify(registry).problems
    assert problem.sessions == ()
    assert advice_of(registry) == ["No session needs it, and condu gc removes it"]
    assert "condu gc removes it" in hint_of(explained(registry, back_up))
    collect(registry, None)
    assert verify(registry).problems == ()
    back_up(registry)
    assert [s.id for s in registry.history().live] == [third.id, second.id, first.id]


def test_the_advice_costs_as_few_intact_sessions_as_possible(registry):
    """After a rollback by two, one patch less is worth more than what an undo restores."""
    third, second, first = registry.sessions()
    go_back(registry, 1)
    go_back(registry, 1)
    roll_back(registry, Aim(undo=True), "undo")
    flip(patch_of(registry, first), -1)
    error = explained(registry, go_back)
    assert "condu gc --keep 1 removes the sessions that do" in hint_of(error)
    assert "intact" not in hint_of(error)
    collect(registry, 1)
    assert verify(registry).problems == ()
    assert [s.id for s in registry.history().live] == [third.id, second.id]


def test_what_else_would_go_is_said(registry):
    third = registry.head()
    forget(registry, "digits", "forget")
    flip(registry.blobs.path(third.entry("digits").expert.prototypes), -1)
    hint = hint_of(explained(registry, back_up))
    assert hint.endswith(
        "condu gc --keep 1 removes the sessions that do, and 2 intact sessions too"
    )


def test_an_unreadable_file_may_only_lack_permissions(registry):
    shared = registry.head().shared
    error = IntegrityError(f"blob {shared} is unreadable", reason="blob-unreadable", blob=shared)
    explain(registry, error)
    assert "correct its permissions, or restore it from a backup" in hint_of(error)


def test_what_comes_back_wrong_names_the_file_that_it_is_made_from(registry):
    """The blob in memory has no file; what is corrupt is HEAD's, or a patch."""
    third, _, first = registry.sessions()
    for place in (registry.blobs.path(third.shared), patch_of(registry, first)):
        flip(place, -1)
        error = explained(registry, open_state, first)
        assert error.facts["at_fault"] == [str(place)]
        assert str(place) in hint_of(error)
        flip(place, -1)


def patch_of(registry, session):
    return registry.blobs.path(registry.packs()[session.id].patch)


def test_older_sessions_that_are_lost_may_be_given_up_where_head_is_sound(registry):
    third, second, first = registry.sessions()
    flip(patch_of(registry, first), -1)
    error = explained(registry, go_back, 2)
    assert error.facts["needed_by"] == [short_id(first.id)]
    assert "HEAD does not need it, and condu gc --keep 2 removes" in hint_of(error)
    collect(registry, 2)
    assert verify(registry).problems == ()
    assert [s.id for s in registry.history().live] == [third.id, second.id]


def test_sessions_off_heads_line_are_removed_without_shortening_it(registry):
    third = registry.head()
    go_back(registry)
    flip(registry.blobs.path(third.entry("digits").expert.prototypes), -1)
    error = explained(registry, back_up)
    assert "condu gc --no-undo removes" in hint_of(error)
    collect(registry, None, undo=False)
    assert verify(registry).problems == ()


def test_a_tagged_session_is_not_said_to_go(registry):
    first = registry.sessions()[-1]
    registry.tag("kept", first, "tag")
    flip(patch_of(registry, first), -1)
    hint = hint_of(explained(registry, go_back, 2))
    assert hint.endswith("restore it from a backup; HEAD does not need it")


def test_a_missing_file_is_named_too(registry):
    path = registry.blobs.path(registry.head().shared)
    path.unlink()
    for action in (go_back, back_up):
        assert f"need {path}; restore it" in hint_of(explained(registry, action))


def test_of_many_sessions_the_newest_are_named(registry):
    for task in ("a", "b", "c"):
        learn(registry, task)
    flip(registry.blobs.path(registry.head().shared), -1)
    hint = hint_of(explained(registry, go_back))
    named = [short_id(s.id) for s in registry.sessions()]
    assert f"Sessions {', '.join(named[:4])} and 2 more need" in hint
    assert named[4] not in hint


def test_an_error_that_names_its_file_reads_no_other(registry, monkeypatch):
    flip(registry.blobs.path(registry.head().shared), -1)
    with pytest.raises(IntegrityError) as caught:
        back_up(registry)

    def hashed(*_):
        raise AssertionError("a blob was hashed")

    monkeypatch.setattr(type(registry.blobs), "verify", hashed)
    explain(registry, caught.value)
    assert caught.value.facts["at_fault"]


def test_other_errors_are_left_as_they_are(registry):
    error = IntegrityError("the database", reason="database-corrupt", path="x")
    explain(registry, error)
    assert error.facts == {"path": "x"}
    before = files_of(registry.path)
    unknown = IntegrityError("blob", reason="blob-corrupt", blob="0" * 64)
    explain(registry, unknown)
    assert hint_of(unknown) == "condu verify lists every corrupt file"
    assert files_of(registry.path) == before
