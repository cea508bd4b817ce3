"""Comparing: what two sessions share, and what changed for one task."""

import numpy as np
import pytest
from made_registries import flip, learn, made_registry

from condu_cli.errors import IntegrityError, NotFoundError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.comparing import compare, task_history
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.states import open_state


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars")


def changes(found) -> list[tuple[str | None, str | None, str]]:
    return [(task.before, task.after, task.change) for task in found.tasks]


def test_a_learned_task_is_added_and_the_others_have_moved(registry):
    after, before = registry.sessions()
    found = compare(registry, before, after)
    assert changes(found) == [("birds", "birds", "changed"), (None, "cars", "added")]
    birds, cars = found.tasks
    assert birds.drift == pytest.approx(after.entry("birds").drift)
    assert (cars.drift, cars.mask_overlap) == (None, None)


def test_the_overlap_is_of_the_bits_that_either_has(registry):
    after, before = registry.sessions()
    codec = codec_for(registry.config)

    def bits(session):
        state = open_state(registry, session)
        deltas = codec.decode(state.shared, state.parts[0])
        return np.concatenate([values.ravel() != 0 for _, values in deltas])

    one, other = bits(before), bits(after)
    (birds, _) = compare(registry, before, after).tasks
    assert birds.mask_overlap == pytest.approx((one & other).sum() / (one | other).sum())


def test_a_session_is_the_same_as_itself(registry):
    head = registry.head()
    found = compare(registry, head, head)
    assert {task.change for task in found.tasks} == {"same"}
    assert {(task.drift, task.mask_overlap) for task in found.tasks} == {(0.0, 1.0)}
    assert found.before_bytes == found.after_bytes == found.shared_bytes > 0


def test_a_renamed_task_is_the_same_expert(registry):
    before = registry.head()
    after = rename(registry, "cars", "vehicles", "rename").session
    found = compare(registry, before, after)
    assert changes(found) == [("birds", "birds", "same"), ("cars", "vehicles", "renamed")]
    assert found.tasks[1].drift == 0.0
    assert found.shared_bytes == found.before_bytes == found.after_bytes


def test_a_forgotten_task_is_removed_and_backwards_added(registry):
    before = registry.head()
    after = forget(registry, "birds", "forget").session
    assert changes(compare(registry, before, after)) == [
        ("birds", None, "removed"),
        ("cars", "cars", "changed"),
    ]
    assert (None, "birds", "added") in changes(compare(registry, after, before))


def test_a_name_learned_again_is_another_expert(registry):
    before = registry.head()
    forget(registry, "cars", "forget")
    after = learn(registry, "cars", seed=1)
    assert ("cars", None, "removed") in changes(compare(registry, before, after))
    assert (None, "cars", "added") in changes(compare(registry, before, after))


def test_sessions_without_a_common_task_can_be_compared(registry):
    before = registry.sessions()[1]
    forget(registry, "birds", "forget")
    found = compare(registry, before, registry.head())
    assert changes(found) == [("birds", None, "removed"), (None, "cars", "added")]


def test_the_empty_state_has_nothing(registry):
    head = registry.head()
    found = compare(registry, None, head)
    assert found.before is None
    assert [change for *_, change in changes(found)] == ["added", "added"]
    assert (found.before_bytes, found.shared_bytes) == (0, 0)
    assert [c for *_, c in changes(compare(registry, head, None))] == ["removed", "removed"]
    assert compare(registry, None, None).tasks == ()


def test_an_empty_session_has_nothing_either(registry):
    head = registry.head()
    forget(registry, "birds", "forget")
    empty = forget(registry, "cars", "forget").session
    assert [c for *_, c in changes(compare(registry, head, empty))] == ["removed", "removed"]
    assert [c for *_, c in changes(compare(registry, empty, head))] == ["added", "added"]


def test_a_collected_session_cannot_be_compared(registry):
    after, before = registry.sessions()
    collect(registry, 1)
    with pytest.raises(NotFoundError, match="removed by garbage collection"):
        compare(registry, before, after)


def test_a_corrupt_session_is_an_error_that_names_it(registry):
    after, before = registry.sessions()
    flip(registry.blobs.path(registry.packs()[before.id].patch), -1)
    with pytest.raises(IntegrityError):
        compare(registry, before, after)


def test_a_task_has_a_moment_in_each_session_that_has_it(registry):
    rename(registry, "birds", "animals", "rename")
    learn(registry, "digits")
    head = registry.head()
    sessions = [head, *registry.ancestors(head)]
    moments = task_history(sessions, head.entry("animals"))
    assert [m.session for m in moments] == [s.id for s in sessions]
    assert [(m.kind, m.changed_by) for m in moments] == [
        ("learn", "digits"),
        ("rename", "animals"),
        ("learn", "cars"),
        ("learn", "birds"),
    ]
    assert [m.drift for m in moments][1::2] == [0.0, None]
    assert moments[0].drift > 0
    assert len(task_history(sessions, head.entry("digits"))) == 1
