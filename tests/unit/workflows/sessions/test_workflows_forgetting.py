"""Forget and rename create ordinary sessions, which a rollback reverts."""

import pytest
from made_registries import decoded, flip, learn, made_registry

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import IntegrityError, NotFoundError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.verification import verify


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds", "cars", "digits")


def names(session) -> list[str]:
    return [entry.name for entry in session.entries]


# Forget


@pytest.mark.parametrize(
    ("task", "left"),
    [
        ("birds", ["cars", "digits"]),
        ("cars", ["birds", "digits"]),
        ("digits", ["birds", "cars"]),
    ],
)
def test_a_forgotten_task_is_gone_and_the_others_keep_their_order(registry, task, left):
    before = registry.head()
    done = forget(registry, task, f"forget {task}")
    assert names(done.session) == left
    assert (done.session.kind, done.session.task) == ("forget", task)
    assert done.session.parent == done.parent.id == before.id
    assert registry.head() == done.session
    assert done.warnings == ()
    for entry in done.session.entries:
        assert entry.expert == before.entry(entry.name).expert
        assert entry.learned_in == before.entry(entry.name).learned_in
        assert entry.drift is not None
        assert entry.drift >= 0
    assert verify(registry).problems == ()


def test_the_state_is_the_codecs_without_the_expert(registry):
    codec, head = codec_for(registry.config), registry.head()
    wanted = codec.remove(open_state(registry, head), 1)
    found = open_state(registry, forget(registry, "cars", "forget").session)
    assert all((wanted.shared[name] == found.shared[name]).all() for name in wanted.shared)


def test_the_last_task_leaves_an_empty_session_that_can_be_built_upon(tmp_path):
    registry = made_registry(tmp_path / "one", "birds")
    session = forget(registry, "birds", "forget").session
    assert (session.shared, session.entries) == (None, ())
    assert names(learn(registry, "cars")) == ["cars"]
    with_birds = roll_back(registry, Aim(steps=2), "rollback")
    assert with_birds.to_session == session.parent
    assert verify(registry).problems == ()


def test_a_rollback_brings_the_task_back_bit_for_bit(registry):
    before = decoded(registry, registry.head())
    forget(registry, "cars", "forget")
    roll_back(registry, Aim(), "rollback")
    assert decoded(registry, registry.head()) == before


def test_a_forgotten_name_can_be_learned_again(registry):
    forget(registry, "cars", "forget")
    assert names(learn(registry, "cars", seed=1)) == ["birds", "digits", "cars"]


each_removal = pytest.mark.parametrize(
    "remove", [lambda r, task: forget(r, task, "f"), lambda r, task: rename(r, task, "x", "r")]
)


@each_removal
def test_an_unknown_task_is_an_error_that_names_a_similar_one(registry, remove):
    head = registry.head()
    with pytest.raises(NotFoundError, match="no task 'crs'") as caught:
        remove(registry, "crs")
    assert "Did you mean 'cars'" in hint_of(caught.value)
    assert registry.head() == head


@each_removal
def test_an_empty_registry_has_nothing_to_forget_or_rename(tmp_path, remove):
    with pytest.raises(NotFoundError, match="holds no tasks yet"):
        remove(made_registry(tmp_path / "empty"), "birds")


def test_a_corrupt_session_is_not_built_upon(registry):
    head = registry.head()
    path = registry.blobs.path(head.entry("digits").part)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with pytest.raises(IntegrityError, match="corrupt"):
        forget(registry, "cars", "forget")
    assert registry.head() == head


# Rename


def test_a_renamed_task_is_the_same_expert_with_the_same_blobs(registry):
    head = registry.head()
    done = rename(registry, "cars", "vehicles", "rename cars vehicles")
    session = done.session
    assert names(session) == ["birds", "vehicles", "digits"]
    assert session.state_blobs() == head.state_blobs()
    assert (session.kind, session.task, session.note) == ("rename", "vehicles", {"from": "cars"})
    assert {entry.drift for entry in session.entries} == {0.0}
    old, new = decoded(registry, head), decoded(registry, session)
    assert [*new.values()] == [*old.values()]
    assert verify(registry).problems == ()


def test_a_name_in_use_is_refused(registry):
    with pytest.raises(UsageError, match="there is already a task 'digits'"):
        rename(registry, "cars", "digits", "rename")


def test_the_same_name_is_not_a_new_name(registry):
    head = registry.head()
    with pytest.raises(UsageError):
        rename(registry, "cars", "cars", "rename")
    assert registry.head() == head


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "@"])
def test_what_cannot_be_a_name_is_refused(registry, name):
    with pytest.raises(UsageError):
        rename(registry, "cars", name, "rename")


def test_two_tasks_may_swap_their_names(registry):
    before = decoded(registry, registry.head())
    for old, new in (("cars", "x"), ("birds", "cars"), ("x", "birds")):
        rename(registry, old, new, "rename")
    after = decoded(registry, registry.head())
    assert (after["birds"], after["cars"]) == (before["cars"], before["birds"])


def test_nothing_is_renamed_in_a_corrupt_session_whose_patch_is_good(registry):
    newest, older, *_ = registry.sessions()
    wanted = decoded(registry, older)
    roll_back(registry, Aim(steps=1), "rollback")
    flip(registry.blobs.path(older.shared), -1)
    with pytest.raises(IntegrityError):
        rename(registry, older.entries[0].name, "another", "rename")
    assert older.id in registry.packs()
    roll_back(registry, Aim(session=newest.id), "rollback")
    roll_back(registry, Aim(session=older.id), "rollback")
    assert decoded(registry, older) == wanted
